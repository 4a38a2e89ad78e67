"""A language model, loaded: continues texts and scores them."""

import collections
import dataclasses
import functools
import itertools
from concurrent import futures

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import ModelConfig, SamplingConfig, UserError
from stacked_rnn.decoding import generation
from stacked_rnn.decoding.incremental_text import Continuation
from stacked_rnn.inference import base
from stacked_rnn.utils import devices, terminal

_ROWS = 64  # most texts that are generated together
_ROWS_ON_GPU = 1024  # a step costs about the same for one text and for many
# From so many units on, a batch of fewer texts uses both cores better than two
# of half as many do: what costs is reading the weights. benchmarks/README.md.
_WIDE = 512
# Tokens one after the other from which XLA saves the seconds that it takes to
# compile, about: benchmarks/README.md.
WORTH_COMPILING = 8_000


@dataclasses.dataclass(frozen=True)
class SavedLanguageModel(base.LoadedModel):
    """A language model, loaded: continues texts and scores them.

    Raises:
        UserError: an older version of this project exported it.
    """

    def __post_init__(self):
        if not hasattr(self.functions, "beam_search"):
            raise UserError(
                f"--saved_model={self.path}: exported by an older version of "
                "stacked_rnn: export it again, train.py with the same flags "
                "does"
            )

    @property
    def model_config(self) -> ModelConfig:
        """The architecture."""
        return self.description.model_config

    @property
    def defaults(self) -> SamplingConfig:
        """The sampling options that it was exported with."""
        return SamplingConfig.from_dict(self.description.entries["sampling"])

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """The bytes of every token, by id."""
        token_ids = np.arange(self.tokenizer.vocabulary_size(), dtype=np.int32)
        return self.tokenizer.detokenize(
            tf.RaggedTensor.from_tensor(token_ids[:, None])
        ).numpy()

    @functools.cached_property
    def state_specs(self) -> dict:
        """`TensorSpec`s, [batch, units] each, by the names of `decode_step`."""
        decode_step = self.functions.signatures["decode_step"]
        specs = dict(decode_step.structured_input_signature[1])
        del specs["token_ids"]
        return specs

    def initial_states(self, batch_size) -> dict:
        """The states before a text, by the names of `decode_step`: arrays."""
        return {
            name: np.zeros(
                [batch_size, spec.shape[1]], spec.dtype.as_numpy_dtype
            )
            for name, spec in self.state_specs.items()
        }

    def generate(self, prompts, sampling, stop=(), num_samples=1):
        """Yields the continuations of each prompt, in order.

        Each core works on a batch of its own, unless the model is wide and the
        prompts are few; a GPU has one large batch. They are read only so far
        ahead as that takes: there may be any number of them.

        Args:
            prompts: iterable of strings.
            sampling: a `SamplingConfig`.
            stop: strings that end a text, themselves left out.
            num_samples: continuations of each prompt, by seeds that count up.

        Yields:
            A finished `Continuation` for each prompt and seed.
        """
        rows = (
            Continuation(prompt, (sampling.seed + number) % 2**63, stop)
            for prompt in prompts
            for number in range(num_samples)
        )
        compiles = False
        if devices.gpus():
            workers, most, fewest = 1, _ROWS_ON_GPU, _ROWS_ON_GPU
        else:
            workers, most = devices.cores(), _ROWS
            fewest = _ROWS if self.model_config.units >= _WIDE else 1
        with futures.ThreadPoolExecutor(workers) as pool:
            for group, batches in _in_batches(rows, workers, most, fewest):
                size = len(batches[0])
                rounds = -(-len(batches) // workers)
                compiles |= sampling.max_new_tokens * rounds >= WORTH_COMPILING
                grow = functools.partial(
                    self._grow, sampling=sampling, size=size, compiles=compiles
                )
                list(pool.map(grow, batches))
                yield from group

    def _grow(self, rows, sampling, size, compiles):
        """Generates a batch, padded to the size that XLA compiles for."""
        padding = Continuation("", 0)
        padding.stopped = True
        rows = rows + [padding] * (size - len(rows))
        carry = self.functions.begin(
            tf.constant([row.prompt for row in rows]),
            tf.constant([row.seed for row in rows], tf.int64),
        )
        collections.deque(self.decode(carry, rows, sampling, compiles), 0)

    def beam_search(
        self,
        prompts,
        sampling,
        *,
        num_beams,
        length_penalty,
        stop=(),
        num_samples=1,
    ):
        """Yields the best continuations that beam search finds, in order.

        A stop string that tokens begin with ends a text while it is searched
        for; one that takes several tokens cuts the text that was found. Texts
        that have an end come before those that were cut off.

        Args:
            prompts: iterable of strings, any number of them.
            sampling: a `SamplingConfig`: `max_new_tokens` and `seed`, which
                the continuations are given but nothing is drawn with.
            num_beams, length_penalty: see `beam_search`.
            stop: strings that end a text, themselves left out.
            num_samples: continuations of each prompt, at most num_beams.

        Yields:
            Finished `Continuation`s, the best of each prompt first; fewer than
            num_samples where so many do not exist.
        """
        stops = tuple(string.encode() for string in stop)
        options = {
            "num_beams": tf.constant(num_beams),
            "max_new_tokens": tf.constant(sampling.max_new_tokens),
            "length_penalty": tf.constant(length_penalty, tf.float32),
            "end_ids": tf.constant(
                [
                    token_id
                    for token_id, token in enumerate(self.token_bytes.tolist())
                    if token.startswith(stops)
                    or token_id == self.tokenizer.end_id
                ],
                tf.int32,
            ),
        }

        def search(batch):
            carry = self.functions.begin(
                tf.constant([texts.prompt for texts in batch]),
                tf.zeros(len(batch), tf.int64),
            )
            found = self.functions.beam_search(carry, **options)
            found = [
                found[name].numpy()
                for name in ("token_ids", "log_probs", "lengths", "scores")
            ]
            for texts, *rows in zip(batch, *found):
                for token_ids, log_probs, length, score in zip(*rows):
                    if score == -np.inf:
                        continue
                    text = Continuation(texts.prompt, sampling.seed, stop)
                    text.add(
                        self.token_bytes[token_ids[:length]].tolist(),
                        log_probs[:length],
                        ended=bool(length < sampling.max_new_tokens),
                    )
                    texts.found.append(text)
                # Some may have come to a stop string of several tokens.
                texts.found.sort(key=lambda text: not text.stopped)
                del texts.found[num_samples:]

        searched = (_Searched(prompt, []) for prompt in prompts)
        workers = devices.cores()
        with futures.ThreadPoolExecutor(workers) as pool:
            for group, batches in _in_batches(
                searched, workers, max(1, _ROWS // num_beams)
            ):
                list(pool.map(search, batches))
                for texts in group:
                    yield from texts.found

    def decode(self, carry, rows, sampling, compiles=False):
        """Lets texts grow to their ends, a chunk of tokens at a time.

        Args:
            carry: where the rows stand, from `functions.begin`, `extend`, or
                this.
            rows: their `Continuation`s.
            sampling: a `SamplingConfig`.
            compiles: whether XLA compiles.

        Yields:
            The carry after each chunk. The first are short, for somebody who
            waits to read.
        """

        def stopped():
            return tf.constant([row.stopped for row in rows])

        carry = carry | {"finished": stopped()}  # not at an earlier limit
        limits = carry["positions"] + sampling.max_new_tokens
        ones = tf.ones_like(limits)
        options = {
            "max_new_tokens": limits,
            "temperature": tf.cast(ones, tf.float32) * sampling.temperature,
        }
        # An export of an older version has no plain one.
        chunk = getattr(self.functions, "compiled_plain_chunk", None)
        if not (chunk and compiles and sampling.is_plain):
            chunk = self.functions.decode_chunk
            if compiles:
                chunk = self.functions.compiled_chunk
            options |= {
                "top_k": ones * sampling.top_k,
                "top_p": tf.cast(ones, tf.float32) * sampling.top_p,
                "repetition_penalty": (
                    tf.cast(ones, tf.float32) * sampling.repetition_penalty
                ),
            }
        count, left = 16, sampling.max_new_tokens
        while left > 0 and not all(row.stopped for row in rows):
            drawn = chunk(carry, options, tf.constant(min(count, left)))
            left -= count
            count = min(2 * count, generation.CHUNK)
            carry = drawn["carry"]
            ended = carry["finished"] & (carry["positions"] < limits)
            for row, token_ids, log_probs, length, row_ended in zip(
                rows,
                drawn["token_ids"].numpy(),
                drawn["log_probs"].numpy(),
                drawn["lengths"].numpy(),
                ended.numpy(),
            ):
                if not row.stopped:
                    row.add(
                        self.token_bytes[token_ids[:length]].tolist(),
                        log_probs[:length],
                        bool(row_ended),
                    )
            carry["finished"] |= stopped()
            yield carry

    @functools.cached_property
    def _compiled_score_window(self):
        return tf.function(
            self.functions.score_window, jit_compile=True, autograph=False
        )

    def token_nats(self, text):
        """What each token of a text costs the model: a progress bar on a tty.

        Returns:
            The token ids, int32 [tokens], and the nats of all but the first,
            float32 [tokens - 1].
        """
        token_ids = self.tokenizer.tokenize([text]).flat_values.numpy()
        if len(token_ids) < 2:
            return token_ids, np.zeros(0, np.float32)
        with terminal.progress_bar(len(token_ids) - 1, "token") as progress:
            score_window = self.functions.score_window
            # On a GPU each op of each time step would be a launch.
            if devices.gpus() and len(token_ids) >= WORTH_COMPILING:
                score_window = self._compiled_score_window
            nats = metrics.nats_of_text(
                score_window,
                token_ids,
                self.functions.initial_states(1),
                progress=progress,
            )
        return token_ids, nats

    def surprisals(self, continuation) -> list:
        """What each token of a prompt and its continuation costs.

        Returns:
            (token bytes, nats, whether it is of the prompt) for each token, as
            `surprisal_html.page` takes them; nats is None for the first of a
            prompt.
        """
        token_ids, nats = self.token_nats(continuation.prompt)
        given = zip(self.token_bytes[token_ids], [None, *nats.tolist()])
        drawn = zip(continuation.tokens, continuation.log_probs)
        return [
            *((token, cost, True) for token, cost in given),
            *((token, -log_prob, False) for token, log_prob in drawn),
        ]

    def evaluate_files(self, config, search) -> dict:
        from stacked_rnn import datasets  # which generation does without

        return self.evaluate(datasets.read_text(config.text, self.tokenizer))

    def evaluate(self, text) -> dict:
        """Scores a byte string, the state carried through all of it.

        Returns:
            nats_per_token, perplexity, bits_per_character, tokens, characters
            and unknown_tokens.
        """
        token_ids, nats = self.token_nats(text)
        if not len(nats):
            raise UserError("--text: the text is shorter than two tokens")
        score = metrics.Score(
            float(nats.sum(dtype=np.float64)),
            len(nats),
            len(text.decode("utf-8", "replace")),
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


@dataclasses.dataclass(frozen=True)
class _Searched:
    """A prompt and the continuations that a search found, the best first."""

    prompt: str
    found: list


def _in_batches(rows, workers, most, fewest=1):
    """Cuts an iterable of rows, each with a prompt, into batches for workers.

    Args:
        rows: any number of them.
        workers: who take a batch each at the same time.
        most: rows of a batch.
        fewest: rows that are not cut into a batch for each worker.

    Yields:
        Some hundred rows, and the same in batches of at most `most`, those of
        like lengths together: a batch is padded to its longest.
    """
    rows = iter(rows)
    while group := list(itertools.islice(rows, 4 * workers * most)):
        size = min(most, max(fewest, -(-len(group) // workers)), len(group))
        by_length = sorted(group, key=lambda row: len(row.prompt))
        yield (
            group,
            [
                by_length[start : start + size]
                for start in range(0, len(group), size)
            ],
        )
