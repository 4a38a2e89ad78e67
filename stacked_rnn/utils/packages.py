"""Packages that only some commands need."""

import importlib.util

from stacked_rnn.configs import UserError


def require(package, named, extra) -> None:
    """Checks that a package is installed.

    Args:
        package: the name that it is imported by.
        named: what needs it, a flag with its value.
        extra: the extra of this project that has it.

    Raises:
        UserError: it is missing.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{named}: {package} is missing: "
            f"pip install --editable '.[{extra}]'"
        )
