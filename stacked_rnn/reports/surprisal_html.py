"""A page that colours each character of a text by its surprise.

The picture of Karpathy, Johnson and Fei-Fei ("Visualizing and Understanding
Recurrent Networks", 2015): what the model saw coming is pale, what it did not
is dark. One file, no requests to anywhere.
"""

import codecs
import html

_DARKEST = 6.0  # nats and more: about 1 in 400
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Surprise of each character</title>
<style>
  body {{ font: 16px/1.6 ui-monospace, monospace; max-width: 60em;
         margin: 2em auto; padding: 0 1em; color: #111; background: #fff }}
  p.text {{ white-space: pre-wrap; overflow-wrap: anywhere }}
  span {{ padding: .15em 0 }}
  .prompt {{ border-bottom: 2px solid #888 }}
  .legend span {{ padding: .15em .6em }}
</style>
<h1>Surprise of each character</h1>
<p class="legend">Nats, &minus;log p: {legend}
  Point at a character to read its own. Underlined: what was given.</p>
{texts}
</html>
"""


def page(texts) -> str:
    """The page, HTML.

    Args:
        texts: list of texts; each a list of (token bytes, nats, whether it was
            given); nats None for a first token, which nothing predicts.
    """
    legend = " ".join(
        f'<span style="{_style(nats)}">{nats}{"+" * (nats == _DARKEST)}</span>'
        for nats in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, _DARKEST)
    )
    return _PAGE.format(
        legend=legend,
        texts="\n".join(
            f'<p class="text">{"".join(map(_span, _characters(text)))}</p>'
            for text in texts
        ),
    )


def _characters(tokens):
    """Joins tokens that are parts of a character, and adds their nats."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = None
    for token, nats, is_given in tokens:
        if nats is not None:
            pending = (pending or 0.0) + nats
        if text := decoder.decode(token):
            yield text, pending, is_given
            pending = None
    if rest := decoder.decode(b"", final=True):
        yield rest, pending, False


def _span(character):
    text, nats, is_given = character
    title = "given first" if nats is None else f"{nats:.2f} nats"
    kind = ' class="prompt"' if is_given else ""
    return (
        f'<span{kind} style="{_style(nats)}" title="{title}">'
        f"{html.escape(text)}</span>"
    )


def _style(nats):
    """From white to red; the letters stay dark and legible."""
    share = min((nats or 0.0) / _DARKEST, 1.0)
    return (
        f"background:rgb(255,{255 - 130 * share:.0f},{255 - 165 * share:.0f})"
    )
