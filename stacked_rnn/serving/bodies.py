"""Bodies of requests: read whole, within limits, and unpacked."""

import asyncio
import contextlib
import re
import zlib

from stacked_rnn.serving.errors import ApiError, ClientLeftError

SECONDS = 60.0  # that a client has to send a body
MOST_BYTES = 2**26  # of all bodies that are here, until they are answered
MOST_PARTS = 20_000  # lists and objects of a body: some hundred bytes each
# So many and one more, outside of strings. No byte is looked at twice: nothing
# is given back once it has matched, and a string ends where the body does.
_STRING = rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)'
_TOO_MANY_PARTS = re.compile(
    rb'(?:(?:[^"\[{]++|%s)*+[\[{]){%d}+' % (_STRING, MOST_PARTS + 1), re.DOTALL
)


class Bodies:
    """Reads the bodies of requests, and knows how many bytes are held.

    Args:
        limit: most bytes of a body, as it is sent and unpacked.
    """

    def __init__(self, limit):
        self._limit, self._held = limit, 0

    @contextlib.asynccontextmanager
    async def read(self, scope, receive):
        """The body of a request, bytes, held while the `with` block lasts.

        Args:
            scope, receive: of ASGI.

        Raises:
            ApiError: it is refused.
            ClientLeftError: before the body was whole.
        """
        headers, parts = dict(scope["headers"]), []
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"gzip"):
            raise ApiError(
                415,
                f"content-encoding {encoding.decode('latin-1')[:40]}: send "
                "gzip, or the body as it is",
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._limit:
            raise self._too_large()
        try:
            try:
                async with asyncio.timeout(SECONDS):
                    await self._receive(receive, parts)
            except TimeoutError:
                raise ApiError(
                    408, f"The body did not come within {SECONDS:g} seconds"
                ) from None
            parts[:] = [b"".join(parts)]
            packed = encoding == b"gzip" and parts[0]
            body = self._unpacked(parts[0]) if packed else parts[0]
            _check_parts(body)
            yield body
        finally:
            self._held -= sum(map(len, parts))

    async def _receive(self, receive, parts):
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part, more = message.get("body", b""), message.get("more_body")
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            if self._held + len(part) > MOST_BYTES:
                raise ApiError(
                    503,
                    "Other requests fill the memory that there is for bodies: "
                    "try again later",
                )
            self._held += len(part)
            parts.append(part)

    def _unpacked(self, packed):
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            body = unpacker.decompress(packed, self._limit + 1)
        except zlib.error as error:
            raise ApiError(400, f"The body is not gzip: {error}") from None
        if len(body) > self._limit:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise ApiError(400, "The body is not one whole gzip file")
        return body

    def _too_large(self):
        return ApiError(413, f"The body has more than {self._limit} bytes")


def _check_parts(body) -> None:
    """Refuses what would be much larger in memory than it is in JSON."""
    # Most bodies are settled without a look at what is a string.
    count = body.count(b"[") + body.count(b"{")
    if count > MOST_PARTS and _TOO_MANY_PARTS.match(body):
        raise ApiError(
            400, f"The body has more than {MOST_PARTS} lists and objects"
        )
