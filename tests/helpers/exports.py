"""Exports that keep their functions in memory: writing these takes seconds."""

import contextlib
import pathlib
from unittest import mock

import tensorflow as tf

_load, _save = tf.saved_model.load, tf.saved_model.save
_KEY_FILE = "in_memory"  # in the directory of a version, so that copies have it
_exported = []


@contextlib.contextmanager
def in_memory():
    """A context in which exports are written without their functions.

    All else is written: weights, tokenizer, config.json, the card. In this
    process and such a context, loading an export, or a copy, gives the object
    that was exported. Only those of its functions are traced that a test calls.
    """
    with (
        mock.patch("tensorflow.saved_model.save", _save_weights),
        mock.patch("tensorflow.saved_model.load", _load_in_memory),
    ):
        yield


class _InMemory:
    """An `export.ExportedModel` with the interface of a loaded one."""

    def __init__(self, exported):
        self._exported, self.signatures = exported, exported.signatures()

    def __getattr__(self, name):
        return getattr(self._exported, name)


def _save_weights(exported, directory, signatures=None):
    part = tf.Module()
    part.weights = exported.weights
    part.tokenizer_json = exported.tokenizer_json
    _save(part, directory)
    pathlib.Path(directory, _KEY_FILE).write_text(str(len(_exported)))
    _exported.append(exported)


def _load_in_memory(directory):
    try:
        key = pathlib.Path(directory, _KEY_FILE).read_text()
    except FileNotFoundError:
        return _load(directory)
    return _InMemory(_exported[int(key)])
