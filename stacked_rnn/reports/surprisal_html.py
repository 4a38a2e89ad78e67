"""An HTML page that colours each character of a text by its surprisal.

As in Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent
Networks" (2015), expected characters are pale and surprising ones dark. The
page is one file, without external resources.
"""

import codecs
import html

_DARKEST = 6.0  # nats or more: a probability of about 1 in 400
# `--hot` is the colour of the most surprising characters.
STYLE = """\
  :root { color-scheme: light dark; --hot: rgb(255, 125, 90) }
  @media (prefers-color-scheme: dark) { :root { --hot: #ad3a1d } }
  .text { white-space: pre-wrap; overflow-wrap: anywhere }
  .text span, .legend span { padding: .15em 0; background: color-mix(in srgb,
    var(--hot) calc(var(--share) * 100%), transparent) }
  .legend span { padding: .15em .6em }
  .prompt { border-bottom: 2px solid #888 }"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Surprisal per character</title>
<style>
  body {{ font: 16px/1.6 ui-monospace, monospace; max-width: 60em;
    margin: 2em auto; padding: 0 1em; color: #111; background: #fff }}
  @media (prefers-color-scheme: dark) {{
    body {{ color: #ebe7df; background: #171614 }} }}
{style}
</style>
<h1>Surprisal per character</h1>
<p class="legend">{legend}
  Point at a character to read its value. The prompt is underlined.</p>
{texts}
</html>
"""
# The colour suits a light and a dark notebook.
_FRAGMENT = """<div class="surprisal">
<style>
  .surprisal p {{ font: 15px/1.6 ui-monospace, monospace;
    white-space: pre-wrap; overflow-wrap: anywhere }}
  .surprisal span {{ background: color-mix(in srgb, #e8613c
    calc(var(--share) * 80%), transparent) }}
</style>
{text}
</div>"""


def page(texts) -> str:
    """Returns the HTML page.

    Args:
        texts: list of texts, each a list of (token bytes, nats, whether the
            token is part of the prompt). The nats of a first token, which
            nothing predicts, are None.
    """
    return _PAGE.format(
        style=STYLE, legend=legend(), texts="\n".join(map(paragraph, texts))
    )


def legend() -> str:
    """Returns the HTML of the scale; it needs `STYLE` and class legend."""
    return "Nats, &minus;log p: " + " ".join(
        f'<span style="{_style(nats)}">{nats}{"+" * (nats == _DARKEST)}</span>'
        for nats in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, _DARKEST)
    )


def fragment(tokens) -> str:
    """Returns the HTML of one text of `page`, to show in a notebook."""
    return _FRAGMENT.format(text=paragraph(tokens))


def paragraph(tokens) -> str:
    """Returns the HTML of one text of `page`; it needs `STYLE`."""
    spans = "".join(
        _span(text, *_total(tokens[part]))
        for text, part in whole_characters([token for token, *_ in tokens])
    )
    return f'<p class="text">{spans}</p>'


def whole_characters(tokens):
    """Joins the bytes of tokens to whole characters.

    Args:
        tokens: list of byte strings.

    Yields:
        A text of at least one character, and the slice of its tokens.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start = 0
    for end, token in enumerate(tokens, start=1):
        if text := decoder.decode(token):
            yield text, slice(start, end)
            start = end
    if rest := decoder.decode(b"", final=True):
        yield rest, slice(start, len(tokens))


def _total(tokens):
    """Returns the sum of the nats, and whether the last is of the prompt."""
    nats = [nats for _, nats, _ in tokens if nats is not None]
    return sum(nats) if nats else None, tokens[-1][2]


def _span(text, nats, is_prompt):
    title = "not predicted" if nats is None else f"{nats:.2f} nats"
    css_class = ' class="prompt"' if is_prompt else ""
    return (
        f'<span{css_class} style="{_style(nats)}" title="{title}">'
        f"{html.escape(text)}</span>"
    )


def _style(nats):
    """Returns the share of `--hot` in the background."""
    return f"--share:{min((nats or 0.0) / _DARKEST, 1.0):.2f}"
