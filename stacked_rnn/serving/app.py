"""The HTTP of the server: routes, limits, keys, errors, log and metrics."""

import hashlib
import hmac
import json
import logging
import time

import fastapi
import prometheus_client
from fastapi import exceptions, responses
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware import cors
from starlette.exceptions import HTTPException

from stacked_rnn.serving import completions, playground, predict, streams
from stacked_rnn.serving.completions import ApiError
from stacked_rnn.serving.metrics import Metrics

_log = logging.getLogger("stacked_rnn.access")
_NEED_NO_KEY = ("/", "/healthz", "/readyz", "/metrics")
_MOST_BEAMS = 100  # each costs the memory of a text
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


def create_app(repository, config, api_keys=()) -> fastapi.FastAPI:
    """The web application over a `Repository`.

    Args:
        repository: made with `streams.deliver`.
        config: a `ServeConfig`.
        api_keys: those that open /v1; none: it is open.
    """
    app = fastapi.FastAPI(
        title="stacked_rnn",
        docs_url=None,  # the pages of FastAPI load scripts from elsewhere
        redoc_url=None,
    )
    app.state.is_draining = False
    metrics = Metrics(repository)
    page = playground.page()
    policy = playground.content_security_policy(page)

    @app.get("/", include_in_schema=False)
    def playground_page():
        return responses.HTMLResponse(
            page, headers={"content-security-policy": policy}
        )

    @app.get("/healthz")
    def is_alive():
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def is_ready():
        """Whether requests are taken."""
        if app.state.is_draining or not [*repository]:
            return responses.JSONResponse({"status": "not ready"}, 503)
        return {"status": "ready"}

    @app.get("/metrics")
    def show_metrics():
        """For Prometheus."""
        return responses.Response(
            prometheus_client.generate_latest(metrics.registry),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )

    @app.get("/v1/models")
    def list_models():
        """The models that are ready."""
        return {"object": "list", "data": [*map(_model_object, repository)]}

    @app.post("/v1/completions")
    async def complete(
        request: fastapi.Request, body: completions.CompletionRequest
    ):
        """Continues texts, as OpenAI's completions API does."""
        texts = streams.Stream(body, repository, config, metrics)
        await texts.start()
        if body.stream:
            return responses.StreamingResponse(
                texts.events(), media_type="text/event-stream"
            )
        return responses.JSONResponse(await texts.whole(request))

    @app.api_route(
        "/v1/models/{path:path}", methods=["GET", "POST"],
        include_in_schema=False,
    )  # fmt: skip
    async def tensorflow_serving(request: fastapi.Request):
        path = request.scope["raw_path"].decode("latin-1").split("?")[0]
        target = predict.parse_path(request.method, path)
        name = target.model_name
        wanted = f"Latest({name})"
        if target.version is not None or target.label:
            wanted = f"Specific({name}, {target.version or target.label})"
        try:
            served, states = repository[name], repository.states(name)
        except KeyError:
            served = None
        if (
            not served
            or target.label
            or target.version not in (None, served.version)
        ):
            raise predict.ServingError(
                f"Servable not found for request: {wanted}", 404
            )
        if target.action == "status":
            return _model_object(served) | predict.status(states)
        if target.action == "metadata":
            body = predict.metadata(
                served.model.path, served.name, served.version
            )
        else:
            body = await run_in_threadpool(
                predict.predict,
                served.model.functions,
                await request.body(),
                {"max_new_tokens": config.max_tokens, "num_beams": _MOST_BEAMS},
            )
        return responses.Response(body, media_type="application/json")

    @app.exception_handler(ApiError)
    async def api_error(request, error):
        return _error_response(error)

    @app.exception_handler(predict.ServingError)
    async def serving_error(request, error):
        return responses.Response(
            predict.error_body(str(error)), error.status,
            media_type="application/json",
        )  # fmt: skip

    @app.exception_handler(exceptions.RequestValidationError)
    async def invalid(request, error):
        first = error.errors()[0]
        name = next((str(part) for part in first["loc"][1:]), None)
        message = f"{name}: {first['msg']}" if name else first["msg"]
        return _error_response(ApiError(400, message, name))

    @app.exception_handler(HTTPException)
    async def http_error(request, error):
        return _error_response(ApiError(error.status_code, error.detail))

    @app.exception_handler(Exception)
    async def failed(request, error):
        return _error_response(
            ApiError(500, "The server failed: its log says how")
        )

    app.add_middleware(
        _Guard, app=app, config=config, api_keys=api_keys, metrics=metrics
    )
    _log.propagate, _log.handlers = False, []
    if config.access_log:
        _log.setLevel(logging.INFO)
        _log.addHandler(logging.StreamHandler())
    if config.cors_origins:
        app.add_middleware(
            cors.CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _model_object(served) -> dict:
    """A model as OpenAI lists it, its task and its card."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "stacked_rnn",
        "task": served.task,
        "card": served.card,
    }


class _Guard:
    """Around all routes: size, keys, shutdown, headers, log and metrics.

    Args:
        inner: the ASGI application inside.
        app: the FastAPI application.
        config: a `ServeConfig`.
        api_keys: strings; none: no key is needed.
        metrics: a `Metrics`.
    """

    def __init__(self, inner, app, config, api_keys, metrics):
        self._inner, self._app, self._config = inner, app, config
        self._metrics = metrics
        self._digests = [hashlib.sha256(k.encode()).digest() for k in api_keys]

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # the client left
        method = scope["method"]
        if method == "HEAD":  # uvicorn leaves the body away
            scope = scope | {"method": "GET"}

        async def noted_send(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(item for item in _HEADERS.items() if item[0] not in sent),
                ]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if not refusal:
                limit = self._config.max_body_bytes
                receive = await _read_body(receive, limit)
                if not receive:
                    refusal = ApiError(
                        413, f"The body has more than {limit} bytes"
                    )
            if refusal:
                await _error_response(refusal)(scope, receive, noted_send)
            else:
                await self._inner(scope, receive, noted_send)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            seconds = time.perf_counter() - began
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            _log.info(
                json.dumps(
                    {
                        "time": round(time.time(), 3),
                        "client": (scope.get("client") or ["?"])[0],
                        "method": method,
                        "path": scope["path"],
                        "status": status,
                        "seconds": round(seconds, 4),
                    }
                )
            )

    def _refusal(self, scope) -> ApiError | None:
        """Why a request is not even looked at."""
        headers = dict(scope["headers"])
        if self._app.state.is_draining and scope["method"] == "POST":
            return ApiError(503, "The server is shutting down")
        if self._digests and scope["path"] not in _NEED_NO_KEY:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            digest = hashlib.sha256(given.strip()).digest()
            # All of them, so that the time does not tell which one was near.
            if not sum(hmac.compare_digest(digest, d) for d in self._digests):
                return ApiError(
                    401, "Wrong or missing API key", code="invalid_api_key"
                )
        return None


async def _read_body(receive, limit):
    """A `receive` that has the whole body in one; None: it is too large."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            return None
    messages = [message | {"body": body, "more_body": False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again


def _error_response(error):
    headers = {"retry-after": "1"} if error.status in (429, 503) else None
    return responses.JSONResponse(error.body, error.status, headers)
