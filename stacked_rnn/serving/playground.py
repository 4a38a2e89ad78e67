"""The page at `/`: the model at one's fingertips, in a browser.

One file that asks nobody but the server that it came from, and a policy that
holds the browser to that.
"""

import base64
import hashlib
import importlib.resources
import re


def page() -> str:
    """The page, HTML."""
    files = importlib.resources.files(__package__)
    return (files / "playground.html").read_text("utf-8")


def content_security_policy(page: str) -> str:
    """The header Content-Security-Policy for a page.

    It runs and wears what is written in the page, nothing that found its way
    in later, and talks to its own server alone.

    Args:
        page: HTML with one style and one script element, without attributes,
            as it will be sent.
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
