"""The web page at `/`, for trying models in a browser.

A single file that sends requests to its own server only, and a content security
policy that makes the browser enforce it.
"""

import importlib.resources

from stacked_rnn.utils import inline_sources


def page(max_tokens=4096) -> str:
    """Reads the HTML of the page.

    Args:
        max_tokens: the most tokens that the server generates.
    """
    files = importlib.resources.files(__package__)
    html = (files / "playground.html").read_text("utf-8")
    return html.replace(
        "MOST_TOKENS = 4096;", f"MOST_TOKENS = {max_tokens};", 1
    )


def content_security_policy(page: str) -> str:
    """Builds the header Content-Security-Policy for a page.

    Only the page's own inline style and script are allowed, and only requests
    to its own server.

    Args:
        page: see `inline_sources.policy`.
    """
    return inline_sources.policy(
        page, "connect-src 'self'", "frame-ancestors 'none'"
    )
