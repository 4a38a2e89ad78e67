"""What a content security policy says of the code inside a page."""

import base64
import hashlib
import re


def hash_source(page: str, element: str) -> str:
    """Returns the source expression that allows an inline style or script.

    Args:
        page: the HTML; it has one such element without attributes.
        element: "style" or "script".
    """
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
