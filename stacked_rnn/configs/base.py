"""Configurations: frozen dataclasses whose fields are the settings.

A field carries its default, its help and its check. The flags are generated
from the fields, so that each setting is written once.
"""

import dataclasses
import difflib
import math
import os
import re


class UserError(ValueError):
    """An error that the user can fix.

    The message is one line: it names the flag or the file, and the fix. The
    commands print it without a traceback and exit with code 2.
    """


class DiskError(UserError):
    """A `UserError` because a file cannot be written."""


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\"}


def unescaped(text) -> str:
    r"""Replaces the escapes of a flag's value: \n, \t, \r, \s (space), \\."""
    return re.sub(r"\\([ntrs\\])", lambda match: _ESCAPES[match[1]], text)


def escaped(text) -> str:
    r"""Writes a flag's value on one line, always in the same way.

    Line breaks and tabs become \n, \r and \t, spaces at the ends \s.
    """
    text = unescaped(text).replace("\\", "\\\\")
    for letter in "ntr":
        text = text.replace(_ESCAPES[letter], f"\\{letter}")
    inner = text.lstrip(" ")
    before = len(text) - len(inner)
    after = len(inner) - len(inner.rstrip(" "))
    return r"\s" * before + inner.rstrip(" ") + r"\s" * after


def check_encodable(name, text) -> None:
    """Raises a `UserError` where a flag has bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--{name}={text!r}: not UTF-8: check the terminal's locale"
        ) from None


def check_names(names, *config_classes) -> None:
    """Raises a `UserError` for a name that no configuration has."""
    known = [
        field.name
        for cls in config_classes
        for field in dataclasses.fields(cls)
    ]
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            advice = f": did you mean {similar[0]}?" if similar else ""
            raise UserError(f"{name}: there is no such setting{advice}")


def _is_numpy_scalar(value) -> bool:
    return type(value).__module__ == "numpy" and value.shape == ()


def plain_values(values) -> dict:
    """Returns settings with the scalars of NumPy as numbers of Python."""
    return {
        name: value.item() if _is_numpy_scalar(value) else value
        for name, value in values.items()
    }


def setting(
    default,
    help,
    *,
    choices=None,
    minimum=-math.inf,
    maximum=math.inf,
    below=math.inf,
    is_path=False,
    is_internal=False,
    is_regularizer=False,
):
    """A dataclass field with its help and its check.

    Args:
        default: the default. The field's annotation (`int`, `float`, `bool`,
            `str`, `tuple[str, ...]`) gives the flag's type.
        help: what the setting does, for `--help`.
        choices: the allowed strings; None: any.
        minimum, maximum: the range of a number, ends included.
        below: a number must be less than this.
        is_path: whether it is a path, in which ~ is the home directory.
        is_internal: whether other settings set it; `--help` leaves it out.
        is_regularizer: whether it has an effect in training only.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "below": below,
        "is_path": is_path,
        "is_internal": is_internal,
        "is_regularizer": is_regularizer,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base class: checks its fields, and converts to and from JSON values."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict):
        """The inverse of `to_dict`, also after a trip through JSON."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(
                f"{cls.__name__} has no setting named {', '.join(unknown)}: "
                "it was written by another version of stacked_rnn"
            )
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )

    def differences(self, other) -> list[str]:
        """Lists the fields that differ, each as `name: OTHER, not SELF`."""
        return [
            f"{field.name}: {getattr(other, field.name)}, "
            f"not {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def checked(field, value):
    """Checks a value of a setting, and returns it with the type of the setting.

    Args:
        field: the field of a `Config`.
        value: what it is to be.

    Raises:
        UserError: naming the flag and what it expects.
    """
    name, rules = field.name, field.metadata
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if field.type in (int, float):
        kinds = (int, float) if field.type is float else (int,)
        low, high, below = rules["minimum"], rules["maximum"], rules["below"]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UserError(
                f"--{name}={value!r}: expected type {field.type.__name__}"
            )
        if not (low <= value <= high and value < below):  # catches NaN too
            lower = f"{low} <= " if low > -math.inf else ""
            upper = f" <= {high}" if high < math.inf else ""
            upper = f" < {below}" if below < math.inf else upper
            raise UserError(f"--{name}={value}: expected {lower}{name}{upper}")
    elif field.type in (bool, bool | None):
        if not isinstance(value, field.type):
            raise UserError(f"--{name}={value!r}: expected True or False")
    elif field.type is str and not isinstance(value, str):
        raise UserError(f"--{name}={value!r}: expected a string")
    elif rules["choices"] and value not in rules["choices"]:
        raise UserError(
            f"--{name}={value!r}: expected one of "
            + ", ".join(rules["choices"])
        )
    if field.type is float:
        return float(value)  # of an int, TensorFlow makes an int32
    return os.path.expanduser(value) if rules["is_path"] else value
