"""An HTML page that colours each character of a text by its surprisal.

As in Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent
Networks" (2015), expected characters are pale and surprising ones dark. The
page is one file, without external resources.
"""

import codecs
import html

_DARKEST = 6.0  # nats or more: a probability of about 1 in 400
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Surprisal per character</title>
<style>
  body {{ font: 16px/1.6 ui-monospace, monospace; max-width: 60em;
         margin: 2em auto; padding: 0 1em; color: #111; background: #fff }}
  p.text {{ white-space: pre-wrap; overflow-wrap: anywhere }}
  span {{ padding: .15em 0 }}
  .prompt {{ border-bottom: 2px solid #888 }}
  .legend span {{ padding: .15em .6em }}
</style>
<h1>Surprisal per character</h1>
<p class="legend">Nats, &minus;log p: {legend}
  Point at a character to read its value. The prompt is underlined.</p>
{texts}
</html>
"""


def page(texts) -> str:
    """Returns the HTML page.

    Args:
        texts: list of texts, each a list of (token bytes, nats, whether the
            token is part of the prompt). The nats of a first token, which
            nothing predicts, are None.
    """
    legend = " ".join(
        f'<span style="{_style(nats)}">{nats}{"+" * (nats == _DARKEST)}</span>'
        for nats in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, _DARKEST)
    )
    return _PAGE.format(
        legend=legend,
        texts="\n".join(
            f'<p class="text">{_spans(text)}</p>' for text in texts
        ),
    )


def paragraph(text) -> str:
    """Returns a paragraph to show within another page, such as a notebook.

    Args:
        text: a list as of `page`.
    """
    return (
        '<p style="font: 15px/1.6 ui-monospace, monospace; color: #111; '
        'white-space: pre-wrap; overflow-wrap: anywhere">'
        f"{_spans(text)}</p>"
    )


def _spans(text) -> str:
    return "".join(map(_span, _characters(text)))


def _characters(tokens):
    """Yields (text, nats, is_prompt), joining tokens to whole characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = None
    for token, nats, is_prompt in tokens:
        if nats is not None:
            pending = (pending or 0.0) + nats
        if text := decoder.decode(token):
            yield text, pending, is_prompt
            pending = None
    if rest := decoder.decode(b"", final=True):
        yield rest, pending, False


def _span(character):
    text, nats, is_prompt = character
    title = "not predicted" if nats is None else f"{nats:.2f} nats"
    css_class = ' class="prompt"' if is_prompt else ""
    return (
        f'<span{css_class} style="{_style(nats)}" title="{title}">'
        f"{html.escape(text)}</span>"
    )


def _style(nats):
    """Returns a background from white to a red that keeps letters legible."""
    share = min((nats or 0.0) / _DARKEST, 1.0)
    return (
        f"background:rgb(255,{255 - 130 * share:.0f},{255 - 165 * share:.0f})"
    )
