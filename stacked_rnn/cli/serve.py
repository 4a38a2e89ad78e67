r"""Serves exported models: OpenAI's and TensorFlow Serving's APIs, and a page.

  python serve.py                                 every model in saved_models/
  python serve.py --saved_model=saved_models/pydoc --port=8000
  python serve.py --host=0.0.0.0 --api_keys_file=keys.txt

Then open http://127.0.0.1:8501/ in a browser, or:

  curl http://127.0.0.1:8501/v1/completions --json \
    '{"model": "pydoc", "prompt": "The ", "max_tokens": 100}'
  curl http://127.0.0.1:8501/v1/models/pydoc:predict \
    -d '{"instances": ["The "]}'

A new version in the directory is loaded and replaces the old one without a
pause. After SIGTERM or Ctrl-C, running requests finish, others are refused.
Needs: pip install --editable '.[serve]'
"""

import logging
import queue
import signal
import sys
import threading

from stacked_rnn import configs
from stacked_rnn.cli import flags

_SIGNALS = signal.SIGTERM, signal.SIGINT


def main(config):
    """Serves the models until a signal ends the process."""
    try:
        from stacked_rnn.serving import server
    except ImportError as error:
        raise configs.UserError(
            f"{error.name} is missing: pip install --editable '.[serve]'"
        ) from error

    _log_to_standard_error()
    # A signal handler may interrupt any code; `SimpleQueue` is safe in one.
    signals, stop = queue.SimpleQueue(), threading.Event()
    model_server = server.Server(config)
    model_server.share_cores()

    def receive(number, frame):
        for each in _SIGNALS:  # a second signal ends at once
            signal.signal(each, signal.SIG_DFL)
        signals.put(number)

    def end():
        signals.get()
        stop.set()
        model_server.stop_loading()

    for each in _SIGNALS:
        signal.signal(each, receive)
    threading.Thread(target=end, daemon=True).start()
    with model_server:
        if not stop.is_set():
            print(*model_server.urls(), sep="\n", file=sys.stderr)
        stop.wait()
        print(
            "stopping after the running requests, within "
            f"{config.drain_seconds:g} seconds; a second signal stops at once",
            file=sys.stderr,
        )


def _log_to_standard_error():
    """Logs which models are loaded, replaced or refused."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    log = logging.getLogger("stacked_rnn.serving")
    log.propagate, log.handlers = False, [handler]
    log.setLevel(logging.INFO)


def run():
    """Console entry point."""
    flags.run(main, configs.ServeConfig)
