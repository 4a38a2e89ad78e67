"""TensorFlow Serving's REST API as functions, without sockets or a framework.

Requests are parsed as TensorFlow Serving parses them, and answered with its
status codes and mostly with its messages. Four things differ:

    - An input with a default value in the signature may be left out;
      TensorFlow Serving allows that over gRPC only.
    - Inputs that the signature does not have, and objects with duplicate keys,
      are refused.
    - A request that is not UTF-8 is refused: `{"b64": ...}` takes any bytes.
    - Bytes of a string output that are not UTF-8 become U+FFFD, unless the name
      of the output ends in `_bytes`: then it is in base64.

A bad request never raises anything but a `ServingError`.
"""

import base64
import dataclasses
import itertools
import json
import math
import pathlib
import re
import sys
import urllib.parse

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

_VERSION = "(/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PATHS = {  # by HTTP method
    "GET": f"/v1/models(/(?P<name>[^/:]+))?{_VERSION}(/(?P<action>metadata))?",
    "POST": f"/v1/models/(?P<name>[^/:]+){_VERSION}"
    ":(?P<action>classify|regress|predict)",
}
_STATUSES = {  # TensorFlow error code -> HTTP status; all others: 500
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNAUTHENTICATED: 401,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.ABORTED: 409,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.CANCELLED: 499,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DEADLINE_EXCEEDED: 504,
}
_INTERNALS = re.compile(  # parts of a message to hide from clients
    r"^ *\(0\) \w+: *"  # the first of several errors
    r"|{{.*?}} *| *\[Op:\w+\]"  # the node, the operation
    r"|(?<![\w/])/(?:[^\s/]+/)+"  # the directories of a path
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one request.

    Attributes:
        new_tokens: most `max_new_tokens` per text.
        beams: most `num_beams` per text.
        rows: most texts, or rows of other inputs, times beams.
        tokens: most tokens of all rows together. A row counts the bytes of the
            longest text, plus `max_new_tokens` times beams.
        numbers: most numbers in the answer.
        memory: most numbers that a call may hold at a time, about.
    """

    new_tokens: int = sys.maxsize
    beams: int = sys.maxsize
    rows: int = sys.maxsize
    tokens: int = sys.maxsize
    numbers: int = sys.maxsize
    memory: int = sys.maxsize

    def check(self, inputs, defaults) -> None:
        """Checks the inputs of a signature.

        Args:
            inputs: dict of input name -> tensor.
            defaults: the options that it takes where they are not given, too.

        Raises:
            ServingError: they exceed a limit.
        """
        given, most = defaults | inputs, {}
        for name, limit in (
            ("max_new_tokens", self.new_tokens), ("num_beams", self.beams),
        ):  # fmt: skip
            values = given[name].numpy() if name in given else np.array([])
            most[name] = int(values.max(initial=0))
            if most[name] > limit:
                message = f"{name}: at most {limit}"
                if name not in inputs:
                    message += (
                        f", and {most[name]} by default: ask for fewer, by the "
                        "signature generate (seq2seq: search), or serve with a "
                        "larger --max_tokens"
                    )
                raise ServingError(message)
        beams, tensors = max(1, most["num_beams"]), inputs.values()
        rows = _num_rows(inputs)
        if rows * beams > self.rows:
            raise ServingError(
                f"{rows} rows" + f" of {beams} beams" * (beams > 1)
                + f": at most {self.rows} at once"
            )  # fmt: skip
        texts = [one for one in tensors if one.dtype == tf.string and rows]
        lengths = [int(tf.reduce_max(tf.strings.length(one))) for one in texts]
        longest = max(lengths, default=0)
        if rows * (longest + beams * most["max_new_tokens"]) > self.tokens:
            raise ServingError(
                f"{rows} rows, the longest of {longest} bytes, and up to "
                f"{most['max_new_tokens']} new tokens for each of {beams} "
                f"beam(s): more than {self.tokens} tokens at once: send fewer "
                "rows, or long and short texts in separate requests"
            )


class ServingError(Exception):
    """An error for the client.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message, status=400):
        # One line, even if it quotes several lines of the request.
        super().__init__(r"\n".join(message.splitlines()))
        self.status = status


def error_body(message) -> bytes:
    """Formats the message of a `ServingError` as JSON."""
    return json.dumps({"error": str(message)}).encode()


def from_tensorflow(error) -> ServingError:
    """Makes a `ServingError` of one line, without internals of the model.

    Args:
        error: a `tf.errors.OpError`. If a graph raised it, the lines of its
            message are: "Graph execution error:", the node, its origin, the
            actual message, and the node again.
    """
    lines = error.message.split("\n\t [[")[0].strip().splitlines() or [""]
    line = lines[-1 if lines[0].startswith("Graph execution error") else 0]
    return ServingError(
        _INTERNALS.sub("", line) or type(error).__name__,
        _STATUSES.get(error.error_code, 500),
    )


@dataclasses.dataclass(frozen=True)
class Target:
    """The meaning of a path.

    Attributes:
        model_name: the name of the model.
        version: a version of it, or None.
        label: the label of a version, or None.
        action: "predict", "metadata" or "status".
    """

    model_name: str
    version: int | None
    label: str | None
    action: str


def parse_path(method, path) -> Target:
    """Parses the path of a request.

    Args:
        method: "GET" or "POST"; any other is refused.
        path: the path without its query, not yet URL-decoded.

    Raises:
        ServingError: there is no such route.
    """
    match = method in _PATHS and re.fullmatch(
        _PATHS[method], path, re.ASCII | re.IGNORECASE
    )
    if not match:
        raise ServingError(f"Malformed request: {method} {path}")
    name, version, label = match.group("name", "version", "label")
    if not name:
        raise ServingError("Missing model name in request.")
    if version:
        digits = version.lstrip("0") or "0"
        # `int` raises for thousands of digits.
        if len(digits) > 19 or int(digits) >= 2**63:
            raise ServingError(
                f"Failed to convert version: {version} to numeric."
            )
        version = int(digits)
    action = (match["action"] or "status").lower()
    kinds = {"classify": "classification", "regress": "regression"}
    if action in kinds:
        raise ServingError(
            f"Expected {kinds[action]} signature method_name to be "
            f"tensorflow/serving/{action}. Was: tensorflow/serving/predict"
        )
    return Target(
        urllib.parse.unquote(name),
        version,
        label and urllib.parse.unquote(label),
        action,
    )


def status(versions) -> dict:
    """Builds the answer with the states of a model's versions.

    Args:
        versions: dict of version -> (state, error code, error message). The
            states are START, LOADING, AVAILABLE, UNLOADING and END; the error
            code is OK where there is no error.
    """
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state,
                "status": {"error_code": code, "error_message": message},
            }
            for version, (state, code, message) in sorted(
                versions.items(), reverse=True
            )
        ]
    }


def metadata(path, model_name, version) -> bytes:
    """Builds the answer with the signatures of a version, as JSON.

    Args:
        path: the directory of the version. It is read because a loaded
            SavedModel lacks the names of the tensors and the default values.
        model_name, version: what it is served as.
    """
    saved_model = saved_model_pb2.SavedModel.FromString(
        pathlib.Path(path, "saved_model.pb").read_bytes()
    )
    signatures = {
        name: json_format.MessageToDict(
            signature,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
        )
        for name, signature in sorted(
            saved_model.meta_graphs[0].signature_def.items()
        )
    }
    answer = {
        "model_spec": {
            "name": model_name,
            "signature_name": "",
            "version": str(version),
        },
        "metadata": {"signature_def": {"signature_def": signatures}},
    }
    return json.dumps(answer).encode()


def predict(
    functions,
    body,
    limits=Limits(),
    row_size=lambda name, inputs: 1,
    defaults=lambda name: {},
) -> bytes:
    """Answers a predict request: runs a signature on the inputs in the body.

    Args:
        functions: a loaded SavedModel.
        body: the request, JSON bytes.
        limits: the limits of the request.
        row_size: (name of the signature, inputs) -> how many numbers a call
            holds at a time for each row. More rows than have room are computed
            one part after the other, so they must not depend on each other.
        defaults: name of the signature -> see `Limits.check`.

    Returns:
        The answer, JSON bytes.

    Raises:
        ServingError: the request is invalid, or the signature failed.
    """
    request = _parse(body)
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise ServingError("'signature_name' key must be a string value.")
    name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    if name not in functions.signatures:
        raise ServingError(
            f'Serving signature name: "{name}" not found in signature def'
        )
    function = functions.signatures[name]
    specs = function.structured_input_signature[1]
    values = _values(request, specs)
    if missing := specs.keys() - values.keys():
        # A loaded signature has lost its default values. The function of the
        # same name, which the signature was made from, still has them.
        function = getattr(functions, name, None)
        if isinstance(function, tf.types.experimental.PolymorphicFunction):
            missing -= {
                parameter.name
                for parameter in function.function_type.parameters.values()
                if parameter.default is not parameter.empty
            }
        if missing:
            raise ServingError(
                f"Missing named input: {', '.join(sorted(missing))}"
            )
    try:
        inputs = {key: _tensor(key, specs[key], values[key]) for key in values}
        limits.check(inputs, defaults(name))
        outputs = _call(function, inputs, row_size(name, inputs), limits)
        columns = {key: _to_json(key, outputs[key]) for key in sorted(outputs)}
    except tf.errors.OpError as error:
        raise from_tensorflow(error) from error
    if "inputs" in request:
        answer = {"outputs": _bare(columns)}
    else:
        sizes = {tuple(output.shape[:1]) for output in outputs.values()}
        if len(sizes) > 1 or () in sizes:
            raise ServingError(
                "The outputs have no common batch size: use 'inputs' instead "
                "of 'instances'"
            )
        rows = zip(*columns.values())
        answer = {
            "predictions": [_bare(dict(zip(columns, row))) for row in rows]
        }
    return _dumped(answer).encode()


def _call(signature, inputs, row_size, limits) -> dict:
    """Calls a signature with as many rows at a time as have room."""
    if row_size > limits.memory:
        raise ServingError(
            f"A row would take {row_size:,} numbers in memory, and may take "
            f"{limits.memory:,}: send shorter texts"
        )
    rows, size = _num_rows(inputs), limits.memory // row_size
    parts, numbers = [], 0
    for start in range(0, max(rows, 1), size):
        part = {
            # A single value is for all rows.
            name: tensor[start : start + size]
            if tensor.shape.rank and tensor.shape[0] == rows
            else tensor
            for name, tensor in inputs.items()
        }
        parts.append(signature(**part))
        numbers += sum(int(tf.size(output)) for output in parts[-1].values())
        if numbers > limits.numbers:
            raise ServingError(
                f"The answer would have {numbers} numbers or more, and may "
                f"have {limits.numbers}: send fewer rows"
            )
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _num_rows(inputs) -> int:
    sizes = [one.shape[0] for one in inputs.values() if one.shape.rank]
    return max(sizes, default=1)


def _joined(parts) -> tf.Tensor:
    """Joins an output of several calls: pads it to the longest, with zeros."""
    if len(parts) == 1:
        return parts[0]
    longest = np.max([part.shape[1:] for part in parts], axis=0).tolist()
    return tf.concat(
        [
            tf.pad(
                part,
                [
                    (0, 0),
                    *((0, n - m) for n, m in zip(longest, part.shape[1:])),
                ],
            )
            for part in parts
        ],
        axis=0,
    )


# From JSON --------------------------------------------------------------------


def _parse(body) -> dict:
    if not body:
        raise ServingError("JSON Parse error: The document is empty")
    try:
        request = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise ServingError(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise ServingError("JSON Value: Is not object")
    return request


def _unique(pairs) -> dict:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ServingError("JSON Parse error: an object has a duplicate key")
    return members


def _values(request, specs) -> dict:
    """Returns input name -> nested lists."""
    if "inputs" in request and "instances" in request:
        raise ServingError(
            "Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist"
        )
    if "inputs" in request:
        values = request["inputs"]
        if not _has_names(values):
            values = {_only_input(specs): values}
    elif "instances" in request:
        values = _columns(request["instances"], specs)
    else:
        raise ServingError("Missing 'inputs' or 'instances' key")
    for name in values:
        if name not in specs:
            raise ServingError(
                f"There is no input {name[:100]!r}: the signature has "
                + ", ".join(sorted(specs))
            )
    return values


def _columns(rows, specs) -> dict:
    if not isinstance(rows, list):
        raise ServingError("Expecting 'instances' to be a list/array")
    if not rows:
        raise ServingError("No values in 'instances' array")
    if not any(map(_has_names, rows)):
        return {_only_input(specs): rows}
    for index, row in enumerate(rows):
        if not _has_names(row) or row.keys() != rows[0].keys():
            raise ServingError(
                f"Failed to process element: {index} of 'instances' list. "
                "Expecting objects only, all with the same keys"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _has_names(value) -> bool:
    """Whether a value is an object of inputs, not `{"b64": ...}` for bytes."""
    return isinstance(value, dict) and not (
        value.keys() == {"b64"} and isinstance(value["b64"], str)
    )


def _only_input(specs) -> str:
    """The name of the only input, for a value without a name."""
    if len(specs) != 1:
        raise ServingError(
            "Expecting an object as multiple input tensors required: "
            + ", ".join(sorted(specs))
        )
    return next(iter(specs))


def _tensor(name, spec, value) -> tf.Tensor:
    """Converts nested lists to the tensor of an input."""
    shape, values = [], [value]
    while values and isinstance(values[0], list):
        size = len(values[0])
        for part in values:
            if not isinstance(part, list) or len(part) != size:
                raise ServingError(
                    f"{name}: Encountered list at unexpected size at level: "
                    f"{len(shape)} expected size: {size}"
                )
        shape.append(size)
        values = list(itertools.chain.from_iterable(values))
    if not spec.shape.is_compatible_with(shape):
        raise ServingError(
            f"{name}: Expecting shape {spec.shape} but got: {shape}"
        )
    if spec.dtype == tf.string:
        values = [_string(name, value) for value in values]
    else:
        _check(name, spec.dtype, values)
    numpy_dtype = spec.dtype.as_numpy_dtype
    # bfloat16, unlike a double, cannot be made of huge integers.
    wide = np.float64 if spec.dtype.is_floating else numpy_dtype
    return tf.constant(
        np.array(values, wide).astype(numpy_dtype), spec.dtype, shape
    )


def _string(name, value) -> bytes:
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and not _has_names(value):
            text = value["b64"]
            padding = "=" * (-len(text) % 4)  # may be left out
            return base64.b64decode(text + padding, validate=True)
    except ValueError as error:
        raise ServingError(f"{name}: not valid base64 or Unicode") from error
    raise _wrong_type(name, tf.string, value)


def _check(name, dtype, values):
    """Raises a `ServingError` where a value does not fit a type."""
    if dtype.is_bool:
        types, low, high = (bool,), False, True
    elif dtype.is_integer:
        types, low, high = (int,), dtype.min, dtype.max
    elif dtype.is_floating:
        # Clients may write the largest float32 as a slightly larger double.
        high = min(float(dtype.max) * (1 + 2**-25), sys.float_info.max)
        types, low = (int, float), -high
    else:
        raise ServingError(
            f"{name}: Conversion of JSON Value to type: {dtype.name}", 501
        )
    for value in values:
        if (
            type(value) not in types  # to `isinstance` a bool is an int
            or high < value < math.inf
            or -math.inf < value < low
        ):
            raise _wrong_type(name, dtype, value)


def _wrong_type(name, dtype, value) -> ServingError:
    shown = {list: "Array", dict: "Object"}.get(type(value))
    return ServingError(
        f"{name}: JSON Value: {shown or json.dumps(value)[:60]} is not of "
        f"expected type: {dtype.name}"
    )


# To JSON ----------------------------------------------------------------------


def _to_json(name, output):
    """Converts an output to nested lists of JSON values."""
    values = np.asarray(output.numpy(), output.dtype.as_numpy_dtype)
    if output.dtype == tf.string and name.endswith("_bytes"):
        written = [
            {"b64": base64.b64encode(value).decode()}
            for value in values.ravel()
        ]
    elif output.dtype == tf.string:
        written = [value.decode("utf-8", "replace") for value in values.ravel()]
    elif output.dtype.is_floating and output.dtype.size < 8:
        # As few digits as identify the float: 0.2, not 0.200000003.
        written = [
            float(str(value)) for value in values.astype(np.float32).ravel()
        ]
    else:
        return values.tolist()
    return np.array(written, object).reshape(values.shape).tolist()


def _dumped(value) -> str:
    """`json.dumps`, in parts, so that other threads may run between them."""
    if isinstance(value, dict):
        members = (f"{json.dumps(key)}: {_dumped(value[key])}" for key in value)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return "[" + ", ".join(map(_dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _bare(values):
    """Returns outputs by name; a single one without its name."""
    return values if len(values) > 1 else next(iter(values.values()))
