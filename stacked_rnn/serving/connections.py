"""Connections with a time limit for the head of a request."""

from uvicorn.protocols.http import httptools_impl

SECONDS = 30.0  # for a client to send the head of a request
_MOST_BYTES = 65_536  # per head


class Connection(httptools_impl.HttpToolsProtocol):
    """uvicorn's protocol; closes where a request's head is slow or too long.

    uvicorn waits forever, so that a few thousand clients that send a byte now
    and then would hold all connections ("Slowloris"). The methods here are
    callbacks of asyncio and httptools.
    """

    def connection_made(self, transport):
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, error):
        super().connection_lost(error)
        self._timer.cancel()

    def data_received(self, data):
        super().data_received(data)
        if not self._timer.cancelled():
            self._size += len(data)
            if self._size > _MOST_BYTES:
                self.transport.abort()

    def on_message_begin(self):
        super().on_message_begin()
        self._timer.cancel()
        self._await_head()

    def on_headers_complete(self):
        super().on_headers_complete()
        self._timer.cancel()

    def _await_head(self):
        self._size = 0
        self._timer = self.loop.call_later(SECONDS, self.transport.abort)
