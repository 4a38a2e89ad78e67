"""Errors of requests: in OpenAI's format, and within the server."""

TOO_LONG = "The request took longer than this server allows"


class ApiError(Exception):
    """Ends a request with an error that the client sees.

    Args:
        status: the HTTP status.
        message: the message for the client.
        param: the name of the wrong field in the body, or None.
        code: OpenAI's error code, or None.
        retry_after: seconds to wait before asking again, for 429 and 503.

    Attributes:
        status: the HTTP status.
        body: the body of the answer, a dict for JSON.
        headers: dict of the headers that this status needs.
    """

    def __init__(self, status, message, param=None, code=None, retry_after=1):
        super().__init__(message)
        self.status = status
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        by_class = "invalid_request_error" if status < 500 else "server_error"
        self.body = {
            "error": {
                "message": message,
                "type": kinds.get(status, by_class),
                "param": param,
                "code": code,
            }
        }
        self.headers = {}
        if status in (429, 503):
            self.headers["retry-after"] = str(retry_after)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


class BusyError(Exception):
    """The queue is full."""


class ClientLeftError(Exception):
    """The client has closed the connection, or has stopped reading."""
