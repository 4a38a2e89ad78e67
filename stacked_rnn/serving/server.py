"""The server: sockets, models and application, from start to shutdown."""

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time

import tensorflow as tf
import uvicorn

from stacked_rnn import chat_templates
from stacked_rnn.configs import UserError
from stacked_rnn.serving import (
    access,
    app,
    connections,
    guard,
    openai_stream,
    repository,
)
from stacked_rnn.utils import devices, terminal

# Longer than proxies keep idle connections, so that the proxy closes them.
_KEEP_ALIVE_SECONDS = 75
_GOODBYE_SECONDS = 5  # for sending the last bytes of answers
_LOCAL = ("127.0.0.1", "::1")  # a client may take `localhost` for either

_log = logging.getLogger(__name__)


class Server:
    """Serves in threads of its own, while the `with` block lasts.

    At its end, new requests are refused, and running ones may continue for
    `drain_seconds`.

    Args:
        config: a `ServeConfig`.

    Attributes:
        port: the port that it listens on.

    Raises:
        UserError: there is no model, a file of a flag cannot be used, or it
            cannot listen on that address.
    """

    def __init__(self, config):
        self._config = config
        keys = ()
        if config.api_keys_file:
            content = terminal.read_file("api_keys_file", config.api_keys_file)
            keys = access.read_keys(content, config.api_keys_file)
            _log.info("requests need one of %d API key(s)", len(keys))
        template = None
        if path := config.chat_template:
            content = terminal.read_file("chat_template", path)
            template = chat_templates.decode(content, path)
        self._repository = repository.Repository(
            config.saved_model,
            config.model_name,
            openai_stream.deliver,
            config.max_waiting,
            config.jit_compile,
            config.max_loaded,
            config.prefix_cache_mib * 2**20,
        )
        _allow_many_connections()
        self._sockets = _listen(config.host, config.port)
        self.port = self._sockets[0].getsockname()[1]
        self._app = app.create_app(self._repository, config, keys, template)
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
        # Outside the main thread uvicorn installs no signal handlers.
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": self._sockets}
        )

    def __enter__(self):
        self._thread.start()
        _log.info(
            "listening at %s/, loading the models in %s",
            self._base_url,
            self._config.saved_model or "saved_models",
        )
        self._repository.update()
        if self._repository.is_settled and not [*self._repository]:
            self._stop()
            raise UserError(
                f"--saved_model={self._config.saved_model}: none of its "
                "models can be loaded: see the errors above"
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

    def share_cores(self) -> None:
        """Divides the cores of this process between TensorFlow and Python.

        Call it in a process that only serves, before TensorFlow computes. A
        step of a narrow model gains little from several cores, so one core is
        left to the threads of Python, unless the user has set
        `TF_NUM_INTRAOP_THREADS`; and a thread that has computed waits for them
        for half a millisecond, not five.
        """
        sys.setswitchinterval(5e-4)
        is_set = "TF_NUM_INTRAOP_THREADS" in os.environ
        if not (is_set or self._repository.has_wide_models()):
            tf.config.threading.set_intra_op_parallelism_threads(
                max(1, devices.cores() - 1)
            )

    def stop_loading(self) -> None:
        """Loads no more models, for a signal that comes during loading."""
        self._repository.stop()

    @property
    def _base_url(self):
        """The URL for a browser on this machine."""
        host = self._config.host
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(
            host, host
        )
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def urls(self) -> list[str]:
        """Returns lines to print: the URLs of the page and of both APIs."""
        base = self._base_url
        names = ", ".join(model.name for model in self._repository.listed())
        return [
            f"Serving {names} at {base}/",
            f"  OpenAI's API: base_url={base}/v1",
            f"  TensorFlow Serving's: {base}/v1/models/NAME:predict",
        ]


def _allow_many_connections() -> None:
    """Raises the limit of open files, as each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS rejects "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host, port) -> list[socket.socket]:
    """Opens sockets on one port, for all addresses of a host."""
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
                # A name may have an IPv6 address on a machine without IPv6.
                missing = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                if error.errno in missing and len(families) > 1:
                    continue
                raise
            # Ends connections whose client acknowledges nothing (Linux).
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listening.setsockopt(
                    socket.IPPROTO_TCP,
                    socket.TCP_USER_TIMEOUT,
                    int(1e3 * guard.STALL_SECONDS),
                )
            sockets.append(listening)
            port = listening.getsockname()[1]  # if it was 0: the one chosen
        if not sockets:
            raise OSError("no address of this host belongs to this machine")
    except (OSError, OverflowError, UnicodeError) as error:
        for listening in sockets:
            listening.close()
        raise UserError(
            f"--host={host} --port={port}: {error}: choose another"
        ) from error
    return sockets
