"""Reading request bodies, within limits, and decompressing them."""

import asyncio
import contextlib
import re
import zlib

from stacked_rnn.serving.errors import ApiError, ClientLeftError

SECONDS = 60.0  # for a client to send a body
MOST_BYTES = 2**26  # of all bodies held until their requests are answered
MOST_PARTS = 20_000  # lists and objects per body: about 100 bytes each
# Matches JSON that has more of them, not counting those in strings. Possessive
# quantifiers, and strings that may end with the body, rule backtracking out:
# no byte is read twice.
_STRING = rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)'
_TOO_MANY_PARTS = re.compile(
    rb'(?:(?:[^"\[{]++|%s)*+[\[{]){%d}+' % (_STRING, MOST_PARTS + 1), re.DOTALL
)


class Bodies:
    """Reads request bodies, and limits the bytes of all of them together.

    Args:
        limit: most bytes of a body, both as sent and decompressed.
    """

    def __init__(self, limit):
        self._limit, self._held = limit, 0

    @contextlib.asynccontextmanager
    async def read(self, scope, receive):
        """Reads the body of a request; it counts as held in the `with` block.

        Args:
            scope, receive: the ASGI scope and the callable of the request.

        Yields:
            The body, bytes.

        Raises:
            ApiError: the body is refused.
            ClientLeftError: the client left before it had sent the body.
        """
        headers, parts = dict(scope["headers"]), []
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"gzip"):
            raise ApiError(
                415,
                f"content-encoding {encoding.decode('latin-1')[:40]} is not "
                "supported: send gzip, or no content-encoding",
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
                    408, f"The body did not arrive within {SECONDS:g} seconds"
                ) from None
            body = b"".join(parts)
            if encoding == b"gzip" and body:
                packed, body = body, self._unpacked(body)
                self._hold(len(body) - len(packed))
            parts[:] = [body]
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
            self._hold(len(part))
            parts.append(part)

    def _hold(self, size):
        """Counts bytes as held, if there is room for them."""
        if self._held + size > MOST_BYTES:
            raise ApiError(
                503,
                "The bodies of other requests fill the memory for bodies: "
                "try again later",
            )
        self._held += size

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
    """Refuses JSON that would be much larger in memory than it is as bytes."""
    # This count includes strings, and clears most bodies quickly.
    count = body.count(b"[") + body.count(b"{")
    if count > MOST_PARTS and _TOO_MANY_PARTS.match(body):
        raise ApiError(
            400, f"The body has more than {MOST_PARTS} lists and objects"
        )
