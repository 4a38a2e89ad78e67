"""Answers that are errors, as OpenAI writes them."""


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for the client.
        param: the field of the body that is wrong.
        code: of OpenAI's, where there is one.
        retry_after: of 429 and 503, seconds until to ask again.

    Attributes:
        status: of HTTP.
        body: what JSON can say.
        headers: dict of those that go with the status.
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


class ClientLeftError(Exception):
    """Nobody waits for an answer any more."""
