"""TensorFlow Serving's REST API against direct calls and official messages."""

import base64
import json
import re
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from stacked_rnn.serving import served_model, tf_serving
from stacked_rnn.serving.tf_serving import ServingError

PROMPTS = ["abc", "", "h a\nb"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def functions(loaded):
    return loaded.functions


ECHOED = {
    "text": tf.TensorSpec([None], tf.string),
    "raw_bytes": tf.TensorSpec([None], tf.string),
    "flag": tf.TensorSpec([None], tf.bool),
    "small": tf.TensorSpec([None], tf.int8),
    "count": tf.TensorSpec([None], tf.int32),
    "seed": tf.TensorSpec([None, None], tf.int64),
    "large": tf.TensorSpec([None], tf.uint64),
    "half": tf.TensorSpec([None], tf.bfloat16),
    "score": tf.TensorSpec([None], tf.float32),
    "exact": tf.TensorSpec([None], tf.float64),
}


@pytest.fixture(scope="module")
def saved_echo(tmp_path_factory):
    """Signatures that return their inputs, of many types and shapes."""
    module = tf.Module()
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name)
        for name, spec in ECHOED.items()
    }
    signatures = {
        "all": tf.function(lambda **values: values).get_concrete_function(
            **specs
        ),
        "scalar": tf.function(
            lambda x: {"x": x, "x_bytes": tf.as_string(x)}
        ).get_concrete_function(tf.TensorSpec([], tf.float32, "x")),
        "sum": tf.function(
            lambda x: {"sum": tf.reduce_sum(x)}
        ).get_concrete_function(tf.TensorSpec([None], tf.float32, "x")),
        "twice": tf.function(
            lambda x: {"once": x, "twice": tf.concat([x, x], 0)}
        ).get_concrete_function(tf.TensorSpec([None], tf.float32, "x")),
        "complex": tf.function(
            lambda x: {"x": tf.math.real(x)}
        ).get_concrete_function(tf.TensorSpec([None], tf.complex64, "x")),
        "any": tf.function(lambda x: {"x": x}).get_concrete_function(
            tf.TensorSpec(None, tf.float32, "x")
        ),
    }
    for name, spec in specs.items():
        signatures[name] = tf.function(
            lambda x, name=name: {name: tf.identity(x)}
        ).get_concrete_function(tf.TensorSpec(spec.shape, spec.dtype, "x"))
    directory = str(tmp_path_factory.mktemp("echo"))
    tf.saved_model.save(module, directory, signatures)
    return directory


@pytest.fixture(scope="module")
def echo(saved_echo):
    return tf.saved_model.load(saved_echo)


def ask(functions, **request):
    return json.loads(
        tf_serving.predict(functions, json.dumps(request).encode())
    )


def refused(functions, body) -> ServingError:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with pytest.raises(ServingError) as error:
        tf_serving.predict(functions, body)
    answer = json.loads(tf_serving.error_body(error.value))
    assert answer == {"error": str(error.value)}
    assert "\n" not in str(error.value)
    return error.value


def as_json(tensor):
    """Converts a tensor that is not float32 to what JSON shows."""
    values = np.array(tensor, object)
    return np.frompyfunc(
        lambda value: value.decode() if isinstance(value, bytes) else value,
        1, 1,
    )(values).tolist()  # fmt: skip


def assert_same(answer, tensor):
    if tensor.dtype.is_floating:
        values = np.array(answer, tensor.dtype.as_numpy_dtype)
        assert np.array_equal(values, tensor)
    else:
        assert answer == as_json(tensor)


# Against direct calls


@pytest.mark.parametrize(
    ("signature", "key"),
    [("score", "texts"), ("embed", "texts"), ("prefill", "prompts")],
)
def test_a_signature_gives_what_a_call_gives(functions, signature, key):
    expected = functions.signatures[signature](tf.constant(PROMPTS))
    name = {"signature_name": signature}
    by_column = ask(functions, inputs={key: PROMPTS}, **name)["outputs"]
    by_row = ask(functions, instances=PROMPTS, **name)["predictions"]
    if len(expected) == 1:
        (output,) = expected.values()
        assert_same(by_column, output)
        assert_same(by_row, output)
        return
    assert by_column.keys() == expected.keys()
    for output, tensor in expected.items():
        assert_same(by_column[output], tensor)
        assert_same([row[output] for row in by_row], tensor)


@pytest.mark.parametrize(
    ("signature", "key"),
    [("generate", "prompts"), ("score", "texts"), ("embed", "texts")],
)
def test_columns_without_rows_are_accepted(functions, signature, key):
    answer = ask(functions, inputs={key: []}, signature_name=signature)
    outputs = answer["outputs"]
    columns = outputs.values() if isinstance(outputs, dict) else [outputs]
    assert all(column == [] for column in columns)


def test_the_default_signature_takes_and_gives_bare_values(functions):
    expected = functions.signatures["serving_default"](tf.constant(PROMPTS))
    texts = as_json(expected["texts"])
    named = [{"prompts": prompt} for prompt in PROMPTS]
    assert ask(functions, instances=PROMPTS) == {"predictions": texts}
    assert ask(functions, instances=named) == {"predictions": texts}
    assert ask(functions, inputs=PROMPTS) == {"outputs": texts}
    assert ask(functions, inputs={"prompts": PROMPTS}) == {"outputs": texts}
    assert ask(functions, inputs=PROMPTS, signature_name="") == {
        "outputs": texts
    }


def test_each_row_has_its_own_options(functions):
    options = {
        "max_new_tokens": [5, 0, 9],
        "temperature": [1.0, 0.0, 0.5],
        "top_k": [0, 2, 3],
        "top_p": [1, 0.5, 0.9],
        "repetition_penalty": [1.0, 1.0, 1.5],
        "seed": [1, 2**62, -(2**63)],
    }
    expected = functions.signatures["generate"](
        prompts=tf.constant(PROMPTS),
        **{
            name: tf.constant(
                values,
                functions.signatures["generate"]
                .structured_input_signature[1][name]
                .dtype,
            )
            for name, values in options.items()
        },
    )
    inputs = {"prompts": PROMPTS, **options}
    instances = [
        dict(zip(inputs, row)) for row in zip(*inputs.values(), strict=True)
    ]
    name = {"signature_name": "generate"}
    by_column = ask(functions, inputs=inputs, **name)["outputs"]
    by_row = ask(functions, instances=instances, **name)["predictions"]
    for output, tensor in expected.items():
        assert_same(by_column[output], tensor)
        assert_same([row[output] for row in by_row], tensor)


def test_an_input_with_a_default_value_may_be_left_out(functions):
    texts = ask(functions, inputs=PROMPTS)["outputs"]
    name = {"signature_name": "generate"}
    by_column = ask(functions, inputs={"prompts": PROMPTS}, **name)["outputs"]
    assert by_column["texts"] == texts
    rows = [{"prompts": prompt} for prompt in PROMPTS]
    by_row = ask(functions, instances=rows, **name)["predictions"]
    assert [row["texts"] for row in by_row] == texts
    short = ask(
        functions, inputs={"prompts": PROMPTS, "max_new_tokens": [3]}, **name
    )["outputs"]
    assert short["lengths"] == [3, 3, 3]
    assert short["texts"] == [text[:3] for text in texts]
    assert short["token_ids"] == [row[:3] for row in by_column["token_ids"]]


def test_decode_steps_can_be_chained_through_json(functions):
    """A client's loop over `decode_step`, without losing a digit."""
    new = ask(functions, inputs=PROMPTS, signature_name="prefill")["outputs"]
    tensors = functions.signatures["prefill"](tf.constant(PROMPTS))
    for _ in range(3):
        token_ids = np.argmax(new.pop("logits"), axis=1)
        tensors = dict(tensors)
        del tensors["logits"]
        tensors = functions.signatures["decode_step"](
            token_ids=tf.constant(token_ids, tf.int32), **tensors
        )
        new = ask(
            functions,
            inputs={"token_ids": token_ids.tolist(), **new},
            signature_name="decode_step",
        )["outputs"]
        assert_same(new["logits"], tensors["logits"])


def test_a_request_of_the_official_messages_gives_the_same(functions):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "generate"
    inputs = {
        "prompts": PROMPTS,
        "max_new_tokens": [6],
        "temperature": [0.8],
        "top_k": [3],
        "top_p": [0.9],
        "repetition_penalty": [1.1],
        "seed": [7],
    }
    signature = functions.signatures["generate"]
    specs = signature.structured_input_signature[1]
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(
            tf.make_tensor_proto(values, specs[name].dtype)
        )
    received = predict_pb2.PredictRequest.FromString(
        request.SerializeToString()
    )
    outputs = signature(
        **{
            name: tf.constant(tf.make_ndarray(proto))
            for name, proto in received.inputs.items()
        }
    )
    answer = ask(functions, inputs=inputs, signature_name="generate")["outputs"]
    assert answer["texts"] == as_json(outputs["texts"])
    assert answer["token_ids"] == as_json(outputs["token_ids"])


# Values


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("text", ["", "a\u20ac\U0001f600\x00", "\u2028"]),
        ("flag", [True, False]),
        ("small", [-128, 127]),
        ("count", [-(2**31), 2**31 - 1]),
        ("seed", [[-(2**63), 2**63 - 1], [0, 1]]),
        ("seed", [[], []]),
        ("large", [0, 2**64 - 1]),
        ("half", [1.5, -INF, 0.0]),
        ("score", [0.1, 0.2, 1e-45, 3.4028235e38, -0.0, INF, -INF, 16777216.0]),
        ("exact", [0.1, 5e-324, 1.7976931348623157e308, INF]),
    ],
)
def test_values_come_back_as_they_were_sent(echo, name, values):
    name = {"signature_name": name}
    assert ask(echo, inputs=values, **name) == {"outputs": values}
    assert ask(echo, instances=values, **name) == {"predictions": values}


@given(values=st.lists(st.floats(width=32), max_size=9))
@settings(max_examples=30, deadline=None)
def test_no_float_is_changed(echo, values):
    answer = ask(echo, inputs=values, signature_name="score")["outputs"]
    np.testing.assert_array_equal(
        np.array(answer, np.float32), np.array(values, np.float32)
    )


def test_nan_and_infinity_survive_json(echo):
    body = b'{"signature_name": "score", "inputs": [NaN, -Infinity, 0.5]}'
    answer = tf_serving.predict(echo, body)
    assert answer == b'{"outputs": [NaN, -Infinity, 0.5]}'


def test_whole_floats_are_accepted_as_integers(echo):
    assert ask(echo, inputs=[1, 2.0], signature_name="score") == {
        "outputs": [1.0, 2.0]
    }


def test_inputs_and_outputs_without_dimensions(echo):
    answer = ask(echo, inputs=0.5, signature_name="scalar")["outputs"]
    assert answer["x"] == 0.5
    assert base64.b64decode(answer["x_bytes"]["b64"]) == b"0.500000"
    error = refused(echo, {"signature_name": "scalar", "instances": [0.5]})
    assert "x: Expecting shape () but got: [1]" in str(error)


def test_rows_need_outputs_with_one_batch_size(echo):
    assert ask(echo, inputs=[1, 2], signature_name="sum") == {"outputs": 3.0}
    assert ask(echo, inputs=[1, 2], signature_name="twice") == {
        "outputs": {"once": [1.0, 2.0], "twice": [1.0, 2.0, 1.0, 2.0]}
    }
    for signature in ("sum", "twice"):
        request = {"signature_name": signature, "instances": [1, 2]}
        error = refused(echo, request)
        assert error.status == 400
        assert "no common batch size" in str(error)


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc\0\0", b"\xff\xfe"])
def test_bytes_are_base64(echo, data):
    text = base64.b64encode(data).decode()
    for encoded in (text, text.rstrip("=")):
        value = {"b64": encoded}
        expected = {"b64": text}
        assert ask(echo, instances=[value], signature_name="raw_bytes") == {
            "predictions": [expected]
        }
        assert ask(echo, inputs=[value], signature_name="raw_bytes") == {
            "outputs": [expected]
        }
    assert ask(echo, instances=[{"b64": text}], signature_name="text") == {
        "predictions": [data.decode("utf-8", "replace")]
    }


def test_all_types_in_a_row(echo):
    row = {
        "text": "a",
        "raw_bytes": {"b64": "/w=="},
        "flag": True,
        "small": 1,
        "count": 2,
        "seed": [3, 4],
        "large": 5,
        "half": 0.5,
        "score": 0.25,
        "exact": 0.1,
    }
    assert ask(echo, instances=[row, row], signature_name="all") == {
        "predictions": [row, row]
    }
    for name in row:
        error = refused(
            echo,
            {"signature_name": "all", "instances": [row, row | {name: None}]},
        )
        assert str(error).startswith(f"{name}: ")


# Refused requests


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" ", r"JSON Parse error: .*\(char 1\)"),
        (b'{"inputs": [1}', r"JSON Parse error: .*\(char 13\)"),
        (b'{"inputs": "\xff"}', "JSON Parse error: .*utf-8.* position 12"),
        (b"[" * 100_000, "JSON Parse error: .*recursion"),
        (b'{"a":' * 100_000, "JSON Parse error: .*recursion"),
        (b'{"inputs": 1' + b"0" * 5000 + b"}", "JSON Parse error: .*limit"),
        (b'{"inputs": [], "inputs": []}', "duplicate key"),
        (b'{"inputs": {"prompts": [], "prompts": []}}', "duplicate key"),
        (b'{"inputs": ["\\ud800"]}', "prompts: not valid .* Unicode"),
        ([], "Is not object"),
        (None, "Is not object"),
        ("inputs", "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"Inputs": ["a"]}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": ["a"], "instances": ["a"]}, "only one of 'inputs' or"),
        ({"signature_name": 5, "inputs": ["a"]}, "must be a string"),
        ({"signature_name": None, "inputs": ["a"]}, "must be a string"),
        (
            {"signature_name": "x", "inputs": ["a"]},
            'Serving signature name: "x" not found in signature def',
        ),
        ({"signature_name": "begin", "inputs": ["a"]}, "not found"),
        ({"signature_name": "__class__", "inputs": ["a"]}, "not found"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": "abc"}, "'instances' to be a list"),
        ({"instances": {"prompts": ["a"]}}, "'instances' to be a list"),
        ({"instances": ["a", {"prompts": "b"}]}, "element: 0"),
        ({"instances": [{"prompts": "b"}, "a"]}, "element: 1"),
        ({"instances": [{"prompts": "b"}, {}]}, "element: 1"),
        ({"instances": [{}]}, "Missing named input: prompts"),
        (
            {"instances": [{"prompt": "a"}]},
            "no input 'prompt': the signature has prompts",
        ),
        (
            {"inputs": {"prompt": ["a"]}},
            "no input 'prompt': the signature has prompts",
        ),
        (
            {"inputs": {"prompts": ["a"], "seed": [1]}},
            "no input 'seed': the signature has prompts",
        ),
        ({"inputs": {}}, "Missing named input: prompts"),
        ({"inputs": "a"}, r"prompts: Expecting shape \(None,\) but got: \[\]"),
        ({"inputs": None}, r"prompts: Expecting shape"),
        ({"inputs": [["a"]]}, r"prompts: Expecting shape .* got: \[1, 1\]"),
        ({"instances": [["a"]]}, r"prompts: Expecting shape"),
        ({"instances": [["a"], ["a", "b"]]}, "prompts: .*unexpected size"),
        ({"instances": [["a"], "b"]}, "prompts: .*unexpected size"),
        ({"instances": ["b", ["a"]]}, "prompts: .*Array is not of expected"),
        ({"inputs": [[], ["a"]]}, "prompts: .*unexpected size"),
        ({"inputs": [5]}, "prompts: JSON Value: 5 is not .* type: string"),
        ({"inputs": [None]}, "prompts: JSON Value: null is not .*: string"),
        ({"inputs": [True]}, "prompts: JSON Value: true is not .*: string"),
        ({"inputs": [{"a": 1}]}, "prompts: JSON Value: Object is not"),
        ({"inputs": [{"b64": 1}]}, "prompts: JSON Value: Object is not"),
        ({"inputs": [{"b64": "", "x": 1}]}, "prompts: JSON Value: Object"),
        ({"inputs": [{"b64": "?"}]}, "prompts: not valid base64"),
        ({"inputs": [{"b64": "YQ=a"}]}, "prompts: not valid base64"),
        ({"inputs": [{"b64": "YQ===="}]}, "prompts: not valid base64"),
        ({"inputs": [{"b64": "\u20ac"}]}, "prompts: not valid base64"),
    ],
)
def test_a_wrong_request_is_explained(functions, body, message):
    error = refused(functions, body)
    assert error.status == 400
    assert re.search(message, str(error))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("temperature", ["a"], 'temperature: JSON Value: "a" is not .*float32'),
        ("temperature", [True], "temperature: JSON Value: true is not"),
        ("temperature", [None], "temperature: JSON Value: null is not"),
        ("temperature", [1e39], r"temperature: JSON Value: 1e\+39 is not"),
        ("temperature", [10**400], "temperature: JSON Value: 10000"),
        ("temperature", [{"b64": ""}], "temperature: JSON Value: Object is"),
        ("temperature", 0.5, "temperature: Expecting shape"),
        ("temperature", [[0.5]], "temperature: Expecting shape"),
        ("temperature", [-0.5], "temperature: expected 0 <= temperature < inf"),
        ("temperature", [NAN], "temperature: expected 0 <= temperature < inf"),
        ("top_k", [-1], "top_k: expected 0 <= top_k"),
        ("top_p", [0.0], "top_p: expected 0 < top_p <= 1"),
        ("top_p", [1.5], "top_p: expected 0 < top_p <= 1"),
        ("repetition_penalty", [0.0], "expected 0 < repetition_penalty < inf"),
        ("top_k", [1.0], "top_k: JSON Value: 1.0 is not .*: int32"),
        ("top_k", [2**31], "top_k: JSON Value: 2147483648 is not .*: int32"),
        ("top_k", [False], "top_k: JSON Value: false is not .*: int32"),
        ("top_k", ["1"], 'top_k: JSON Value: "1" is not .*: int32'),
        ("seed", [2**63], "seed: JSON Value: 9223372036854775808 is not"),
        ("seed", [-(2**63) - 1], "seed: JSON Value: -9223372036854775809"),
        ("seed", [1, 2, 3], "[Ss]hape"),
        ("seeds", [1], "no input 'seeds': .*, seed"),
    ],
)
def test_a_wrong_option_is_named(functions, option, value, message):
    request = {
        "signature_name": "generate",
        "inputs": {"prompts": ["a", "b"], option: value},
    }
    error = refused(functions, request)
    assert error.status == 400
    assert re.search(message, str(error))
    assert not re.search(r"node|/|__inference|Op:", str(error))


def test_an_input_without_a_default_value_must_be_there(functions):
    request = {"signature_name": "generate", "inputs": {"top_k": [1]}}
    assert "Missing named input: prompts" == str(refused(functions, request))
    request = {"signature_name": "generate", "inputs": ["a"]}
    assert "multiple input tensors required" in str(refused(functions, request))
    request = {"signature_name": "generate", "instances": ["a"]}
    assert "multiple input tensors required" in str(refused(functions, request))
    request = {"signature_name": "decode_step", "inputs": {"token_ids": [1]}}
    assert "Missing named input: state_0_h, state_1_h" == str(
        refused(functions, request)
    )


def test_types_without_json_are_not_implemented(echo):
    request = {"signature_name": "complex", "inputs": [1.0]}
    assert refused(echo, request).status == 501


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompts", "texts", "b64", "x", ""]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def answers_or_refuses(functions, body):
    try:
        answer = tf_serving.predict(functions, body)
    except ServingError as error:
        assert 400 <= error.status < 500
        assert "\n" not in str(error)
        answer = tf_serving.error_body(error)
    assert isinstance(json.loads(answer), dict)


@example(request={"inputs": {"a\nb": None}})
@given(
    request=JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "instances": JSON | st.lists(JSON, max_size=3),
            "inputs": JSON | st.dictionaries(st.text(), JSON, max_size=2),
            "signature_name": st.sampled_from(["", "score", "embed"]) | JSON,
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_any_json_is_answered_or_refused(functions, request):
    body = json.dumps(request).encode()
    answers_or_refuses(functions, body)


@given(body=st.binary(max_size=60))
@example(body=b'{"inputs": ["a"]}\x00')
@example(body=b'\xef\xbb\xbf{"inputs": ["a"]}')
@example(body='{"inputs": ["a"]}'.encode("utf-16"))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_answered_or_refused(functions, body):
    answers_or_refuses(functions, body)


@given(
    name=st.sampled_from([*ECHOED, "any", "scalar"]),
    value=st.recursive(
        st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    ),
    key=st.sampled_from(["inputs", "instances"]),
)
@settings(max_examples=200, deadline=None)
def test_any_value_is_answered_or_refused(echo, name, value, key):
    body = json.dumps({"signature_name": name, key: value}).encode()
    answers_or_refuses(echo, body)


@pytest.mark.parametrize("depth", [60, 70, 300, 900])
def test_many_dimensions_are_answered_or_refused(echo, depth):
    value = "[" * depth + "1" + "]" * depth
    body = f'{{"signature_name": "any", "inputs": {value}}}'
    answers_or_refuses(echo, body.encode())


# TensorFlow's errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (tf.errors.InvalidArgumentError, 400),
        (tf.errors.FailedPreconditionError, 400),
        (tf.errors.OutOfRangeError, 400),
        (tf.errors.UnauthenticatedError, 401),
        (tf.errors.PermissionDeniedError, 403),
        (tf.errors.NotFoundError, 404),
        (tf.errors.AlreadyExistsError, 409),
        (tf.errors.AbortedError, 409),
        (tf.errors.ResourceExhaustedError, 429),
        (tf.errors.CancelledError, 499),
        (tf.errors.InternalError, 500),
        (tf.errors.DataLossError, 500),
        (tf.errors.UnimplementedError, 501),
        (tf.errors.UnavailableError, 503),
        (tf.errors.DeadlineExceededError, 504),
    ],
)
def test_errors_of_tensorflow_have_the_codes_of_tensorflow_serving(
    error, status
):
    raised = tf_serving.from_tensorflow(error(None, None, "what happened"))
    assert (raised.status, str(raised)) == (status, "what happened")
    unknown = tf.errors.UnknownError(None, None, "", 2)
    assert tf_serving.from_tensorflow(unknown).status == 500


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Graph execution error:\n\nDetected at node Assert/Assert defined "
            "at (most recent call last):\n<stack traces unavailable>\n"
            "top_k: wrong\n\t [[{{node Assert/Assert}}]] [Op:__inference_f_1]",
            "top_k: wrong",
        ),
        (
            "Graph execution error:\n\nDetected at node 'a' defined at (most "
            'recent call last):\n    File "/home/me/train.py", line 1, in f\n'
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT:  x: wrong\n\t "
            "[[{{node a}}]]\n\t [[b/_1]]\n  (1) INVALID_ARGUMENT:  y: wrong",
            "x: wrong",
        ),
        (
            "{{function_node __wrapped__Reshape_device_/job:localhost/"
            "replica:0/task:0/device:CPU:0}} too many [Op:Reshape]",
            "too many",
        ),
        (
            "OOM when allocating tensor with shape[9] on /job:localhost/"
            "replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc\n\t "
            "[[{{node mul}}]]\nHint: If you want to see a list",
            "OOM when allocating tensor with shape[9] on device:GPU:0 by "
            "allocator GPU_0_bfc",
        ),
        (
            "/srv/models/a/1/variables.index; No such file\nmore",
            "variables.index; No such file",
        ),
        ("1 / 2 and 3/4", "1 / 2 and 3/4"),
        ("", "InternalError"),
    ],
)
def test_a_message_of_tensorflow_shows_no_internals(message, shown):
    error = tf.errors.InternalError(None, None, message)
    assert str(tf_serving.from_tensorflow(error)) == shown


# Paths


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/models/a:predict", ("a", None, None, "predict")),
        ("POST", "/V1/Models/A:Predict", ("A", None, None, "predict")),
        ("POST", "/v1/models/a/versions/3:predict", ("a", 3, None, "predict")),
        (
            "POST",
            "/v1/models/a/labels/stable:predict",
            ("a", None, "stable", "predict"),
        ),
        ("GET", "/v1/models/a", ("a", None, None, "status")),
        ("GET", "/v1/models/a/versions/007", ("a", 7, None, "status")),
        (
            "GET",
            f"/v1/models/a/versions/{2**63 - 1}",
            ("a", 2**63 - 1, None, "status"),
        ),
        ("GET", "/v1/models/a/labels/b%2Fc", ("a", None, "b/c", "status")),
        ("GET", "/v1/models/a/metadata", ("a", None, None, "metadata")),
        ("GET", "/v1/models/a/Versions/1/METADATA", ("a", 1, None, "metadata")),
        ("GET", "/v1/models/a%20%C3%A9+", ("a \u00e9+", None, None, "status")),
        ("GET", "/v1/models/metadata", ("metadata", None, None, "status")),
    ],
)
def test_paths_are_parsed(method, path, expected):
    assert tf_serving.parse_path(method, path) == tf_serving.Target(*expected)


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/v1/models", "Missing model name in request."),
        ("GET", "/v1/models/versions/3", "Missing model name in request."),
        ("GET", "/v1/models/a:predict", None),
        ("POST", "/v1/models/a", None),
        ("POST", "/v1/models/a/metadata", None),
        ("POST", "/v1/models/a:predict/", None),
        ("POST", "/v1/models/:predict", None),
        ("POST", "/v1/models/a/b:predict", None),
        ("POST", "/v1/models/a/versions/1/labels/b:predict", None),
        ("POST", "/v1/models/a/versions/x:predict", None),
        ("POST", "/v1/models/a/versions/-1:predict", None),
        ("POST", "/v1/models/a/versions/\u0663:predict", None),
        ("POST", "/v2/models/a:predict", None),
        ("PUT", "/v1/models/a:predict", None),
        (
            "POST",
            f"/v1/models/a/versions/{2**63}:predict",
            f"Failed to convert version: {2**63} to numeric.",
        ),
        (
            "POST",
            "/v1/models/a/versions/" + "9" * 5000 + ":predict",
            "Failed to convert version: " + "9" * 5000 + " to numeric.",
        ),
        (
            "POST",
            "/v1/models/a:classify",
            "Expected classification signature method_name to be "
            "tensorflow/serving/classify. Was: tensorflow/serving/predict",
        ),
        (
            "POST",
            "/v1/models/a:REGRESS",
            "Expected regression signature method_name to be "
            "tensorflow/serving/regress. Was: tensorflow/serving/predict",
        ),
    ],
)
def test_incomplete_paths_are_refused(method, path, message):
    with pytest.raises(ServingError) as error:
        tf_serving.parse_path(method, path)
    assert error.value.status == 400
    assert str(error.value) == (
        message or f"Malformed request: {method} {path}"
    )


@given(
    name=st.text(min_size=1), label=st.none() | st.text(min_size=1)
)  # fmt: skip
def test_names_of_any_characters_are_url_decoded(name, label):
    path = "/v1/models/" + urllib.parse.quote(name, safe="")
    if label is not None:
        path += "/labels/" + urllib.parse.quote(label, safe="")
    assert tf_serving.parse_path(
        "POST", path + ":predict"
    ) == tf_serving.Target(name, None, label, "predict")


@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.text()
    | st.lists(
        st.sampled_from(
            [
                "/v1/models",
                "/",
                "/versions/",
                "/labels/",
                "/metadata",
                ":predict",
                "a",
                "1",
                "%",
            ]
        )
    ).map("".join),
)
def test_any_path_is_parsed_or_refused(method, path):
    try:
        target = tf_serving.parse_path(method, path)
    except ServingError as error:
        assert error.status == 400
    else:
        assert target.model_name


# Status and metadata


def test_status_lists_the_versions():
    answer = tf_serving.status(
        {
            2: ("LOADING", "OK", ""),
            10: ("END", "NOT_FOUND", "no such file"),
            1: ("AVAILABLE", "OK", ""),
        }
    )
    assert answer == {
        "model_version_status": [
            {
                "version": "10",
                "state": "END",
                "status": {
                    "error_code": "NOT_FOUND",
                    "error_message": "no such file",
                },
            },
            {
                "version": "2",
                "state": "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
        ]
    }
    pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_status_pb2")
    parsed = json_format.ParseDict(answer, pb2.GetModelStatusResponse())
    assert [status.version for status in parsed.model_version_status] == [
        10, 2, 1,
    ]  # fmt: skip


def test_metadata_describe_the_signatures(letters):
    answer = json.loads(tf_serving.metadata(letters, "letters", 3))
    assert answer["model_spec"] == {
        "name": "letters",
        "signature_name": "",
        "version": "3",
    }
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    default = signatures["serving_default"]
    assert default["inputs"] == {
        "prompts": {
            "dtype": "DT_STRING",
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""}],
                "unknown_rank": False,
            },
            "name": "serving_default_prompts:0",
        }
    }
    assert default["outputs"]["texts"]["dtype"] == "DT_STRING"
    assert default["method_name"] == "tensorflow/serving/predict"
    states = signatures["decode_step"]["inputs"]["state_1_h"]
    assert states["dtype"] == "DT_FLOAT"
    assert states["tensor_shape"]["dim"] == [
        {"size": "-1", "name": ""},
        {"size": "6", "name": ""},
    ]


def test_metadata_name_tensors_of_the_graph(saved_echo):
    """A session that is fed by these names returns its inputs."""
    answer = json.loads(tf_serving.metadata(saved_echo, "echo", 1))
    signature = answer["metadata"]["signature_def"]["signature_def"]["all"]
    inputs, outputs = signature["inputs"], signature["outputs"]
    values = {
        name: np.full([1] * spec.shape.rank, number, spec.dtype.as_numpy_dtype)
        for number, (name, spec) in enumerate(ECHOED.items(), start=2)
        if spec.dtype not in (tf.string, tf.bool)
    }
    values |= {"text": ["a"], "raw_bytes": ["b"], "flag": [True]}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], saved_echo)
        given = session.run(
            {name: outputs[name]["name"] for name in values},
            {inputs[name]["name"]: value for name, value in values.items()},
        )
    assert {name: as_json(value) for name, value in given.items()} == {
        name: as_json(value) for name, value in values.items()
    }


def test_the_official_messages_read_the_metadata(letters):
    pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_metadata_pb2")
    answer = json.loads(tf_serving.metadata(letters, "letters", 1))
    parsed = json_format.ParseDict(
        answer["metadata"]["signature_def"], pb2.SignatureDefMap()
    )
    graph = saved_model_pb2.SavedModel.FromString(
        (letters / "saved_model.pb").read_bytes()
    ).meta_graphs[0]
    assert dict(parsed.signature_def) == dict(graph.signature_def)


# Limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "inputs", "message"),
    [
        ({"rows": 3}, {"prompts": ["a"] * 4}, "4 rows: at most 3"),
        ({"tokens": 39}, {"prompts": ["a", "b" * 20]}, "the longest of 20"),
        (
            {"tokens": 43},
            {"prompts": ["a", "bb"], "max_new_tokens": [1, 20]},
            "up to 20 new tokens",
        ),
        (
            {"new_tokens": 19},
            {"prompts": ["a", "bb"], "max_new_tokens": [1, 20]},
            "max_new_tokens: at most 19",
        ),
        ({"numbers": 5}, {"prompts": ["a"], "max_new_tokens": [9]}, "numbers"),
    ],
)
def test_requests_beyond_the_limits_are_refused(
    functions, limits, inputs, message
):
    body = {"signature_name": "generate", "inputs": inputs}
    [(name, value)] = limits.items()
    for limit in (value, 1_000):
        got = tf_serving.Limits(**{name: limit})
        content = json.dumps(body).encode()
        if limit == 1_000:  # enough
            assert tf_serving.predict(functions, content, got)
            continue
        with pytest.raises(ServingError, match=message) as caught:
            tf_serving.predict(functions, content, got)
        assert caught.value.status == 400


def test_beams_count_as_rows_and_as_texts():
    inputs = {
        "texts": tf.constant(["a", "b"]), "num_beams": tf.constant(4),
        "max_new_tokens": tf.constant(5),
    }  # fmt: skip
    tf_serving.Limits(beams=4, rows=8, tokens=42, new_tokens=5).check(
        inputs, {}
    )
    for limits, message in (
        ({"beams": 3}, "num_beams: at most 3"),
        ({"rows": 7}, "2 rows of 4 beams: at most 7"),
        ({"tokens": 41}, "more than 41 tokens"),
    ):
        with pytest.raises(ServingError, match=message):
            tf_serving.Limits(**limits).check(inputs, {})


def test_exported_defaults_are_limited_too(loaded):
    served = served_model.ServedModel.from_description(
        "letters", 1, loaded.description, metadata=b"", model=loaded
    )

    def predict(most, **body):
        return tf_serving.predict(
            loaded.functions,
            json.dumps(body).encode(),
            tf_serving.Limits(new_tokens=most),
            defaults=served.defaults,
        )

    prompts = {"prompts": ["a"]}
    for body in (
        {"instances": ["a"]},
        {"signature_name": "generate", "inputs": prompts},
    ):
        message = "max_new_tokens: at most 6, and 7 by .* --max_tokens"
        with pytest.raises(ServingError, match=message):
            predict(6, **body)
    predict(7, instances=["a"])
    fewer = prompts | {"max_new_tokens": [6]}
    predict(6, signature_name="generate", inputs=fewer)
    predict(6, signature_name="score", inputs=["a"])


def test_empty_requests_are_not_limited():
    tf_serving.Limits(rows=1, tokens=1).check(
        {"texts": tf.zeros([0], tf.string), "max_new_tokens": tf.zeros([0])}, {}
    )


@pytest.mark.parametrize(
    "value",
    [
        {"outputs": {"a": [[1, 2], []], "b": ["\u00e9", None]}},
        {"predictions": [{"a": [0.5, NAN]}, {"a": []}]},
        {"outputs": []},
        {"outputs": 3},
    ],
)
def test_json_parsed_in_parts_equals_json(value):
    assert tf_serving._dumped(value) == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("generate", {"prompts": [*PROMPTS, "d"], "temperature": [0.5],
                      "max_new_tokens": [2, 9, 0, 5]}),
        ("score", {"texts": ["abcdefgh", "a", "", "gh"]}),
        ("prefill", {"prompts": PROMPTS}),
    ],
)  # fmt: skip
def test_rows_beyond_the_memory_are_computed_in_parts(functions, name, inputs):
    sizes = []

    def row_size(signature, tensors):
        assert signature == name and tensors.keys() == inputs.keys()
        sizes.append(tensors)
        return 10

    content = json.dumps({"signature_name": name, "inputs": inputs}).encode()
    whole = json.loads(tf_serving.predict(functions, content))["outputs"]
    for memory in (10, 29):
        limits = tf_serving.Limits(memory=memory)
        parts = tf_serving.predict(functions, content, limits, row_size)
        parts = json.loads(parts)["outputs"]
        for output, value in whole.items():
            assert np.shape(parts[output]) == np.shape(value)
            if output != "texts":
                np.testing.assert_allclose(parts[output], value, atol=1e-5)
        assert parts.get("texts") == whole.get("texts")
    assert len(sizes) == 2
    with pytest.raises(ServingError, match="10 numbers in memory, .* 9: send"):
        limits = tf_serving.Limits(memory=9)
        tf_serving.predict(functions, content, limits, row_size)


def test_the_memory_of_a_row_grows_to_that_of_a_window(loaded):
    served = served_model.ServedModel.from_description(
        "letters", 1, loaded.description, metadata=b"", model=loaded
    )

    def size(name, length):
        return served.row_size(name, {"texts": tf.constant(["", "a" * length])})

    logits = 128 * loaded.model_config.vocabulary_size
    assert size("score", 200) == size("embed", 200) + logits
    assert size("score", 200) == size("score", 9_000) > 8 * size("score", 9)


def test_strings_of_several_calls_are_joined():
    parts = [tf.constant([["a"]]), tf.constant([["b", "c"], ["d", "e"]])]
    joined = tf_serving._joined(parts).numpy().tolist()
    assert joined == [[b"a", b""], [b"b", b"c"], [b"d", b"e"]]
