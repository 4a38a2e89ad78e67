"""Loading SavedModels once in a process: each takes a second or more."""

import contextlib
import pathlib
from unittest import mock

import tensorflow as tf

_loaded = {}


@contextlib.contextmanager
def once():
    """A context in which files that have been loaded are not loaded again.

    Loading a directory then gives the object of the first time, unless a file
    in it has changed. A copy is loaded anew.
    """
    load = tf.saved_model.load

    def load_once(directory):
        key = tuple(
            (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            for path in sorted(pathlib.Path(directory).rglob("*"))
            for stat in [path.stat()]
        )
        if key not in _loaded:
            _loaded[key] = load(directory)
        return _loaded[key]

    with mock.patch("tensorflow.saved_model.load", load_once):
        yield
