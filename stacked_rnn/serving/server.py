"""The server as a whole: models, application, socket, and their end."""

import logging
import socket
import threading

import uvicorn

from stacked_rnn import command_line
from stacked_rnn.configs import UserError
from stacked_rnn.serving import app, repository, streams

_log = logging.getLogger(__name__)


class Server:
    """Serves in threads of its own while the `with` block lasts.

    On the way out new requests are refused, and those that are here go on for
    `drain_seconds`.

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
            content = command_line.read_file(
                "api_keys_file", config.api_keys_file
            )
            keys = content.decode("utf-8", "replace").split()
            if not keys:
                raise UserError(
                    f"--api_keys_file={config.api_keys_file}: no key in it"
                )
        self._repository = repository.Repository(
            config.saved_model,
            config.model_name,
            streams.deliver,
            config.max_waiting,
            config.jit_compile,
            config.max_loaded,
        )
        self._socket = self._listen()
        self.port = self._socket.getsockname()[1]
        self._app = app.create_app(self._repository, config, keys)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=5,
            )
        )
        # Not in the main thread uvicorn leaves the signals alone.
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [self._socket]}
        )

    def _listen(self):
        host, port = self._config.host, self._config.port
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--host={host} --port={port}: {error}: take another"
            ) from error

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
        self._app.state.is_draining = True
        self._repository.close(self._config.drain_seconds)
        self._stop()

    def _stop(self):
        self._uvicorn.should_exit = True
        self._thread.join()

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
