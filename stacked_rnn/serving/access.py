"""Who may use the server: API keys and their limits, hosts, origins."""

import contextlib
import dataclasses
import hashlib
import hmac
import ipaddress
import math
import time
import urllib.parse

from stacked_rnn.configs import UserError
from stacked_rnn.serving.errors import ApiError

PATHS_WITHOUT_KEY = (
    "/", "/healthz", "/health", "/readyz", "/version", "/metrics",
    "/monitoring/prometheus/metrics",
)  # fmt: skip
_MIN_KEY_LENGTH = 8  # characters


def read_keys(content, path) -> list[str]:
    """Reads API keys: one per line; lines that begin with # are comments.

    Args:
        content: bytes of the file.
        path: path of the file, for error messages.

    Raises:
        UserError: there is no key, or a line is not a valid key.
    """
    keys = []
    lines = content.decode("utf-8-sig", "replace").splitlines()
    for line_number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key.split()) > 1 or len(key) < _MIN_KEY_LENGTH:
            raise UserError(
                f"--api_keys_file={path}, line {line_number}: a key has at "
                f"least {_MIN_KEY_LENGTH} characters and no spaces; put "
                "comments on lines of their own, beginning with #"
            )
        keys.append(key)
    if not keys:
        raise UserError(f"--api_keys_file={path}: the file has no key")
    return keys


@dataclasses.dataclass
class _Usage:
    """The use of a key. Its rate is limited by a token bucket.

    Attributes:
        num_active: requests being handled.
        tokens: number of requests that it may begin now.
        update_time: the `time.monotonic()` of `tokens`.
    """

    num_active: int
    tokens: float
    update_time: float


class Access:
    """Decides which requests are accepted.

    A web page could use a server on the reader's own machine through the
    reader's browser. So requests from pages of another origin are refused. A
    server on a loopback address also refuses requests for any host name but the
    machine's own, because a page can point its own name at 127.0.0.1 ("DNS
    rebinding").

    Args:
        config: a `ServeConfig`.
        api_keys: strings; if empty, no key is needed.
    """

    def __init__(self, config, api_keys):
        self._config = config
        self._usages = {
            hashlib.sha256(key.encode()).digest(): _Usage(
                0, config.max_per_minute_per_key, time.monotonic()
            )
            for key in api_keys
        }
        self._names = {name.lower() for name in config.allowed_hosts}
        self._has_names = bool(self._names) or is_loopback(config.host)
        self._names |= {config.host.lower(), "localhost"}

    @contextlib.contextmanager
    def entry(self, scope):
        """Accepts a request, and counts it as active in the `with` block.

        Args:
            scope: the ASGI scope of the request.

        Raises:
            ApiError: the request is refused.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        self._check_host(host)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers.get(b"origin"), host)
        if not self._usages or scope["path"] in PATHS_WITHOUT_KEY:
            yield
            return
        usage = self._usage(headers.get(b"authorization", b""))
        usage.num_active += 1
        try:
            yield
        finally:
            usage.num_active -= 1

    def _check_host(self, host):
        name = _without_port(host)
        if (
            self._has_names
            and name
            and not _is_address(name)
            and name not in self._names
            and not name.endswith(".localhost")
        ):
            raise ApiError(
                403,
                f"This server does not answer for the host {name[:100]}: "
                f"serve.py --allowed_hosts={name[:100]} allows it",
            )

    def _check_origin(self, origin, host):
        if origin is None:
            return
        origin = origin.decode("latin-1").lower()
        allowed = self._config.cors_origins
        if (
            "*" in allowed
            or origin in map(str.lower, allowed)
            or urllib.parse.urlsplit(origin).netloc == host != ""
        ):
            return
        raise ApiError(
            403,
            f"Web pages of {origin[:100]} may not use this server: serve.py "
            f"--cors_origins={origin[:100]} allows them",
        )

    def _usage(self, authorization) -> _Usage:
        """Checks the key of a request and counts the request.

        Raises:
            ApiError: the key is wrong, or has reached a limit.
        """
        scheme, _, given = authorization.partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        # Compares with every key, so that the time reveals nothing.
        found = [
            key for key in self._usages if hmac.compare_digest(digest, key)
        ]
        if scheme.lower() != b"bearer" or not found:
            raise ApiError(
                401,
                "Wrong or missing API key: send Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        usage, config = self._usages[found[0]], self._config
        if usage.num_active >= config.max_concurrent_per_key > 0:
            raise ApiError(
                429,
                f"This key has {usage.num_active} requests running, the most "
                "allowed: try again later",
            )
        if most := config.max_per_minute_per_key:
            now = time.monotonic()
            refilled = usage.tokens + (now - usage.update_time) * most / 60
            usage.tokens, usage.update_time = min(most, refilled), now
            if usage.tokens < 1:
                raise ApiError(
                    429,
                    f"This key has sent more than {most} requests per minute: "
                    "try again later",
                    retry_after=math.ceil((1 - usage.tokens) * 60 / most),
                )
            usage.tokens -= 1
        return usage


def is_loopback(host) -> bool:
    """Whether only this machine can reach a server on an address or name."""
    return host == "localhost" or (
        _is_address(host) and ipaddress.ip_address(host).is_loopback
    )


def _without_port(host) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
