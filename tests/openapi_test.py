"""The OpenAPI document is valid, complete, and true of a running server."""

import collections
import json
import re
import shutil
import threading

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from starlette.routing import Match

from stacked_rnn import configs
from stacked_rnn.serving import access, app, openapi, tf_serving
from tests.helpers.live_server import active, request, serving
from tests.helpers.waiting import wait_until

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis")
DOCUMENT = openapi.document(configs.ServeConfig(), needs_key=True)
OPERATIONS = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
]
OPEN = access.PATHS_WITHOUT_KEY
# A request that the document allows may still be refused: its numbers may be
# beyond the vocabulary of a model, its inputs not those of a signature.
CHECKS = {"checks": {"positive_data_acceptance": {"enabled": False}}}


@pytest.fixture(scope="module")
def directory(letters, tmp_path_factory):
    """A directory with a model and one that cannot be loaded."""
    directory = tmp_path_factory.mktemp("saved_models")
    for name in ("letters", "broken"):
        shutil.copytree(letters, directory / name / "1")
    (directory / "broken" / "1" / "saved_model.pb").write_bytes(b"broken")
    return directory


@pytest.fixture(scope="module")
def running(directory):
    with serving(directory, max_tokens=60) as running:
        yield running


def concrete(path):
    """Fills in the parameters of a documented path."""
    return path.replace("{model}", "letters").replace("{version}", "1")


def documented(method, path):
    """Finds the operation that describes a request."""
    patterns = {"{model}": "[^/:]+", "{version}": "[0-9]+"}
    [found] = [
        template
        for verb, template in OPERATIONS
        if verb == method
        and re.fullmatch(
            re.sub("{.*?}", lambda part: patterns[part[0]], template), path
        )
    ]
    return DOCUMENT["paths"][found][method.lower()]


def resolve(value):
    """Follows a reference of the document."""
    while "$ref" in value:
        for name in value["$ref"].removeprefix("#/").split("/"):
            value = DOCUMENT[name] if name == "components" else value[name]
    return value


def strict(schema):
    """Makes a schema refuse properties that it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(one) for name, one in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def validate(schema, value):
    """Raises where a value has too little or too much for a schema."""
    jsonschema.Draft202012Validator(
        strict(schema | {"components": DOCUMENT["components"]})
    ).validate(value)


def ask(running, method, path, body=None, headers=()):
    """Sends a request, checks the answer, returns (status, headers, body)."""
    status, headers, content = request(running, method, path, body, headers)
    responses = documented(method, path)["responses"]
    assert str(status) in responses, (status, content)
    response = resolve(responses[str(status)])
    for name, header in response["headers"].items():
        assert headers[name] or not resolve(header)["required"], name
    media_type = headers["content-type"].split(";")[0]
    schema = response["content"][media_type]["schema"]
    if media_type == "application/json":
        content = json.loads(content)
        validate(schema, content)
    elif media_type == "text/event-stream":
        *events, rest = content.decode().split("\n\n")
        assert not rest
        for event in events:
            if event.startswith(":"):  # a comment
                continue
            data = event.removeprefix("data: ")
            validate(schema, {"data": data})
            if data != "[DONE]":  # contentSchema is an annotation only
                validate(
                    {"$ref": "#/components/schemas/CompletionChunk"},
                    json.loads(data),
                )
    return status, headers, content


# The document


@pytest.mark.parametrize("needs_key", [False, True])
def test_the_document_is_valid(needs_key):
    document = openapi.document(configs.ServeConfig(), needs_key)
    assert json.loads(json.dumps(document)) == document
    schemathesis.openapi.from_dict(document).validate()
    components = document["components"]
    for schema in components["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    written = json.dumps(document)
    unused = {
        f"{kind}/{name}"
        for kind, one in components.items()
        if kind != "securitySchemes"
        for name in one
    } ^ {*re.findall('"#/components/(.*?)"', written)}
    assert unused == (set() if needs_key else {"responses/error_401"})
    names = re.findall('"operationId": "(.*?)"', written)
    assert len(names) == len({*names}) == len(OPERATIONS)


def test_each_route_is_documented_and_no_other():
    routes = app.create_app([], configs.ServeConfig()).routes
    reached = set()
    for method, path in OPERATIONS:
        scope = {"type": "http", "method": method, "path": concrete(path)}
        [route] = [one for one in routes if one.matches(scope)[0] is Match.FULL]
        reached.add((method, route.path))
        if "{model}" in path:
            action = tf_serving.parse_path(method, concrete(path)).action
            named = re.search("predict$|metadata$", path)
            assert action == (named[0] if named else "status")
    assert reached == {
        (method, route.path)
        for route in routes
        if route.path != "/openapi.json"
        for method in route.methods - {"HEAD"}
    }


def test_the_limits_of_the_server_are_in_the_document():
    config = configs.ServeConfig(
        max_tokens=77, max_waiting=9, max_body_bytes=12_345, request_seconds=7.5
    )
    components = openapi.document(config, False)["components"]
    properties = components["schemas"]["CompletionRequest"]["properties"]
    assert properties["max_tokens"]["anyOf"][0]["maximum"] == 77
    assert properties["n"]["anyOf"][0]["maximum"] == 9
    few = openapi.document(configs.ServeConfig(max_tokens=10), False)
    few = few["components"]["schemas"]["CompletionRequest"]["properties"]
    assert few["max_tokens"]["default"] == 10
    responses = components["responses"]
    assert "12,345 bytes" in responses["error_413"]["description"]
    for name in ("error_503", "serving_error_503"):
        assert "7.5 seconds" in responses[name]["description"]


def test_keys_are_documented_where_required():
    for method, path in OPERATIONS:
        operation = DOCUMENT["paths"][path][method.lower()]
        assert ("401" in operation["responses"]) == (path not in OPEN)
        assert (operation.get("security") == []) == (path in OPEN)
    [scheme] = DOCUMENT["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    without = openapi.document(configs.ServeConfig(), False)
    assert "security" not in without
    for path, item in without["paths"].items():
        assert '"401"' not in json.dumps(item), path


def test_each_task_is_documented():
    model = DOCUMENT["components"]["schemas"]["Model"]
    assert model["properties"]["task"]["enum"] == [*configs.TASKS]


# The server


def test_the_server_serves_the_document(running):
    _, _, content = request(running, "GET", "/openapi.json")
    assert json.loads(content) == openapi.document(
        configs.ServeConfig(max_tokens=60), False
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(
            (concrete(path), 200)
            for method, path in OPERATIONS
            if method == "GET"
        ),
        ("/v1/models/broken", 200),
        ("/v1/models/broken/metadata", 404),
        ("/v1/models/none", 404),
        ("/v1/models/none/metadata", 404),
        ("/v1/models/letters/versions/2", 404),
        ("/v1/models/letters/versions/2/metadata", 404),
        (f"/v1/models/letters/versions/{2**63}", 400),
    ],
)
def test_get_is_answered_as_documented(running, path, status):
    assert ask(running, "GET", path)[0] == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"prompt": ["a", "bc"], "n": 2}, 200),
        ({"prompt": ["a", ""], "logprobs": 3, "echo": True}, 200),
        ({"prompt": [1, 2], "logprobs": 0, "stop": "a"}, 200),
        ({"max_tokens": 0, "echo": True, "logprobs": 0}, 200),
        ({"stop_token_ids": [*range(11)]}, 200),
        ({"stream": True}, 200),
        (
            {
                "stream": True, "echo": True, "logprobs": 2, "n": 2,
                "stream_options": {"include_usage": True},
            },
            200,
        ),
        ({"temperature": None, "stop": None, "stream": None}, 200),
        ({"temperature": 3}, 400),
        ({"max_tokens": 61}, 400),
        ({"best": 1}, 200),
        ({"best_of": 2}, 400),
        ({"prompt": [10**6]}, 400),
        ({"model": None}, 400),
        ({"model": "none"}, 404),
    ],
)  # fmt: skip
def test_completions_are_answered_as_documented(running, changes, status):
    body = {"model": "letters", "prompt": "abc", "max_tokens": 5} | changes
    assert ask(running, "POST", "/v1/completions", body)[0] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_malformed_json_is_answered_as_documented(running, body):
    for path in ("/v1/completions", "/v1/models/letters:predict"):
        assert ask(running, "POST", path, body)[0] == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"instances": ["abc", ""]}, 200),
        ({"instances": [{"prompts": "abc"}]}, 200),
        ({"instances": [{"b64": "YWJj"}]}, 200),
        ({"inputs": ["abc"]}, 200),
        ({"inputs": {"prompts": ["abc"]}}, 200),
        ({"signature_name": "score", "instances": ["abc"]}, 200),
        ({"signature_name": "embed", "inputs": ["abc"]}, 200),
        ({"signature_name": "none", "inputs": ["abc"]}, 400),
        ({"inputs": ["abc"], "instances": ["abc"]}, 400),
        ({"inputs": [1]}, 400),
        ({}, 400),
    ],
)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_predict_is_answered_as_documented(running, body, status, version):
    path = f"/v1/models/letters{version}:predict"
    assert ask(running, "POST", path, body)[0] == status


def test_predict_of_an_unknown_model_is_answered_as_documented(running):
    for name in ("none", "letters/versions/2"):
        path = f"/v1/models/{name}:predict"
        assert ask(running, "POST", path, {"instances": ["a"]})[0] == 404


def test_each_example_works(running):
    names = set()
    for method, path in OPERATIONS:
        operation = DOCUMENT["paths"][path][method.lower()]
        if "requestBody" not in operation:
            continue
        content = operation["requestBody"]["content"]["application/json"]
        for name, example in content["examples"].items():
            value = example["value"]
            validate(content["schema"], value)
            if "model" in value:
                value = value | {"model": "letters"}
            assert ask(running, method, concrete(path), value)[0] == 200, name
            names.add(name)
    assert len(names) == 11


def test_unknown_paths_and_methods_are_answered_as_documented(running):
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("POST", "/v1/responses", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/healthz", 405),
    ):
        got, headers, content = request(running, method, path, "{}")
        assert got == status, path
        validate({"$ref": "#/components/schemas/Error"}, json.loads(content))
        assert headers["x-request-id"]
    for method, path in (
        ("GET", "/v1/models/letters:predict"),
        ("POST", "/v1/models/letters"),
        ("GET", "/v1/models/letters/nothing"),
    ):
        got, _, content = request(running, method, path, "{}")
        assert got == 400 and json.loads(content)["error"], path


def test_request_ids_are_returned_as_documented(running):
    for path in ("/healthz", "/v1/models", "/v1/models/none"):
        headers = {"x-request-id": "mine-1"}
        _, headers, _ = ask(running, "GET", path, headers=headers)
        assert headers["x-request-id"] == "mine-1"


def test_requests_refused_before_routing_are_answered_as_documented(running):
    for path in ("/v1/completions", "/v1/models/letters:predict"):
        for headers, status in (
            ({"host": "evil.example"}, 403),
            ({"origin": "https://evil.example"}, 403),
            ({"content-encoding": "br"}, 415),
        ):
            got, _, content = ask(running, "POST", path, "{}", headers)
            assert got == status
            validate({"$ref": "#/components/schemas/Error"}, content)


def test_limits_on_keys_sizes_and_times_are_answered_as_documented(
    directory, tmp_path
):
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    with serving(
        directory,
        api_keys_file=str(keys),
        max_body_bytes=100,
        request_seconds=0.01,
    ) as running:
        for method, path in OPERATIONS:
            status = 200 if path in OPEN else 401
            assert ask(running, method, concrete(path), "{}")[0] == status
        authorized = {"authorization": "Bearer first-key"}
        _, _, content = request(
            running, "GET", "/openapi.json", headers=authorized
        )
        assert json.loads(content)["security"] == DOCUMENT["security"]
        for method, path in OPERATIONS:
            if method == "POST":
                assert ask(
                    running, method, concrete(path), b" " * 101, authorized
                )[0] == 413  # fmt: skip
        body = {"model": "letters", "n": 64, "max_tokens": 4096}
        assert (
            ask(running, "POST", "/v1/completions", body, authorized)[0] == 503
        )


def num_texts(running, gauge):
    _, _, content = request(running, "GET", "/metrics")
    [line] = re.findall(rb"stacked_rnn_texts_" + gauge + rb"{.*", content)
    return float(line.split()[-1])


def test_a_full_and_a_stopping_server_answer_as_documented(directory):
    """All slots taken and the queue full; then the server stops."""
    body = {"model": "letters", "n": 64, "max_tokens": 8192}
    statuses = []

    def complete():
        statuses.append(ask(running, "POST", "/v1/completions", body)[0])

    waiting = [threading.Thread(target=complete) for _ in range(2)]
    with serving(
        directory, max_waiting=64, max_tokens=8192, drain_seconds=2
    ) as running:
        for thread, gauge in zip(waiting, (b"active", b"waiting")):
            thread.start()
            wait_until(lambda gauge=gauge: num_texts(running, gauge) == 64)
        assert ask(running, "POST", "/v1/completions", body)[0] == 429
        leaving = threading.Thread(target=running.__exit__, args=(None,) * 3)
        leaving.start()
        wait_until(lambda: request(running, "GET", "/readyz")[0] == 503)
        assert ask(running, "GET", "/readyz")[0] == 503
        for path in ("/v1/completions", "/v1/models/letters:predict"):
            assert ask(running, "POST", path, {})[0] == 503
        leaving.join()
    for thread in waiting:
        thread.join()
    assert len(statuses) == 2 and {*statuses} <= {200, 503}


def test_an_internal_error_is_answered_as_documented(running, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(tf_serving, "predict", fail)
    assert ask(running, "POST", "/v1/models/letters:predict", {})[0] == 500


# Requests that schemathesis makes from the document


def statuses_of(running, count, path_parameters=None, **filters):
    """Sends requests that the document allows; counts the statuses.

    Each answer is checked: no failure of the server, and a status, a content
    type, headers and a body as documented. The first events of a stream are.
    """
    schema = schemathesis.openapi.from_url(
        f"http://127.0.0.1:{running.port}/openapi.json",
        config=schemathesis.Config.from_dict(CHECKS),
    ).include(**filters)
    statuses = collections.Counter()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema.as_strategy(path_parameters=path_parameters))
    def call(case):
        if case.operation.path == "/v1/completions":
            case.body["model"] = "letters"
        statuses[case.call_and_validate().status_code] += 1

    call()
    wait_until(lambda: active(running) == 0)  # streams are left early
    return statuses


def many(quick, in_a_drill):
    """Parametrizes a test by the number of examples."""
    return pytest.mark.parametrize(
        "count", [quick, pytest.param(in_a_drill, marks=pytest.mark.drill)]
    )


@many(20, 2_000)
def test_any_get_is_answered_as_documented(running, count):
    statuses = statuses_of(running, count, method="GET")
    assert statuses.keys() <= {200, 404}


@many(40, 2_000)
def test_any_completion_is_answered_as_documented(running, count):
    statuses = statuses_of(running, count, path="/v1/completions")
    assert statuses.keys() <= {200, 400}
    assert statuses[200] > 0.3 * statuses.total()


@many(20, 2_000)
def test_any_prediction_is_answered_as_documented(running, count):
    statuses = statuses_of(
        running,
        count,
        path="/v1/models/{model}:predict",
        path_parameters={"model": "letters"},
    )
    assert statuses.keys() <= {200, 400}
