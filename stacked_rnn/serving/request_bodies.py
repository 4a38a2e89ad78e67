"""The bodies of requests to OpenAI's and vLLM's routes: parsing and checking.

What clients send beside the fields that a route has is ignored, and named in
the answer. A request is refused at its first error, so that refusing a huge
invalid one is fast.
"""

import itertools
import json
import re
from typing import Annotated

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from stacked_rnn.serving.errors import ApiError

_MOST_NAMED = 20  # ignored fields of an object
_OUT_OF_RANGE = ("greater_than_equal", "less_than_equal", "less_than")


class Body(pydantic.BaseModel):
    """A JSON object in which null stands for the default.

    Integers may be written as floats, such as 1e2; unknown fields are ignored.
    """

    model_config = pydantic.ConfigDict(extra="ignore", strict=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _clean(cls, values):
        if not isinstance(values, dict):
            return values
        return {
            name: int(value)
            if isinstance(value, float) and value.is_integer()
            else value
            for name in cls.model_fields
            if (value := values.get(name)) is not None
        }


def is_unicode(text) -> bool:
    """Whether UTF-8 can encode a string: JSON allows lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_string(value):
    """Checks a string."""
    if not isinstance(value, str) or not is_unicode(value):
        raise PydanticCustomError("text", "expected a string")
    return value


def checked_token_ids(value):
    """Checks a list of token ids, which may be empty."""
    if value != [] and not (isinstance(value, list) and _are_token_ids(value)):
        raise PydanticCustomError("ids", "expected a list of token ids")
    return value


def _are_token_ids(value) -> bool:
    return {*map(type, value)} == {int} and min(value) >= 0


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def text_check(most) -> pydantic.BeforeValidator:
    """Checks one or more texts: strings, or lists of token ids.

    Validating a union gives an error per member and element. So this checks the
    value first, and raises a single one.

    Args:
        most: most texts in a list.
    """

    def checked(value):
        is_valid = isinstance(value, str) and is_unicode(value)
        if isinstance(value, list):
            is_valid = _are_token_ids(value) or (
                len(value) <= most and _are_texts(value)
            )
        if not is_valid:
            raise PydanticCustomError(
                "texts",
                "expected a string, a list of token ids, or a list of at most "
                f"{most} strings or lists of token ids; no empty list",
            )
        return value

    return pydantic.BeforeValidator(checked)


def _are_texts(values) -> bool:
    kinds = {*map(type, values)}
    return (kinds == {str} and all(map(is_unicode, values))) or (
        kinds == {list} and all(map(_are_token_ids, values))
    )


def as_list(value) -> list:
    """Returns what `text_check` has passed as a list of texts."""
    if isinstance(value, str) or isinstance(value[0], int):
        return [value]
    return [*value]


def parse(body, kind) -> tuple:
    """Parses and checks the body of a request.

    Args:
        body: JSON, bytes.
        kind: the class of the request, a `Body`.

    Returns:
        The request, of that class, and the names of fields that are ignored,
        as ASCII.

    Raises:
        ApiError: the first error in it.
    """
    try:
        values = json.loads(
            body.decode("utf-8-sig"), parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not UTF-8") from None
    except json.JSONDecodeError as error:
        reason = (
            f"{error.msg}, character {error.pos}" if body else "it is empty"
        )
        raise ApiError(400, f"The body is not JSON: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}") from None
    try:
        request = kind.model_validate(values)
    except pydantic.ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        name = ".".join(map(str, first["loc"]))[:100] or None
        message = first["msg"]
        if first["type"] == "model_type":
            message = "expected a JSON object"
        elif first["type"] == "string_unicode":
            message = "not Unicode: a lone surrogate"
        elif first["type"] in _OUT_OF_RANGE:
            message = f"expected {_range(kind.model_fields[name].metadata)}"
        raise ApiError(400, f"{name or 'The body'}: {message}", name) from None
    return request, [*_unknown_fields(kind, values)]


def _refuse_constant(name):
    """Refuses NaN, which is within any range, and Infinity."""
    raise ValueError(f"it has {name}")


def _unknown_fields(kind, values, prefix=""):
    """Yields the names of the first fields that a `Body` lacks, as ASCII."""
    unknown = (name for name in values if name not in kind.model_fields)
    for name in itertools.islice(unknown, _MOST_NAMED):
        yield prefix + re.sub(r"[^\w.-]", "?", name[:50], flags=re.ASCII)
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Body):
            yield from _unknown_fields(
                inner, values.get(name) or {}, f"{prefix}{name}."
            )


def _range(rules) -> str:
    """Describes the numbers that pass the rules of a field."""
    low, high, below = (
        next((getattr(rule, name) for rule in rules if hasattr(rule, name)), "")
        for name in ("ge", "le", "lt")
    )
    if below:
        return f"a number from {low} to below {below}"
    return f"a number from {low} to {high}" if high != "" else f"at least {low}"
