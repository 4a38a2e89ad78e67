"""The page of surprises, read by an HTML parser."""

import html.parser

from stacked_rnn.reports import surprisal_html


class Reader(html.parser.HTMLParser):
    """Collects (text, title, style, class) of the spans in the texts."""

    def __init__(self, page):
        super().__init__()
        self.spans, self.open, self.in_text = [], None, False
        self.addresses = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[k] for k in ("src", "href") if k in values]
        if tag == "p":
            self.in_text = values.get("class") == "text"
        if tag == "span" and self.in_text:
            self.open = ["", values["title"], values["style"]]
            self.open.append(values.get("class"))
            self.spans.append(self.open)

    def handle_endtag(self, tag):
        if tag == "span":
            self.open = None

    def handle_data(self, data):
        if self.open is not None:
            self.open[0] += data


def test_each_character_shows_its_surprise():
    page = Reader(
        surprisal_html.page(
            [[(b"<", None, True), (b"a&", 0.0, True), (b"\n", 9.0, False)]]
        )
    )
    assert page.spans == [
        ["<", "not predicted", "--share:0.00", "prompt"],
        ["a&", "0.00 nats", "--share:0.00", "prompt"],
        ["\n", "9.00 nats", "--share:1.00", None],
    ]
    assert page.addresses == []  # the page loads nothing


def test_nats_of_the_bytes_of_a_character_add_up():
    euro = [(bytes([byte]), 0.5, False) for byte in "\u20ac!".encode()]
    spans = Reader(surprisal_html.page([euro, [(b"\xff", 1.0, False)]])).spans
    assert [span[:2] for span in spans] == [
        ["\u20ac", "1.50 nats"],
        ["!", "0.50 nats"],
        ["\ufffd", "1.00 nats"],
    ]


def test_a_character_cut_short_is_shown():
    spans = Reader(surprisal_html.page([[(b"\xe2", 0.5, False)]])).spans
    assert [span[:2] for span in spans] == [["\ufffd", "0.50 nats"]]
