"""The OpenAPI document: parameters, bodies and errors of all routes.

`tests/openapi_test.py` compares it with a running server.
"""

from pydantic import json_schema

import stacked_rnn
from stacked_rnn.serving import (
    openai_chat,
    openai_completions,
    openai_embeddings,
    schemas,
    tokenization,
)

_ABOUT = """\
Recurrent language models, classifiers and seq2seq models: OpenAI's completions
API to continue texts, and TensorFlow Serving's REST API for every signature of
every model.

- A body is read as JSON, whatever its content type is. It may be compressed
  (`content-encoding: gzip`). HEAD works wherever GET does.
- A path that is not listed here gets status 404, another method 405; below
  `/v1/models/` both get 400, as with TensorFlow Serving.
- The `x-request-id` of a request is returned in the answer and written to the
  log; a request without one gets a new one.
"""
_JSON = "application/json"
_BODIES = (
    openai_completions.CompletionRequest,
    schemas.Completion,
    schemas.StreamEvent,
    openai_chat.ChatRequest,
    schemas.ChatCompletion,
    schemas.ChatEvent,
    openai_embeddings.EmbeddingRequest,
    schemas.Embeddings,
    tokenization.TokenizeRequest,
    schemas.Tokenized,
    tokenization.DetokenizeRequest,
    schemas.Detokenized,
    schemas.TokenizerInfo,
    schemas.ModelList,
    schemas.ModelStatus,
    schemas.VersionStates,
    schemas.Metadata,
    schemas.PredictRequest,
    schemas.Predictions,
    schemas.Outputs,
    schemas.Error,
    schemas.PredictError,
    schemas.Status,
    schemas.Version,
)

# Statuses of errors, by kind of route.
_EVERYWHERE = (403, 500)
_OF_KEYS = (401, 429)
_OF_STATES = (*_EVERYWHERE, 400, 404)
_OF_MODELS = (*_OF_STATES, 429, 503)
_OF_BODIES = (*_OF_MODELS, 408, 413, 415)
# On a route of TensorFlow Serving's, errors with these statuses have either its
# form or OpenAI's: the latter where the middleware refuses the request, and
# where OpenAI's client retrieves a model that does not exist.
_BY_SERVING_OR_BEFORE = (400, 404, 429, 500, 503)

_COMPLETION_EXAMPLES = {
    "one text": {
        "model": "pydoc",
        "prompt": "The ",
        "max_tokens": 50,
        "temperature": 0.8,
        "seed": 1,
    },
    "a stream": {
        "model": "pydoc",
        "prompt": "The ",
        "max_tokens": 50,
        "stop": ["\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "how likely texts are": {
        "model": "pydoc",
        "prompt": ["The end.", "End the."],
        "max_tokens": 0,
        "echo": True,
        "logprobs": 0,
    },
}
_CHAT_EXAMPLES = {
    "a chat": {
        "model": "pydoc",
        "messages": [{"role": "user", "content": "The "}],
        "max_tokens": 50,
        "seed": 1,
    },
    "a message to continue": {
        "model": "pydoc",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How?"}]},
            {"role": "assistant", "content": "Like "},
        ],
        "continue_final_message": True,
        "max_tokens": 20,
        "logprobs": True,
        "top_logprobs": 2,
    },
}
_EMBEDDING_EXAMPLES = {
    "embeddings": {"model": "pydoc", "input": ["one text", "another"]}
}
_TOKENIZE_EXAMPLES = {"a text": {"model": "pydoc", "prompt": "The "}}
_DETOKENIZE_EXAMPLES = {"tokens": {"model": "pydoc", "tokens": [3, 4, 5]}}
_PREDICT_EXAMPLES = {
    "rows": {"instances": ["The ", "A "]},
    "columns": {
        "signature_name": "generate",
        "inputs": {
            "prompts": ["The ", "A "],
            "max_new_tokens": [20, 30],
            "temperature": [0.8, 0.0],
            "top_k": [0, 0],
            "top_p": [0.9, 1.0],
            "repetition_penalty": [1.0, 1.1],
            "seed": [1, 2],
        },
    },
    "bytes": {"signature_name": "score", "instances": [{"b64": "VGhlIA=="}]},
}


def document(config, needs_key) -> dict:
    """Builds the document, in OpenAPI 3.1.

    Args:
        config: a `ServeConfig`; the document states its limits.
        needs_key: whether requests need an API key.

    Returns:
        The document, a dict for JSON.
    """
    components = {
        "schemas": _schemas(config),
        "responses": _errors(config),
        "headers": _headers(),
        "parameters": _parameters(),
    }
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "stacked_rnn",
            "version": stacked_rnn.__version__,
            "description": _ABOUT,
            "license": {
                "name": "Apache License 2.0",
                "identifier": "Apache-2.0",
            },
        },
        "servers": [{"url": "/"}],
        "paths": _open_paths() | _keyed_paths(needs_key),
        "components": components,
    }
    if needs_key:
        described["security"] = [{"api_key": []}]
        components["securitySchemes"] = {
            "api_key": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of --api_keys_file.",
            }
        }
    return described


def _open_paths() -> dict:
    """The routes that never need a key."""

    def get(name, summary, answer):
        return {
            "get": _operation(
                name, "server", summary, answer, _EVERYWHERE, security=[]
            )
        }

    text = {"type": "string"}
    paths = {
        "/": get(
            "show_playground",
            "A page to try the models in.",
            _response("The page", {"text/html": text}),
        ),
        "/healthz": get(
            "is_alive",
            "Whether the server is alive.",
            _response("It is alive", {_JSON: _ref("Status")}),
        ),
        "/health": get(
            "is_healthy",
            "The same as /healthz.",
            _response("It is alive", {_JSON: _ref("Status")}),
        ),
        "/version": get(
            "show_version",
            "The version of the server.",
            _response("The version", {_JSON: _ref("Version")}),
        ),
        "/readyz": get(
            "is_ready",
            "Whether the server accepts requests.",
            _response("It accepts requests", {_JSON: _ref("Status")}),
        ),
        "/metrics": get(
            "show_metrics",
            "Metrics for Prometheus.",
            _response("Prometheus' text format", {"text/plain": text}),
        ),
        "/monitoring/prometheus/metrics": get(
            "show_metrics_as_tensorflow_serving",
            "The same as /metrics.",
            _response("Prometheus' text format", {"text/plain": text}),
        ),
    }
    paths["/readyz"]["get"]["responses"]["503"] = _response(
        "Models are still loading, or the server is shutting down",
        {_JSON: _ref("Status")},
        ["retry-after"],
    )
    return paths


def _keyed_paths(needs_key) -> dict:
    """The routes that need a key if the server has keys."""

    def operation(name, tag, summary, answer, statuses, **others):
        statuses = {*statuses, *(_OF_KEYS if needs_key else ())}
        return _operation(name, tag, summary, answer, statuses, **others)

    paths = {
        "/v1/models": {
            "get": operation(
                "list_models",
                "models",
                "The models that are ready.",
                _response("All of them", {_JSON: _ref("ModelList")}),
                _EVERYWHERE,
            )
        },
        "/v1/completions": {
            "post": operation(
                "create_completion",
                "completions",
                "Continues texts, as OpenAI's completions API does.",
                _response(
                    "The whole texts; with `stream`, events with their parts, "
                    "of which the schema describes one",
                    {
                        _JSON: _ref("Completion"),
                        "text/event-stream": _ref("StreamEvent"),
                    },
                    ["x-ignored-fields"],
                ),
                _OF_BODIES,
                requestBody=_request("CompletionRequest", _COMPLETION_EXAMPLES),
            )
        },
        "/v1/chat/completions": {
            "post": operation(
                "create_chat_completion",
                "completions",
                "Continues the text that a template makes of messages, as "
                "OpenAI's chat API does.",
                _response(
                    "The whole answers; with `stream`, events with their "
                    "parts, of which the schema describes one",
                    {
                        _JSON: _ref("ChatCompletion"),
                        "text/event-stream": _ref("ChatEvent"),
                    },
                    ["x-ignored-fields"],
                ),
                _OF_BODIES,
                requestBody=_request("ChatRequest", _CHAT_EXAMPLES),
            )
        },
        "/v1/embeddings": {
            "post": operation(
                "create_embeddings",
                "completions",
                "The state of the top layer after each text; of longer texts, "
                f"its mean over chunks of {openai_embeddings.CHUNK:,} "
                "characters.",
                _response(
                    "The embeddings",
                    {_JSON: _ref("Embeddings")},
                    ["x-ignored-fields"],
                ),
                _OF_BODIES,
                requestBody=_request("EmbeddingRequest", _EMBEDDING_EXAMPLES),
            )
        },
        "/tokenize": {
            "post": operation(
                "tokenize",
                "tokens",
                "The tokens of a text, as vLLM returns them.",
                _response(
                    "The tokens",
                    {_JSON: _ref("Tokenized")},
                    ["x-ignored-fields"],
                ),
                _OF_BODIES,
                requestBody=_request("TokenizeRequest", _TOKENIZE_EXAMPLES),
            )
        },
        "/detokenize": {
            "post": operation(
                "detokenize",
                "tokens",
                "The text of tokens.",
                _response(
                    "The text",
                    {_JSON: _ref("Detokenized")},
                    ["x-ignored-fields"],
                ),
                _OF_BODIES,
                requestBody=_request("DetokenizeRequest", _DETOKENIZE_EXAMPLES),
            )
        },
        "/tokenizer_info": {
            "get": operation(
                "describe_tokenizer",
                "tokens",
                "The tokenizer of a model.",
                _response("The tokenizer", {_JSON: _ref("TokenizerInfo")}),
                _OF_MODELS,
                parameters=[
                    {
                        "name": "model",
                        "in": "query",
                        "required": False,
                        "description": "May be left out where there is one.",
                        "schema": {"type": "string"},
                    }
                ],
            )
        },
    }
    for path, suffix, names in (
        ("/v1/models/{model}", "", ["model"]),
        (
            "/v1/models/{model}/versions/{version}",
            "_version",
            ["model", "version"],
        ),
    ):
        shared = {"parameters": [_ref(name, "parameters") for name in names]}
        paths[path] = shared | {
            "get": operation(
                f"show_model{suffix}",
                "models",
                "A model in OpenAI's form, and the states of its versions in "
                "TensorFlow Serving's.",
                _response(
                    "The model and the states; only the states if no version "
                    "is ready",
                    {_JSON: _either("ModelStatus", "VersionStates")},
                ),
                _OF_STATES,
                is_serving=True,
            )
        }
        paths[f"{path}/metadata"] = shared | {
            "get": operation(
                f"show_model{suffix}_metadata",
                "models",
                "The signatures of a model, with their inputs and outputs.",
                _response("The signatures", {_JSON: _ref("Metadata")}),
                _OF_MODELS,
                is_serving=True,
            )
        }
        paths[f"{path}:predict"] = shared | {
            "post": operation(
                f"predict{suffix}",
                "predictions",
                "Runs a signature, as TensorFlow Serving's REST API does.",
                _response(
                    "The outputs of the signature",
                    {_JSON: _either("Predictions", "Outputs")},
                ),
                _OF_BODIES,
                is_serving=True,
                requestBody=_request("PredictRequest", _PREDICT_EXAMPLES),
            )
        }
    return paths


def _operation(
    name, tag, summary, answer, statuses, is_serving=False, **others
) -> dict:
    errors = {}
    for status in sorted(statuses):
        is_either = is_serving and status in _BY_SERVING_OR_BEFORE
        form = "serving_error" if is_either else "error"
        errors[str(status)] = _ref(f"{form}_{status}", "responses")
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "responses": {"200": answer} | errors,
    } | others


def _request(schema, examples) -> dict:
    """Describes a required body."""
    content = {
        "schema": _ref(schema),
        "examples": {name: {"value": body} for name, body in examples.items()},
    }
    return {"required": True, "content": {_JSON: content}}


def _response(description, bodies, headers=()) -> dict:
    """Describes a response.

    Args:
        description: a sentence.
        bodies: dict of media type -> schema.
        headers: names of its headers besides x-request-id.
    """
    return {
        "description": description,
        "headers": {
            name: _ref(name, "headers") for name in ("x-request-id", *headers)
        },
        "content": {kind: {"schema": body} for kind, body in bodies.items()},
    }


def _ref(name, kind="schemas") -> dict:
    return {"$ref": f"#/components/{kind}/{name}"}


def _either(*names) -> dict:
    return {"anyOf": [_ref(name) for name in names]}


# Components -------------------------------------------------------------------


def _schemas(config) -> dict:
    """The schemas of all bodies and their parts, by name."""
    _, definitions = json_schema.models_json_schema(
        [(body, "validation") for body in _BODIES],
        ref_template="#/components/schemas/{model}",
    )
    found = definitions["$defs"]
    most = min(openai_completions.MAX_SEQUENCES, config.max_waiting)
    for name in (
        "CompletionRequest", "ChatRequest", "EmbeddingRequest",
        "TokenizeRequest", "DetokenizeRequest",
    ):  # fmt: skip
        request = found[name]
        properties = request["properties"]
        if "n" in properties:
            properties["n"]["maximum"] = most
        for kind in ("max_tokens", "max_completion_tokens"):
            for schema in _numbers(properties.get(kind, {})):
                schema["maximum"] = config.max_tokens
            if properties.get(kind, {}).get("default") is not None:
                default = min(properties[kind]["default"], config.max_tokens)
                properties[kind]["default"] = default
        for field in properties.keys() - set(request["required"]):
            properties[field] = _or_null(properties[field])
    return found


def _numbers(schema) -> list[dict]:
    """The schemas of integers in a schema."""
    kinds = [schema, *schema.get("anyOf", ())]
    return [kind for kind in kinds if kind.get("type") == "integer"]


def _or_null(schema) -> dict:
    """Extends a schema by null, which stands for the default."""
    null, outside = {"type": "null"}, ("title", "description", "default")
    if null in schema.get("anyOf", ()):
        return schema
    inside = {key: schema[key] for key in schema if key not in outside}
    return {"anyOf": [inside, null]} | {
        key: schema[key] for key in outside if key in schema
    }


def _errors(config) -> dict:
    """The error responses, by format and status."""
    descriptions = {
        400: "The request is not valid: the message says why",
        401: "The API key is missing or wrong",
        403: "The request names a host that is not this server's, or comes "
        "from a web page of another origin",
        404: "There is no such model, or no such version of it",
        408: "The body arrived too slowly",
        413: f"The body has more than {config.max_body_bytes:,} bytes",
        415: "The body has a content-encoding other than gzip",
        429: "The queue is full, or the key has reached its limit",
        500: "The server failed: see its log",
        503: "The model is still loading, the server is shutting down, or the "
        f"request took longer than {config.request_seconds:g} seconds",
    }
    headers = {
        401: ["www-authenticate"],
        429: ["retry-after"],
        503: ["retry-after"],
    }
    either = _either("PredictError", "Error")
    forms = {
        "error": dict.fromkeys(descriptions, _ref("Error")),
        "serving_error": dict.fromkeys(_BY_SERVING_OR_BEFORE, either),
    }
    return {
        f"{form}_{status}": _response(
            descriptions[status], {_JSON: body}, headers.get(status, ())
        )
        for form, bodies in forms.items()
        for status, body in bodies.items()
    }


def _headers() -> dict:
    descriptions = {
        "x-request-id": "Identifies the request in the server's log.",
        "retry-after": "Seconds to wait before trying again.",
        "www-authenticate": "`Bearer`: the scheme for sending a key.",
        "x-ignored-fields": "Fields of the body that this server does not "
        "know, separated by commas, where there are any.",
    }
    return {
        name: {
            "description": text,
            "required": name != "x-ignored-fields",
            "schema": {"type": "string"},
        }
        for name, text in descriptions.items()
    }


def _parameters() -> dict:
    described = {
        "model": ({"type": "string", "pattern": "^[^/:]+$"}, "pydoc"),
        "version": ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, 1),
    }
    return {
        name: {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schema,
            "example": example,
        }
        for name, (schema, example) in described.items()
    }
