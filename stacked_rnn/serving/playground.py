"""The web page at `/`, for trying models in a browser.

A single file that sends requests to its own server only, and a content security
policy that makes the browser enforce it.
"""

import base64
import hashlib
import importlib.resources
import re


def page() -> str:
    """Reads the HTML of the page."""
    files = importlib.resources.files(__package__)
    return (files / "playground.html").read_text("utf-8")


def content_security_policy(page: str) -> str:
    """Builds the header Content-Security-Policy for a page.

    Only the page's own inline style and script are allowed, and only requests
    to its own server.

    Args:
        page: the HTML as it will be sent; it has one style and one script
            element, without attributes.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash(page, 'style')}",
            f"script-src {_hash(page, 'script')}",
            "connect-src 'self'",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _hash(page, element):
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
