"""The models that are served: found in a directory, loaded, replaced."""

import dataclasses
import functools
import gc
import logging
import pathlib
import threading

import numpy as np
import tensorflow as tf

from stacked_rnn import (
    artifact,
    batching,
    evaluation,
    inference,
    prediction,
    translation,
)
from stacked_rnn.configs import UserError
from stacked_rnn.serving import rankings

_LOAD = {
    "language_model": inference.load,
    "classifier": prediction.load,
    "seq2seq": translation.load,
}
_LEARNED = {  # what the best epoch of the validation says
    "language_model": "Text that it had not seen costs it "
    "{bits_per_character:.2f} bits a character; each next token is as hard to "
    "guess as one of {perplexity:.1f}.",
    "classifier": "Of texts that it had not seen it labels {accuracy:.1%} "
    "right.",
    "seq2seq": "For {exact_match:.1%} of the texts that it had not seen it "
    "makes exactly the right one.",
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A version of a model, ready.

    Attributes:
        name, version: of it.
        task: what it is for, as `--task` has it.
        created: time stamp of its files, seconds since 1970.
        model: what `load` gave, of `inference`, `prediction` or `translation`.
        batcher: a `batching.Batcher` over it; None: it generates nothing.
        card: sentences on what it is.
    """

    name: str
    version: int
    task: str
    created: int
    model: (
        inference.SavedModel
        | prediction.SavedClassifier
        | translation.SavedTranslator
    )
    batcher: batching.Batcher | None
    card: list[str]

    def close(self, seconds=None) -> None:
        """Takes no more texts; see `batching.Batcher.close`."""
        if self.batcher:
            self.batcher.close(seconds)

    @functools.cached_property
    def rank(self):
        """See `rankings.rank_function`."""
        return rankings.rank_function(self.model)

    def prompt(self, token_ids, scored):
        """A prompt as the answer may need it.

        Args:
            token_ids: int32 [tokens].
            scored: whether log p is wanted.

        Returns:
            Its text, the bytes of its tokens, and log p of each: None for the
            first, and for all where they are not wanted.
        """
        tokens = self.model.token_bytes[token_ids].tolist()
        log_probs = [None] * len(tokens)
        if scored and len(tokens) > 1:
            functions = self.model.functions
            log_probs[1:] = (
                -evaluation.nats_of_text(
                    functions.score_window,
                    token_ids,
                    functions.initial_states(1),
                    progress=lambda done: None,
                )
            ).tolist()
        return b"".join(tokens).decode("utf-8", "replace"), tokens, log_probs


class Repository:
    """The models below a directory, the highest version of each.

    Args:
        saved_model: a version directory, the directory of a model's versions,
            or one with several of these; empty: saved_models/.
        model_name: what a single model is called; empty: as its directory.
        deliver, max_waiting, jit_compile: see `batching.Batcher`.

    Raises:
        UserError: there is no model.
    """

    def __init__(
        self, saved_model, model_name, deliver, max_waiting, jit_compile
    ):
        self._root = pathlib.Path(saved_model or "saved_models")
        self._model_name = model_name
        self._deliver, self._max_waiting = deliver, max_waiting
        self._jit_compile = jit_compile
        self._served = {}
        self._failed = {}  # name -> (version, message)
        self._stopping = threading.Event()
        self._poller = None
        if not self._root.is_dir():
            raise UserError(
                f"--saved_model={self._root}: no such directory: train.py "
                "exports a model there"
            )
        found = self._find()
        if not found:
            raise UserError(
                f"--saved_model={self._root}: neither a SavedModel nor a "
                "directory of some: there is no saved_model.pb below it"
            )
        if model_name and len(found) > 1:
            raise UserError(
                f"--model_name={model_name}: there are several models in "
                f"{self._root}, named as their directories: "
                + ", ".join(sorted(found))
            )

    def __getitem__(self, name) -> Served:
        return self._served[name]

    def __iter__(self):
        """Those that are ready, by name."""
        return iter(sorted(self._served.values(), key=lambda one: one.name))

    def states(self, name) -> dict:
        """version -> (state, error code, message), as TensorFlow Serving has.

        Raises:
            KeyError: there is no such model.
        """
        states = {}
        if name in self._failed:
            version, message = self._failed[name]
            states[version] = ("END", "INVALID_ARGUMENT", message)
        if name in self._served:
            states[self._served[name].version] = ("AVAILABLE", "OK", "")
        if not states:
            raise KeyError(name)
        return states

    def update(self) -> None:
        """Loads what is new, and lets go of what it replaces.

        Requests go to the old version until the new one is ready. A version
        that cannot be loaded is named once, and the old one stays.
        """
        for name, path in self._find().items():
            version = _version(path)
            served = self._served.get(name)
            is_known = served and served.version == version
            if is_known or self._failed.get(name, (None,))[0] == version:
                continue
            try:
                self._served[name] = self._load(name, version, path)
            except Exception as error:  # whatever is wrong with it
                logging.error("%s version %s: %s", name, version, error)
                self._failed[name] = (version, str(error).split("\n")[0])
                continue
            self._failed.pop(name, None)
            _settle()
            logging.info("%s version %s is ready", name, version)
            if served:
                threading.Thread(target=served.close).start()

    def watch(self, seconds) -> None:
        """Updates from now on, so often."""

        def poll():
            while not self._stopping.wait(seconds):
                self.update()

        self._poller = threading.Thread(target=poll, daemon=True)
        self._poller.start()

    def close(self, seconds) -> None:
        """Takes no more texts, and gives those that are here so long."""
        self._stopping.set()
        closing = [
            threading.Thread(target=served.close, args=[seconds])
            for served in self
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _find(self) -> dict:
        """name -> the directory of the highest version that is complete."""
        if path := artifact.find_version(self._root):
            directory = path.parent if path.name.isdigit() else path
            return {self._model_name or directory.resolve().name: path}
        found = {
            directory.name: artifact.find_version(directory)
            for directory in self._root.iterdir()
            if directory.is_dir()
        }
        return {name: path for name, path in found.items() if path}

    def _load(self, name, version, path) -> Served:
        description = artifact.read_description(path)
        model, batcher = _LOAD[description.task](path), None
        if description.task != "language_model":
            _warm_up(model.functions)
        else:
            batcher = batching.Batcher(
                model, self._deliver, self._max_waiting, self._jit_compile
            )
            if self._jit_compile and name in self._served:
                batcher.is_compiled.wait()  # the old version serves meanwhile
        created = int((path / "saved_model.pb").stat().st_mtime)
        card = _card(description, model.functions.weights)
        return Served(
            name, version, description.task, created, model, batcher, card
        )


def _card(description, weights) -> list[str]:
    """What a model is, in sentences."""
    config, training = description.model_config, description.training
    cell = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "Simple RNN"}
    what = f"{description.task.replace('_', ' ')}, {config.num_layers} layer(s)"
    if description.task == "seq2seq":
        what = (
            f"encoder, {config.num_layers} layer(s), and decoder with "
            f"attention, {config.decoder_layers or config.num_layers} layer(s)"
        )
    num_parameters = sum(int(np.prod(weight.shape)) for weight in weights)
    sentences = [
        f"{'Bidirectional ' * config.bidirectional}{cell[config.cell]} "
        f"{what} of {config.units} units: {num_parameters:,} parameters, "
        f"{config.vocabulary_size:,} tokens ({description.tokenizer.kind})."
    ]
    if description.labels:
        sentences.append(f"Its classes: {', '.join(description.labels)}.")
    if not training:
        return sentences
    sentences.append(
        f"Trained on {training['corpus']}: {training['characters']:,} "
        f"characters, {training['epochs']:g} epoch(s)."
    )
    if validation := training["validation"]:
        sentences.append(_LEARNED[description.task].format(**validation))
    return sentences


def _warm_up(functions) -> None:
    """Calls the signatures that take texts alone: the first call is slow."""
    for signature in functions.signatures.values():
        inputs = signature.structured_input_signature[1]
        if all(spec.dtype == tf.string for spec in inputs.values()):
            signature(**dict.fromkeys(inputs, tf.constant([""])))


def _settle() -> None:
    """Has the garbage collector pass over what is there for long.

    To look through TensorFlow's objects takes it some 0.2 s, in which nobody
    gets an answer. What a replaced version leaves goes when the next one comes.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _version(path) -> int:
    return int(path.name) if path.name.isdigit() else 1
