"""The server as a whole: models, application, socket, and their end."""

import contextlib
import errno
import logging
import socket
import threading
import time

import uvicorn

from stacked_rnn.configs import UserError
from stacked_rnn.serving import (
    access,
    app,
    connections,
    guard,
    openai_stream,
    repository,
)
from stacked_rnn.utils import terminal

# Longer than proxies keep idle connections: it is they who should close them.
_KEEP_ALIVE_SECONDS = 75
_GOODBYE_SECONDS = 5  # for the last bytes of answers
_LOCAL = ("127.0.0.1", "::1")  # what `localhost` may mean to a client

_log = logging.getLogger(__name__)


class Server:
    """Serves in threads of its own while the `with` block lasts.

    On the way out new requests are refused, and those that are here, of all
    kinds, go on for `drain_seconds`.

    Args:
        config: a `ServeConfig`.

    Attributes:
        port: the one it listens on.

    Raises:
        UserError: there is nothing to serve, or no place to do it.
    """

    def __init__(self, config):
        self._config = config
        keys = ()
        if config.api_keys_file:
            content = terminal.read_file("api_keys_file", config.api_keys_file)
            keys = access.read_keys(content, config.api_keys_file)
            _log.info("%d API key(s) open /v1", len(keys))
        self._repository = repository.Repository(
            config.saved_model,
            config.model_name,
            openai_stream.deliver,
            config.max_waiting,
            config.jit_compile,
            config.max_loaded,
        )
        _allow_many_connections()
        self._sockets = _listen(config.host, config.port)
        self.port = self._sockets[0].getsockname()[1]
        self._app = app.create_app(self._repository, config, keys)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._app,
                http=connections.Connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GOODBYE_SECONDS,
            )
        )
        # Not in the main thread uvicorn leaves the signals alone.
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": self._sockets}
        )

    def __enter__(self):
        self._thread.start()
        _log.info(
            "listening at %s/, loading what is in %s",
            self._base_url,
            self._config.saved_model or "saved_models",
        )
        self._repository.update()
        if self._repository.is_settled and not [*self._repository]:
            self._stop()
            raise UserError(
                f"--saved_model={self._config.saved_model}: none of its "
                "models can be loaded, see above"
            )
        self._repository.watch(self._config.poll_seconds)
        return self

    def __exit__(self, *_):
        state = self._app.state
        state.is_draining = True
        end = time.monotonic() + self._config.drain_seconds
        while state.num_active and time.monotonic() < end:
            time.sleep(0.02)
        self._repository.close(max(0, end - time.monotonic()))
        self._stop()

    def _stop(self):
        self._uvicorn.should_exit = True
        self._thread.join()
        for pool in self._app.state.pools:
            pool.close()

    def stop_loading(self) -> None:
        """Loads no more models: for a signal that comes while they load."""
        self._repository.stop()

    @property
    def _base_url(self):
        """What a browser of this machine opens."""
        host = self._config.host
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(
            host, host
        )
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def urls(self) -> list[str]:
        """Lines that say where to find what."""
        base = self._base_url
        names = ", ".join(one.name for one in self._repository.listed())
        return [
            f"Serving {names} at {base}/",
            f"  OpenAI's API: base_url={base}/v1",
            f"  TensorFlow Serving's: {base}/v1/models/NAME:predict",
        ]


def _allow_many_connections() -> None:
    """Each is an open file, of which a shell allows few by default."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS: not without end
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host, port) -> list[socket.socket]:
    """Sockets for all addresses of a host, on one port."""
    sockets = []
    try:
        families = {
            family: address
            for name in (_LOCAL if host == "localhost" else (host,))
            for family, *_, (address, *_) in socket.getaddrinfo(
                name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        }
        for family, address in families.items():
            is_any = address == "::"
            try:
                listening = socket.create_server(
                    (address, port),
                    family=family,
                    backlog=1024,
                    dualstack_ipv6=is_any and socket.has_dualstack_ipv6(),
                )
            except OSError as error:
                # A name may have an IPv6 address, and the machine no IPv6.
                missing = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                if error.errno in missing and len(families) > 1:
                    continue
                raise
            # A connection whose other side takes nothing ends (Linux).
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listening.setsockopt(
                    socket.IPPROTO_TCP,
                    socket.TCP_USER_TIMEOUT,
                    int(1e3 * guard.STALL_SECONDS),
                )
            sockets.append(listening)
            port = listening.getsockname()[1]  # the same one, if it was 0
        if not sockets:
            raise OSError("it has no address of this machine")
    except (OSError, OverflowError, UnicodeError) as error:
        for listening in sockets:
            listening.close()
        raise UserError(
            f"--host={host} --port={port}: {error}: take another"
        ) from error
    return sockets
