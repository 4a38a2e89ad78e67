"""Around all routes: who may, bodies, clients that leave, log and metrics."""

import asyncio
import json
import logging
import re
import time
import uuid

from fastapi import responses

from stacked_rnn.serving.errors import ApiError, ClientLeftError

STALL_SECONDS = 60.0  # that a client may leave an answer unread
_LEFT = 499  # the status, in log and metrics, of what nobody waited for
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
    """ASGI middleware.

    It reads the body before anybody looks at it. From then on it waits for the
    client to leave, and ends what is done for one that does.

    Args:
        inner: the ASGI application inside.
        state: has `is_draining`, and `num_active`, which it keeps.
        access: an `access.Access`.
        bodies: a `bodies.Bodies`.
        config: a `ServeConfig`.
        metrics: a `Metrics`.
    """

    def __init__(self, inner, state, access, bodies, config, metrics):
        self._inner, self._state = inner, state
        self._access, self._bodies = access, bodies
        self._metrics = metrics
        # Texts end by themselves before.
        self._most_seconds = config.request_seconds + STALL_SECONDS

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, method = time.perf_counter(), scope["method"]
        if method == "HEAD":  # uvicorn leaves the body away
            scope = scope | {"method": "GET"}
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(given):
            given = uuid.uuid4().hex.encode()
        answer = _Answer(send, given)
        self._state.num_active += 1
        try:
            await self._answer(scope, receive, answer)
        except ApiError as error:
            await error_response(error)(scope, receive, answer.send)
        except ClientLeftError:
            # uvicorn closes the connection of an answer that does not end.
            answer.status = _LEFT
        except Exception:
            if answer.has_begun:
                answer.status = 500
                raise
            _log.exception("request %s failed", given.decode())
            failure = ApiError(500, "The server failed: its log says how")
            await error_response(failure)(scope, receive, answer.send)
        finally:
            self._state.num_active -= 1
            self._note(scope, method, answer, time.perf_counter() - began)

    async def _answer(self, scope, receive, answer):
        if self._state.is_draining and scope["method"] == "POST":
            raise ApiError(503, "The server is shutting down")
        with self._access.entry(scope):
            async with self._bodies.read(scope, receive) as body:
                messages = [{"type": "http.request", "body": body}]
                del body

                async def receive_again():
                    if not messages:  # of a client that leaves, tells `leaving`
                        await asyncio.Event().wait()
                    return messages.pop()

                answering = asyncio.ensure_future(
                    self._inner(scope, receive_again, answer.send)
                )
                leaving = asyncio.ensure_future(_end(receive))
                try:
                    await asyncio.wait(
                        (answering, leaving),
                        timeout=self._most_seconds,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if not answering.done():
                        raise ClientLeftError
                    answering.result()
                finally:
                    for task in (answering, leaving):
                        task.cancel()
                    await asyncio.gather(
                        answering, leaving, return_exceptions=True
                    )

    def _note(self, scope, method, answer, seconds):
        """Counts and logs a request."""
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
    """What is sent to a client, with the headers that all answers have.

    Attributes:
        request_id: bytes.
        has_begun: whether something was sent.
        status: of HTTP; until it is sent, as if nobody waited for it.
    """

    def __init__(self, send, request_id):
        self._send, self.request_id = send, request_id
        self.has_begun, self.status = False, _LEFT

    async def send(self, message):
        """For the application.

        Raises:
            ClientLeftError: or it does not read, which is the same here.
        """
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            sent = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(item for item in _HEADERS.items() if item[0] not in sent),
                (b"x-request-id", self.request_id),
            ]
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise ClientLeftError from None


async def _end(receive):
    """Returns when the client leaves, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def error_response(error) -> responses.JSONResponse:
    """The answer that an `ApiError` is."""
    return responses.JSONResponse(error.body, error.status, error.headers)


def log_access(is_wanted) -> None:
    """Has a line of JSON for each request written to standard error, or not."""
    _access.propagate, _access.handlers = False, []
    if is_wanted:
        _access.setLevel(logging.INFO)
        _access.addHandler(logging.StreamHandler())
