"""The HTTP routes of the server."""

import asyncio
import contextlib
import functools
import logging
import time

import fastapi
from fastapi import responses
from fastapi.middleware import cors
from starlette.exceptions import HTTPException

import stacked_rnn
from stacked_rnn.configs import TASKS
from stacked_rnn.serving import (
    access,
    bodies,
    guard,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_stream,
    openapi,
    playground,
    pools,
    request_bodies,
    scheduler,
    tf_serving,
    tokenization,
)
from stacked_rnn.serving.errors import TOO_LONG, ApiError, BusyError
from stacked_rnn.serving.metrics import Metrics
from stacked_rnn.serving.repository import NotReadyError
from stacked_rnn.utils import devices

_MOST_BEAMS = 100  # per row; a beam takes as much memory as a row
_MOST_ROWS = 1_024  # per `:predict`; a row holds a float per vocabulary entry
_MOST_NUMBERS = 2**21  # in the answer to a `:predict`
_MOST_MEMORY = 2**26  # numbers that a `:predict` holds at a time: 0.5 GB
_MOST_PREDICTIONS = 64  # waiting for a thread
_MOST_FIELDS = 100  # that the log says are ignored
_log = logging.getLogger(__name__)


def create_app(
    repository, config, api_keys=(), chat_template=None
) -> fastapi.FastAPI:
    """Makes the web application of a `Repository`.

    Long computations run in threads, so that probes and metrics are answered at
    once under any load.

    Args:
        repository: a `Repository` made with `openai_stream.deliver`.
        config: a `ServeConfig`.
        api_keys: the keys, see `Access`.
        chat_template: the template of chats with models that have none of their
            own, or None.
    """
    app = fastapi.FastAPI(
        title="stacked_rnn",
        docs_url=None,  # FastAPI's pages load scripts from other sites
        redoc_url=None,
    )
    document = openapi.document(config, bool(api_keys))
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.state.is_draining, app.state.num_active = False, 0
    metrics = Metrics(repository)
    page = playground.page(config.max_tokens)
    policy = playground.content_security_policy(page)
    readers = pools.Pool("reader", devices.cores(), config.max_waiting)
    predictors = pools.Pool("predictor", devices.cores(), _MOST_PREDICTIONS)
    app.state.pools = (readers, predictors)
    limits = tf_serving.Limits(
        new_tokens=config.max_tokens,
        beams=_MOST_BEAMS,
        rows=_MOST_ROWS,
        tokens=scheduler.NUM_SLOTS * config.max_tokens,
        numbers=_MOST_NUMBERS,
        memory=_MOST_MEMORY,
    )

    known_to_be_ignored: set[str] = set()

    def warn_of_ignored(fields):
        """Logs fields that clients send in vain, each once."""
        new = [field for field in fields if field not in known_to_be_ignored]
        if new and len(known_to_be_ignored) < _MOST_FIELDS:
            known_to_be_ignored.update(new)
            _log.warning("fields are ignored: %s", ", ".join(new))

    @app.get("/", include_in_schema=False)
    async def playground_page():
        return responses.HTMLResponse(
            page, headers={"content-security-policy": policy}
        )

    @app.get("/health")  # the name that vLLM's clients ask for
    @app.get("/healthz")
    async def is_alive():
        return {"status": "ok"}

    @app.get("/readyz")
    async def is_ready():
        if app.state.is_draining or not repository.is_settled:
            return responses.JSONResponse(
                {"status": "not ready"}, 503, {"retry-after": "1"}
            )
        return {"status": "ready"}

    @app.get("/version")
    async def show_version():
        return {"version": stacked_rnn.__version__}

    @app.get("/monitoring/prometheus/metrics")  # TensorFlow Serving's name
    @app.get("/metrics")
    async def show_metrics(request: fastapi.Request):
        body, kind = await asyncio.to_thread(
            metrics.exposition, request.headers.get("accept", "")
        )
        return responses.Response(body, headers={"content-type": kind})

    @app.get("/v1/models")
    async def list_models():
        listed = [
            _model_object(one, chat_template) for one in repository.listed()
        ]
        return {"object": "list", "data": listed}

    async def parsed(request, kind):
        """Parses a body; returns it, and headers for the answer."""
        body, ignored = request_bodies.parse(await request.body(), kind)
        if body.model in repository:
            request.state.model_name = body.model
        if not ignored:
            return body, {}
        warn_of_ignored(ignored)
        return body, {"x-ignored-fields": ", ".join(ignored)}

    async def answered(request, kind, completion, answer_class):
        """Answers a request for completions.

        Args:
            request: the request over HTTP.
            kind: the class of its body.
            completion: (body, `ServedModel`) -> a `CompletionRequest`.
            answer_class: see `Stream`.
        """
        body, headers = await parsed(request, kind)
        stream = openai_stream.Stream(
            body.model, functools.partial(completion, body),
            request.state.deadline, repository, readers, config, metrics,
            answer_class,
        )  # fmt: skip
        await stream.start()
        if body.stream:
            return _Events(stream, headers)
        try:
            content = await stream.whole()
        finally:
            stream.leave()
        return responses.Response(
            content, headers=headers, media_type="application/json"
        )

    @app.post("/v1/completions")
    async def complete(request: fastapi.Request):
        return await answered(
            request,
            openai_completions.CompletionRequest,
            lambda body, served: body,
            openai_completions.Answer,
        )

    @app.post("/v1/chat/completions")
    async def chat(request: fastapi.Request):
        def completion(body, served):
            prompt = body.prompt(served.chat_template or chat_template)
            return body.completion(prompt, config.max_tokens)

        return await answered(
            request, openai_chat.ChatRequest, completion, openai_chat.ChatAnswer
        )

    async def computed(request, pool, function, *arguments):
        """Calls a function in a thread; its errors have OpenAI's form."""
        return await _computed(request, pool, ApiError, function, *arguments)

    async def language_model(request, name):
        """Looks up a language model; without a name, the only one."""
        if not name:
            names = [listed.name for listed in repository.listed()]
            if not names:
                raise ApiError(503, "No model is ready yet: try again later")
            if len(names) > 1:
                raise ApiError(
                    400, f"model: name one of {', '.join(sorted(names))}",
                    "model",
                )  # fmt: skip
            [name] = names
        return await openai_stream.find_writer(
            repository, name, request.state.deadline
        )

    async def asked(request, kind, pool, function):
        """Answers a request by a function of a language model and a body."""
        body, headers = await parsed(request, kind)
        served = await language_model(request, body.model)
        answer = await computed(request, pool, function, served.model, body)
        return responses.JSONResponse(answer, headers=headers)

    @app.post("/v1/embeddings")
    async def embed(request: fastapi.Request):
        return await asked(
            request,
            openai_embeddings.EmbeddingRequest,
            predictors,
            openai_embeddings.embed,
        )

    @app.post("/tokenize")
    async def tokenize(request: fastapi.Request):
        return await asked(
            request,
            tokenization.TokenizeRequest,
            readers,
            tokenization.tokenize,
        )

    @app.post("/detokenize")
    async def detokenize(request: fastapi.Request):
        return await asked(
            request,
            tokenization.DetokenizeRequest,
            readers,
            tokenization.detokenize,
        )

    @app.get("/tokenizer_info")
    async def describe_tokenizer(request: fastapi.Request, model: str = ""):
        served = await language_model(request, model)
        template = served.chat_template or chat_template
        return await computed(
            request, readers, tokenization.tokenizer_info, served.model,
            template,
        )  # fmt: skip

    @app.api_route(
        "/v1/models/{path:path}", methods=["GET", "POST"],
        include_in_schema=False,
    )  # fmt: skip
    async def tensorflow_serving(request: fastapi.Request):
        path = request.scope["raw_path"].decode("latin-1").split("?")[0]
        target = tf_serving.parse_path(request.method, path)
        name = target.model_name
        request.state.path = _PATHS[target.action]
        if name in repository:
            request.state.model_name = name
        if target.action == "status":
            return _status(repository, target, chat_template)
        served = await _find(repository, target, request.state.deadline)
        if target.action == "metadata":
            return responses.Response(
                served.metadata, media_type="application/json"
            )
        body, functions = await request.body(), served.model.functions
        start = time.monotonic()
        content = await _computed(
            request, predictors, _serving_error, tf_serving.predict, functions,
            body, limits, served.row_size, served.defaults,
        )  # fmt: skip
        metrics.of(name).predicted(time.monotonic() - start)
        return responses.Response(content, media_type="application/json")

    @app.exception_handler(ApiError)
    async def api_error(request, error):
        return guard.error_response(error)

    @app.exception_handler(tf_serving.ServingError)
    async def serving_error(request, error):
        return responses.Response(
            tf_serving.error_body(str(error)),
            error.status,
            {"retry-after": "1"} if error.status in (429, 503) else None,
            media_type="application/json",
        )

    @app.exception_handler(HTTPException)
    async def http_error(request, error):
        path, message = request.url.path[:100], error.detail
        if error.status_code == 404:
            message = _ELSEWHERE.get(
                path,
                f"There is no {path}: OpenAI's API is under /v1, and "
                "/openapi.json lists all paths",
            )
        elif error.status_code == 405:
            message = f"{path} is for {error.headers['Allow']}"
        return guard.error_response(ApiError(error.status_code, message))

    app.add_middleware(
        guard.Guard,
        state=app.state,
        access=access.Access(config, api_keys),
        bodies=bodies.Bodies(config.max_body_bytes),
        config=config,
        metrics=metrics,
    )
    guard.log_access(config.access_log)
    if config.cors_origins:
        app.add_middleware(
            cors.CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client sends a dozen own headers
            expose_headers=["x-request-id", "retry-after", "x-ignored-fields"],
        )
    return app


class _Events(responses.Response):
    """Sends the events of a `Stream`, until they end or the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, stream, headers):
        # Tells proxies (nginx) to pass each event on at once.
        super().__init__(headers=headers | {"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope, receive, send):
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            async with contextlib.aclosing(self._stream.events()) as events:
                async for event in events:
                    await send(
                        {
                            "type": "http.response.body",
                            "body": event,
                            "more_body": True,
                        }
                    )
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._stream.leave()


_ELSEWHERE = {  # paths that clients ask for -> the message
    "/v1/responses": "This server has no responses API: POST /v1/completions "
    "or /v1/chat/completions"
}
_PATHS = {  # `tf_serving.Target.action` -> the label `path` in metrics
    "status": "/v1/models/{model}",
    "metadata": "/v1/models/{model}/metadata",
    "predict": "/v1/models/{model}:predict",
}


async def _find(repository, target, deadline):
    """Looks up the model of a `tf_serving.Target`; see `openai_stream.find`.

    Raises:
        ServingError: there is no such version, or it is not ready.
    """
    try:
        served = await openai_stream.find(
            repository, target.model_name, deadline
        )
    except KeyError:
        raise _missing(target) from None
    except NotReadyError as error:
        raise tf_serving.ServingError(str(error), 503) from None
    if target.label or target.version not in (None, served.version):
        raise _missing(target)
    return served


def _status(repository, target, chat_template) -> dict:
    """Returns the states of a model's versions, and its OpenAI object.

    The latter's fields are left out while no version is ready or listed.
    """
    try:
        states = repository.states(target.model_name)
    except KeyError:
        if target.version is None and not target.label:
            raise openai_stream.no_model(
                target.model_name, repository
            ) from None
        raise _missing(target) from None
    if target.version is not None:
        states = {version: state for version, state in states.items()
                  if version == target.version}  # fmt: skip
    if target.label or not states:
        raise _missing(target)
    try:
        described = _model_object(
            repository.describe(target.model_name), chat_template
        )
    except (KeyError, NotReadyError):
        described = {}
    return described | tf_serving.status(states)


def _missing(target) -> tf_serving.ServingError:
    """Makes the error for a missing version, in TensorFlow Serving's words."""
    wanted = f"Latest({target.model_name})"
    if target.version is not None or target.label:
        which = target.version if target.label is None else target.label
        wanted = f"Specific({target.model_name}, {which})"
    return tf_serving.ServingError(
        f"Servable not found for request: {wanted}", 404
    )


async def _computed(request, pool, make_error, function, *arguments):
    """Calls a function in a thread.

    Args:
        request: the request over HTTP, with `state.deadline`.
        pool: a `pools.Pool`.
        make_error: (status, message) -> the error to raise where it cannot run.
        function, *arguments: what to call.
    """
    try:
        async with asyncio.timeout(request.state.deadline - time.monotonic()):
            return await pool.run(function, *arguments)
    except BusyError:
        raise make_error(
            429, "Too many calls are waiting: try again later"
        ) from None
    except TimeoutError:
        raise make_error(503, TOO_LONG) from None


def _serving_error(status, message) -> tf_serving.ServingError:
    return tf_serving.ServingError(message, status)


def _model_object(listed, chat_template) -> dict:
    """A `ListedModel` as OpenAI lists models, and more of it.

    Args:
        listed: a `ListedModel`.
        chat_template: see `create_app`.
    """
    template = listed.chat_template or chat_template
    return {
        "id": listed.name,
        "object": "model",
        "created": listed.created,
        "owned_by": "stacked_rnn",
        "root": listed.name,  # `vllm bench serve` looks for it
        "task": listed.task,
        "card": listed.card,
        "chat": TASKS[listed.task].continues_texts and template is not None,
    }
