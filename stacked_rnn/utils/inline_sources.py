"""The content security policy of a page that is one file."""

import base64
import hashlib
import re


def policy(page: str, *more: str) -> str:
    """Builds the policy that allows the page's own inline style and script.

    All else is forbidden, but for images that are data, such as its icon.

    Args:
        page: the HTML as it will be sent; it has one style and one script
            element, without attributes.
        *more: further directives.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash_source(page, 'style')}",
            f"script-src {_hash_source(page, 'script')}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            *more,
        ]
    )


def _hash_source(page, element) -> str:
    """Returns the source expression that allows an inline style or script."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
