"""A SavedModel of this project, loaded: all that generation and scoring need.

Reads the directory alone; imports neither models nor training.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import evaluation, tokenizers
from stacked_rnn.configs import ModelConfig, SamplingConfig, UserError

TOKENIZER_FILE = "assets/tokenizer.json"
CONFIG_FILE = "assets.extra/config.json"
_BATCH_SIZE = 64  # rows generated together


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated text.

    Attributes:
        prompt: what it continues.
        text: the continuation alone.
        seed: what it was drawn with.
        finish_reason: "length", or "stop" at a stop string.
        mean_log_prob: mean log p of its tokens, in nats; None without any.
    """

    prompt: str
    text: str
    seed: int
    finish_reason: str
    mean_log_prob: float | None


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A SavedModel of this project, loaded.

    Attributes:
        path: the directory of its version.
        model_config: the `ModelConfig` it was built from.
        defaults: the `SamplingConfig` it was exported with.
        tokenizer: the tokenizer, for work outside the graph.
        functions: what `tf.saved_model.load` gave: the methods of
            `TextGenerator`, and `signatures`.
    """

    path: pathlib.Path
    model_config: ModelConfig
    defaults: SamplingConfig
    tokenizer: tokenizers.Tokenizer
    functions: object

    def generate(self, prompts, sampling, stop=(), num_samples=1):
        """Yields the continuations of each prompt, in order.

        Args:
            prompts: list of strings.
            sampling: a `SamplingConfig`.
            stop: strings that end a text, themselves left out.
            num_samples: continuations of each prompt, by seeds that count up.

        Yields:
            A `Sample` for each prompt and seed.
        """
        rows = [
            (prompt, sampling.seed + number)
            for prompt in prompts
            for number in range(num_samples)
        ]
        for first in range(0, len(rows), _BATCH_SIZE):
            yield from self._generate(
                rows[first : first + _BATCH_SIZE], sampling, stop
            )

    def _generate(self, rows, sampling, stop):
        prompts, seeds = zip(*rows)
        drawn = self.functions.signatures["generate"](
            prompts=tf.constant(prompts),
            max_new_tokens=tf.constant([sampling.max_new_tokens]),
            temperature=tf.constant([sampling.temperature], tf.float32),
            top_k=tf.constant([sampling.top_k]),
            top_p=tf.constant([sampling.top_p], tf.float32),
            repetition_penalty=tf.constant(
                [sampling.repetition_penalty], tf.float32
            ),
            seed=tf.constant(seeds, tf.int64),
        )
        for prompt, seed, token_ids, log_probs, length in zip(
            prompts,
            seeds,
            drawn["token_ids"],
            drawn["log_probs"].numpy(),
            drawn["lengths"].numpy(),
        ):
            pieces = self.tokenizer.detokenize(token_ids[:length, None]).numpy()
            text, count, stopped = _cut(pieces.tolist(), stop)
            yield Sample(
                prompt,
                text,
                seed,
                "stop" if stopped else "length",
                float(log_probs[:count].mean()) if count else None,
            )

    def evaluate(self, text) -> dict:
        """Scores a byte string, the state carried through all of it.

        Returns:
            nats_per_token, perplexity, bits_per_character, tokens, characters
            and unknown_tokens.
        """
        token_ids = self.tokenizer.tokenize(tf.constant([text])).flat_values
        if token_ids.shape[0] < 2:
            raise UserError("--text: the text is shorter than two tokens")
        with _progress_bar(token_ids.shape[0] - 1) as progress:
            nats = evaluation.score_token_ids(
                self.functions.score_window,
                token_ids,
                self.functions.initial_states(1),
                progress=progress,
            )
        score = evaluation.Score(
            nats, token_ids.shape[0] - 1, len(text.decode("utf-8", "replace"))
        )
        unknown_id = self.tokenizer.unknown_id
        unknown = 0
        if unknown_id is not None:
            unknown = int(np.count_nonzero(token_ids == unknown_id))
        return {
            "nats_per_token": score.nats_per_token,
            "perplexity": score.perplexity,
            "bits_per_character": score.bits_per_character,
            "tokens": score.tokens,
            "characters": score.characters,
            "unknown_tokens": unknown,
        }


def _cut(pieces, stop):
    """Joins the bytes of the tokens and ends the text before a stop string.

    Returns:
        The text, how many tokens it takes, and whether a stop string was met.
    """
    content = b"".join(pieces)
    found = [content.find(string.encode()) for string in stop]
    end = min((at for at in found if at >= 0), default=None)
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    count = len(pieces) if end is None else int((starts < end).sum())
    return content[:end].decode("utf-8", "replace"), count, end is not None


@contextlib.contextmanager
def _progress_bar(total):
    """A function that shows progress on standard error; None off a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.redirect_stdout(sys.stderr):  # Keras writes to stdout
        yield keras.utils.Progbar(total, unit_name="token").update


def load(saved_model="") -> SavedModel:
    """Loads a SavedModel that `TextGenerator.save` wrote.

    Args:
        saved_model: a version directory, or its parent: the highest version;
            empty: the newest under saved_models/.

    Raises:
        UserError: naming what is missing or damaged.
    """
    path = _find(saved_model)
    model_config, defaults, tokenizer = read_description(path)
    try:
        functions = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow has many types for a damaged file
        raise UserError(
            f"--saved_model={path}: damaged or cut short "
            f"({type(error).__name__}): copy or export it again"
        ) from error
    return SavedModel(path, model_config, defaults, tokenizer, functions)


def read_description(path, flag="saved_model"):
    """What a SavedModel says of itself besides its graph and its weights.

    Args:
        path: the directory of a version.
        flag: what a `UserError` calls it.

    Returns:
        Its `ModelConfig`, the `SamplingConfig` it was exported with, and its
        tokenizer.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
        tokenizer = json.loads(
            (path / TOKENIZER_FILE).read_text(encoding="utf-8")
        )
        return (
            ModelConfig.from_dict(config["model"]),
            SamplingConfig.from_dict(config["sampling"]),
            tokenizers.from_dict(tokenizer),
        )
    except FileNotFoundError as error:
        raise UserError(
            f"--{flag}={path}: not a SavedModel of stacked_rnn: it has no "
            f"{os.path.relpath(error.filename, path)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--{flag}={path}: damaged: {error}; export it again"
        ) from error


def _find(saved_model) -> pathlib.Path:
    """The version directory that `--saved_model` means."""
    if not saved_model:
        found = pathlib.Path("saved_models").glob("*/[0-9]*/saved_model.pb")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            raise UserError(
                "no SavedModel under saved_models/: run train.py first, or "
                "name one with --saved_model=DIR"
            )
        return newest.parent
    path = pathlib.Path(saved_model)
    if not path.is_dir():
        raise UserError(f"--saved_model={path}: no such directory")
    version = find_version(path)
    if version is None:
        raise UserError(
            f"--saved_model={path}: neither a SavedModel nor a directory of "
            "its versions: there is no saved_model.pb in it"
        )
    return version


def find_version(path) -> pathlib.Path | None:
    """The SavedModel that a directory is, or the highest version in it."""
    if (path / "saved_model.pb").exists():
        return path
    complete = [
        version
        for version in versions(path)
        if (path / str(version) / "saved_model.pb").exists()
    ]
    return path / str(max(complete)) if complete else None


def versions(export_dir) -> list[int]:
    """The versions in a directory: its entries whose names are numbers."""
    return [
        int(path.name) for path in export_dir.iterdir() if path.name.isdigit()
    ]
