"""Middleware of all routes: access, bodies, disconnects, log and metrics."""

import asyncio
import json
import logging
import re
import time
import uuid

from fastapi import responses

from stacked_rnn.serving.errors import TOO_LONG, ApiError, ClientLeftError

STALL_SECONDS = 60.0  # for a client to read a part of an answer
_LEFT = 499  # the status in log and metrics where the client left (as nginx)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
_access = logging.getLogger("stacked_rnn.access")
_log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware around the application.

    It reads the whole body, then calls the application with `state.deadline`, a
    `time.monotonic()`, and cancels that if the client leaves.

    Args:
        inner: the ASGI application.
        state: has `is_draining`, which is read, and `num_active`, the number of
            requests, which is kept up to date.
        access: an `access.Access`.
        bodies: a `bodies.Bodies`.
        config: a `ServeConfig`.
        metrics: a `Metrics`.
    """

    def __init__(self, inner, state, access, bodies, config, metrics):
        self._inner, self._state = inner, state
        self._access, self._bodies = access, bodies
        self._metrics = metrics
        self._most_seconds = config.request_seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, method = time.perf_counter(), scope["method"]
        if method == "HEAD":  # uvicorn omits the body
            scope = scope | {"method": "GET"}
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex.encode()
        answer = _Answer(send, request_id)
        self._state.num_active += 1
        try:
            await self._respond(scope, receive, answer)
        except ClientLeftError:
            # uvicorn closes a connection whose answer is unfinished.
            answer.status = _LEFT
        finally:
            self._state.num_active -= 1
            self._note(scope, method, answer, time.perf_counter() - began)

    async def _respond(self, scope, receive, answer):
        """Answers a request, with an error if need be."""
        try:
            await self._answer(scope, receive, answer)
            return
        except ApiError as raised:
            error = raised
        except ClientLeftError:
            raise
        except Exception:
            if answer.has_begun:
                answer.status = 500
                raise
            _log.exception("request %s failed", answer.request_id.decode())
            error = ApiError(500, "The server failed: see its log")
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await error_response(error)(scope, receive, answer.send)
        except TimeoutError:
            raise ClientLeftError from None

    async def _answer(self, scope, receive, answer):
        if self._state.is_draining and scope["method"] == "POST":
            raise ApiError(503, "The server is shutting down")
        with self._access.entry(scope):
            async with self._bodies.read(scope, receive) as body:
                messages = [{"type": "http.request", "body": body}]
                del body

                async def receive_again():
                    if not messages:  # `leaving` waits for the disconnect
                        await asyncio.Event().wait()
                    return messages.pop()

                deadline = time.monotonic() + self._most_seconds
                scope.setdefault("state", {})["deadline"] = deadline
                answering = asyncio.ensure_future(
                    self._inner(scope, receive_again, answer.send)
                )
                leaving = asyncio.ensure_future(_end(receive))
                end = deadline + STALL_SECONDS  # a safeguard
                try:
                    while not answering.done():
                        seconds = (
                            min(answer.stall_time(), end) - time.monotonic()
                        )
                        if seconds <= 0 and not answer.has_begun:
                            raise ApiError(503, TOO_LONG)
                        if leaving.done() or seconds <= 0:
                            raise ClientLeftError
                        await asyncio.wait(
                            (answering, leaving),
                            timeout=seconds,
                            return_when=asyncio.FIRST_COMPLETED,
                        )
                    answering.result()
                finally:
                    for task in (answering, leaving):
                        task.cancel()
                    await asyncio.gather(
                        answering, leaving, return_exceptions=True
                    )

    def _note(self, scope, method, answer, seconds):
        """Counts a request in the metrics and logs it."""
        state = scope.get("state", {})
        path = state.get("path") or getattr(scope.get("route"), "path", "other")
        model_name = state.get("model_name", "")
        self._metrics.requests.labels(path, answer.status, model_name).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        _access.info(
            json.dumps(
                {
                    "time": round(time.time(), 3),
                    "id": answer.request_id.decode(),
                    "client": (scope.get("client") or ["?"])[0],
                    "method": method,
                    "path": scope["path"],
                    "model": model_name,
                    "status": answer.status,
                    "seconds": round(seconds, 4),
                }
            )
        )


class _Answer:
    """Sends an answer, with the headers that all answers have.

    Attributes:
        request_id: the header x-request-id, bytes.
        has_begun: whether the status has been sent.
        status: the HTTP status; until it is sent, that of a client that left.
    """

    def __init__(self, send, request_id):
        self._send, self.request_id = send, request_id
        self.has_begun, self.status = False, _LEFT
        self._sending_since = None

    def stall_time(self) -> float:
        """When the client will have read too slowly, by `time.monotonic()`.

        A timer for each message would cost as much as its JSON.
        """
        return STALL_SECONDS + (self._sending_since or time.monotonic())

    async def send(self, message):
        """Sends an ASGI message."""
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            sent = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(item for item in _HEADERS.items() if item[0] not in sent),
                (b"x-request-id", self.request_id),
            ]
        self._sending_since = time.monotonic()
        await self._send(message)
        self._sending_since = None


async def _end(receive):
    """Returns when the client disconnects or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def error_response(error) -> responses.JSONResponse:
    """Makes a response of an `ApiError`."""
    return responses.JSONResponse(error.body, error.status, error.headers)


def log_access(is_enabled) -> None:
    """Switches the access log on or off: JSON lines on standard error."""
    _access.propagate, _access.handlers = False, []
    if is_enabled:
        _access.setLevel(logging.INFO)
        _access.addHandler(logging.StreamHandler())
