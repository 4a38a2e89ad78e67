"""An HTML page that shows what happens inside a language model.

It is one file, without external resources. The values of the units are in it as
bytes in base64, one per unit and character.
"""

import base64
import dataclasses
import html
import importlib.resources
import json
import re

import numpy as np

from stacked_rnn import metrics
from stacked_rnn.reports import surprisal_html

_MOST_VALUES = 3_000_000  # four megabytes in base64
_GATES = {
    "i": ("input gate i", "how much of the candidate enters"),
    "f": ("forget gate f", "how much of c survives"),
    "o": ("output gate o", "how much of c shows"),
    "z": ("update gate z", "how much of h survives"),
    "r": ("reset gate r", "how much of h the candidate sees"),
}
_QUANTITIES = {
    "lstm": "tanh(c) of its cell",
    "gru": "its state h",
    "simple_rnn": "its state h",
}
_SIDE, _LEFT, _TOP = 220, 44, 10  # of a scatter plot, in its own units


@dataclasses.dataclass(frozen=True, eq=False)  # of arrays
class Inspection:
    """What the page shows.

    Attributes:
        name: name of the model.
        about: sentences about the model and the text.
        cell: the cell of its layers.
        tokens: list of (token bytes, nats, False), see `surprisal_html.page`.
        pieces: the tokens, joined to whole characters: strings.
        values: [pieces, layers, units], between -1 and 1.
        gates: gates[layer][name], [tokens, units].
        search: the `metrics.UnitSearch` over the values.
        chosen: the `metrics.ChosenUnit`s to show.
        is_own_choice: whether the user has named them.
        embedding_dim: number of dimensions of an embedding.
        neighbours: a list of (token bytes, [(token bytes, cosine), ...]).
    """

    name: str
    about: list
    cell: str
    tokens: list
    pieces: tuple
    values: np.ndarray
    gates: list
    search: metrics.UnitSearch
    chosen: list
    is_own_choice: bool
    embedding_dim: int
    neighbours: list

    @property
    def has_all_units(self) -> bool:
        """Whether the values of all units fit into a page."""
        return self.values.size <= _MOST_VALUES

    def title(self, unit) -> str:
        """Says why a unit is shown."""
        if unit.is_for_memory:
            return f"changes slowly, over {unit.memory:,} tokens"
        return unit.feature or "nothing in the text varies"

    def detail(self, unit) -> str:
        """Says which unit it is, and how well it follows a feature."""
        layer, index = divmod(unit.column, self.values.shape[2])
        place = f"layer {layer + 1}, unit {index + 1}"
        if not unit.feature:
            return place
        correlation = f"r = {_signed(unit.correlation)}"
        if unit.is_for_memory:
            return f"{place}; {unit.feature}, {correlation}"
        return f"{place}; {correlation} (chance {unit.chance:.2f})"


def page(inspection) -> str:
    """Returns the HTML of the page about an `Inspection`."""
    files = importlib.resources.files(__package__)
    template = (files / "inspection.html").read_text("utf-8")
    parts = _parts(inspection)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _parts(inspection) -> dict[str, str]:
    """The HTML of each part of the template."""
    _, num_layers, units = inspection.values.shape
    columns = [unit.column for unit in inspection.chosen]
    if inspection.has_all_units:
        columns = [*range(num_layers * units)]
    return {
        "name": html.escape(inspection.name),
        "about": html.escape(" ".join(inspection.about)),
        "surprisal_style": surprisal_html.STYLE,
        "surprisal_legend": surprisal_html.legend(),
        "surprisal_text": surprisal_html.paragraph(inspection.tokens),
        "loss": _loss(inspection.tokens),
        "quantity": _QUANTITIES[inspection.cell],
        "choice": _choice(inspection),
        "cards": "\n".join(
            _card(inspection, unit) for unit in inspection.chosen
        ),
        "picker": (
            _picker(num_layers, units) if inspection.has_all_units else ""
        ),
        "reading": "".join(
            f"<span>{html.escape(text)}</span>" for text in inspection.pieces
        ),
        "gates": _gates(inspection.gates),
        "random_cosine": f"{inspection.embedding_dim**-0.5:.2f}",
        "neighbours": _neighbours(inspection.neighbours),
        "data": _data(inspection, columns),
    }


def _loss(tokens) -> str:
    nats = [nats for _, nats, _ in tokens if nats is not None]
    if not nats:
        return ""
    return f"On average a token costs {np.mean(nats):.2f} nats."


def _choice(inspection) -> str:
    sentences = []
    if not inspection.is_own_choice:
        sentences.append(
            "The program has counted simple features of the text and chosen "
            "the unit with the highest correlation r for each, if it is higher "
            "than by chance: than that of any unit with the feature moved "
            "along the text."
        )
    if any(unit.is_for_memory for unit in inspection.chosen):
        sentences.append("At the end come units that change slowly.")
    if not inspection.has_all_units:
        _, num_layers, units = inspection.values.shape
        sentences.append(
            f"The values of all {num_layers * units:,} units would make the "
            "page too large: it has these alone."
        )
    return " ".join(sentences)


def _card(inspection, unit) -> str:
    return (
        f'<button type="button" class="unit" data-column="{unit.column}" '
        'aria-pressed="false">'
        f"<b>{html.escape(inspection.title(unit))}</b>"
        f"<small>{html.escape(inspection.detail(unit))}</small>"
        '<canvas width="280" height="1" aria-hidden="true"></canvas></button>'
    )


def _signed(number) -> str:
    return f"{number:+.2f}".replace("-", "\N{MINUS SIGN}")


def _picker(num_layers, units) -> str:
    layers = "".join(
        f'<option value="{layer}">{layer}</option>'
        for layer in range(1, num_layers + 1)
    )
    return (
        '<div class="any"><span>Any unit:</span>'
        f'<label>layer <select id="layer">{layers}</select></label>'
        '<label>unit <input type="number" id="unit" value="1" min="1" '
        f'max="{units}"></label></div>'
    )


def _data(inspection, columns) -> str:
    """The data of the script, JSON."""
    num_pieces, _, units = inspection.values.shape
    values = inspection.values.reshape(num_pieces, -1)
    search = inspection.search
    best, best_correlations = search.best_features()
    quantized = np.rint(127 * values[:, columns].T).astype(np.int8)
    data = {
        "units": units,
        "columns": columns,
        "first": inspection.chosen[0].column if inspection.chosen else 0,
        "features": search.feature_names,
        "best": best[columns].tolist(),
        "correlations": np.rint(100 * best_correlations[columns])
        .astype(int)
        .tolist(),
        "values": base64.b64encode(quantized.tobytes()).decode(),
    }
    return json.dumps(data, separators=(",", ":"))


# Gates ------------------------------------------------------------------------


def _gates(gates) -> str:
    if not gates[0]:
        return '<p class="note">A simple RNN has no gates.</p>'
    fractions = {
        name: [metrics.saturation(layer[name]) for layer in gates]
        for name in gates[0]
    }
    keys = "".join(
        '<span class="layer"><span class="key" '
        f'style="background:var(--layer-{layer})"></span>layer {layer}</span> '
        for layer in range(1, len(gates) + 1)
    )
    figures = "".join(
        f"<figure><figcaption><b>{_GATES[name][0]}</b>, {_GATES[name][1]}"
        f"</figcaption>{_scatter(name, points)}</figure>"
        for name, points in fractions.items()
    )
    rows = "".join(
        f'<tr><th scope="row">{_GATES[name][0]}, layer {layer}</th>'
        f"<td>{closed.mean():.0%}</td><td>{opened.mean():.0%}</td></tr>"
        for name, points in fractions.items()
        for layer, (closed, opened) in enumerate(points, start=1)
    )
    return (
        '<p class="note">A circle is a unit: how often its gate is nearly '
        "closed, below 0.1, and how often nearly open, above 0.9. At the "
        "bottom left it is mostly in between, at the diagonal always one or "
        f'the other.</p><p class="legend">{keys}</p>'
        f'<div class="gates">{figures}</div><div class="scroll"><table>'
        '<thead><tr><th scope="col">mean of the units</th>'
        '<th scope="col">closed</th><th scope="col">open</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _scatter(name, points) -> str:
    """Draws a plot of the fractions as SVG.

    Args:
        name: of the gate.
        points: for each layer the fractions closed and open, [units] each.
    """
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    ticks = "".join(
        f'<text x="{_LEFT + share * _SIDE:g}" y="{bottom + 14}" '
        f'text-anchor="middle">{share:g}</text>'
        f'<text x="{_LEFT - 5}" y="{bottom - share * _SIDE + 4:g}" '
        f'text-anchor="end">{share:g}</text>'
        for share in (0, 0.5, 1)
    )
    circles = "".join(
        f'<circle cx="{_LEFT + x * _SIDE:.1f}" cy="{bottom - y * _SIDE:.1f}" '
        f'r="3.5" style="fill:var(--layer-{layer})"/>'
        for layer, (closed, opened) in enumerate(points, start=1)
        for x, y in zip(opened, closed)
    )
    return (
        f'<svg viewBox="0 0 {right + 12} {bottom + 34}" role="img" '
        f'aria-label="{_GATES[name][0]}: fractions of tokens, of each unit; '
        'the table below has the means">'
        f'<line x1="{_LEFT}" y1="{_TOP}" x2="{right}" y2="{bottom}"/>'
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" '
        f'y2="{bottom}"/><line class="axis" x1="{_LEFT}" y1="{bottom}" '
        f'x2="{right}" y2="{bottom}"/>{ticks}'
        f'<text x="{(_LEFT + right) / 2:g}" y="{bottom + 28}" '
        'text-anchor="middle">open: fraction above 0.9</text>'
        f'<text transform="translate(11 {(_TOP + bottom) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">closed: fraction below 0.1</text>{circles}</svg>'
    )


# Tokens -----------------------------------------------------------------------


def _neighbours(neighbours) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_visible(token)}</th>'
        + "".join(
            f"<td>{_visible(other)} <small>{_signed(cosine)}</small></td>"
            for other, cosine in others
        )
        + "</tr>"
        for token, others in neighbours
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _visible(token) -> str:
    """The HTML of a token with marks for blanks and bytes."""
    text = token.decode("utf-8", "backslashreplace")
    for blank, mark in ((" ", "\u2423"), ("\n", "\u21b5"), ("\t", "\u21e5")):
        text = text.replace(blank, mark)
    return f"<kbd>{html.escape(text)}</kbd>"
