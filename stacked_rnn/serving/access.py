"""Who may use the server: API keys, their rates, hosts and origins."""

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

_NEED_NO_KEY = ("/", "/healthz", "/readyz", "/metrics")
_SHORTEST_KEY = 8  # characters


def read_keys(content, path) -> list[str]:
    """The API keys of a file: one a line, but for lines that begin with #.

    Args:
        content: of the file, bytes.
        path: of it, for errors.

    Raises:
        UserError: there is none, or a line that is no key.
    """
    keys = []
    lines = content.decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key.split()) > 1 or len(key) < _SHORTEST_KEY:
            raise UserError(
                f"--api_keys_file={path}, line {number}: a key has no blanks, "
                f"and at least {_SHORTEST_KEY} characters; comments stand on "
                "lines of their own, which begin with #"
            )
        keys.append(key)
    if not keys:
        raise UserError(f"--api_keys_file={path}: no key in it")
    return keys


@dataclasses.dataclass
class _Usage:
    """What is done with a key.

    Attributes:
        active: requests that are under way.
        left: requests that it may begin now.
        seen: `time.monotonic()` at which `left` was true.
    """

    active: int
    left: float
    seen: float


class Access:
    """Decides which requests are let in.

    Web pages of others must not use a server that somebody runs for himself:
    the browser of whoever reads such a page could reach it. So a request that a
    page of another origin sends is refused, and where the server is for this
    machine alone, one that was sent to another name than the machine's own: a
    page can have its own name point here ("DNS rebinding").

    Args:
        config: a `ServeConfig`.
        api_keys: strings; none: no key is needed.
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
        """Lets a request in while the `with` block lasts.

        Args:
            scope: of ASGI.

        Raises:
            ApiError: it is refused.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        self._check_host(host)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers.get(b"origin"), host)
        if not self._usages or scope["path"] in _NEED_NO_KEY:
            yield
            return
        usage = self._usage(headers.get(b"authorization", b""))
        usage.active += 1
        try:
            yield
        finally:
            usage.active -= 1

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
                f"The server is not called {name[:100]}: serve.py "
                f"--allowed_hosts={name[:100]} lets it be",
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
            f"--cors_origins={origin[:100]} lets them",
        )

    def _usage(self, authorization) -> _Usage:
        """Counts a request of a key."""
        scheme, _, given = authorization.partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        # All of them, so that the time does not tell which one was near.
        found = [
            one for one in self._usages if hmac.compare_digest(digest, one)
        ]
        if scheme.lower() != b"bearer" or not found:
            raise ApiError(
                401,
                "Wrong or missing API key: Authorization: Bearer KEY has it",
                code="invalid_api_key",
            )
        usage, config = self._usages[found[0]], self._config
        if usage.active >= config.max_concurrent_per_key > 0:
            raise ApiError(
                429,
                f"{usage.active} requests of this key are under way, as many "
                "as may be: try again later",
            )
        if most := config.max_per_minute_per_key:
            now = time.monotonic()
            gained = (now - usage.seen) * most / 60
            usage.left, usage.seen = min(most, usage.left + gained), now
            if usage.left < 1:
                raise ApiError(
                    429,
                    f"More than {most} requests a minute of this key: try "
                    "again later",
                    retry_after=math.ceil((1 - usage.left) * 60 / most),
                )
            usage.left -= 1
        return usage


def is_loopback(host) -> bool:
    """Whether what listens at an address or name is for this machine alone."""
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
