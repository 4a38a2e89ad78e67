"""A loaded language model, which continues texts and scores them."""

import dataclasses
import functools
import itertools
import math
import multiprocessing.pool
import pathlib
import threading
from concurrent import futures

import numpy as np
import tensorflow as tf

from stacked_rnn import chat_templates, metrics, saved_models
from stacked_rnn.configs import (
    BeamConfig,
    ExportConfig,
    ModelConfig,
    SamplingConfig,
    UserError,
    check_names,
    plain_values,
    unescaped,
)
from stacked_rnn.decoding import generation, options
from stacked_rnn.decoding.incremental_text import Continuation
from stacked_rnn.inference import (
    base,
    conversation,
    inspection,
    parallel_scores,
)
from stacked_rnn.reports import inspection_html, surprisal_html
from stacked_rnn.utils import devices, terminal

_BATCH_SIZE = 64  # most texts that a core generates together
_GPU_BATCH_SIZE = 1024  # a step costs about the same for one text and for many
# With this many units or more, one batch on all cores is faster than a smaller
# batch per core: reading the weights takes most of the time.
WIDE = 512
# With this many sequential steps or more, XLA saves more time than it takes to
# compile. Both numbers are from benchmarks/README.md.
WORTH_COMPILING = 8_000


@dataclasses.dataclass(frozen=True, repr=False)
class SavedLanguageModel(base.LoadedModel):
    """A loaded language model, which continues texts and scores them.

        model = stacked_rnn.load("saved_models/pydoc")
        print(model.generate("The ", max_new_tokens=100, temperature=0.7))
        print(model.score("A text that it has not seen.").perplexity)

    Where a method takes `**options`, they are the settings of
    `configs.SamplingConfig`, and `defaults` has those that are left out.

    Raises:
        UserError: an older version of this project exported the model.
    """

    def __post_init__(self):
        if not hasattr(self.functions, "beam_search"):
            raise UserError(
                f"--saved_model={self.path}: exported by an older version of "
                "stacked_rnn: to export it again, run train.py with the same "
                "flags"
            )

    @property
    def model_config(self) -> ModelConfig:
        """The model's architecture."""
        return self.description.model_config

    @property
    def defaults(self) -> SamplingConfig:
        """The sampling options that the model was exported with."""
        return self.description.entries["sampling"]

    @property
    def prefers_one_batch(self) -> bool:
        """Whether one batch is faster than a smaller one per core."""
        return bool(devices.gpus()) or self.model_config.units >= WIDE

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """The bytes of each token of the vocabulary, by id."""
        return self.tokenizer.token_bytes()

    @functools.cached_property
    def token_texts(self) -> np.ndarray:
        """The bytes that each token stands for in a text, by id.

        `token_bytes`, but for the token that ends a document, which stands for
        the separator.
        """
        texts = self.token_bytes.copy()
        if self.tokenizer.end_id is not None:
            separator = unescaped(self.tokenizer.document_separator)
            texts[self.tokenizer.end_id] = separator.encode()
        return texts

    @functools.cached_property
    def state_specs(self) -> dict:
        """The `TensorSpec` of each state, [batch, units], by name.

        The names are those of the inputs of the signature `decode_step`.
        """
        decode_step = self.functions.signatures["decode_step"]
        specs = dict(decode_step.structured_input_signature[1])
        del specs["token_ids"]
        return specs

    @functools.cached_property
    def _states_before_text(self) -> dict:
        # In exports of older versions zeros, also of a model of documents.
        states = self.functions.initial_states(1)
        return {
            f"state_{layer}_{part}": state.numpy()
            for layer, parts in enumerate(states)
            for part, state in zip("hc", parts)
        }

    def initial_states(self, batch_size) -> dict:
        """Returns the states before a text: arrays by name, see `state_specs`.

        Args:
            batch_size: number of texts.
        """
        return {
            name: np.repeat(state, batch_size, axis=0)
            for name, state in self._states_before_text.items()
        }

    def generate(self, prompts, *, stop=(), num_samples=1, **options):
        """Continues a text, or several.

        Args:
            prompts: a string, or a list of strings; "" begins a text.
            stop: a string, or several, that end a continuation and are not
                part of it.
            num_samples: number of continuations per prompt. The first has the
                seed of the options, the second that plus one, and so on.
            **options: the sampling options.

        Returns:
            The continuation of a string, without the prompt; a list of those,
            if `num_samples` is above 1. Of a list of prompts, a list of these.

        Raises:
            UserError: there is no such option, or its value is out of range.
        """
        sampling, stop = self._sampling(options), _stops(stop)
        (num_samples,) = plain_values({"num_samples": num_samples}).values()
        if not (isinstance(num_samples, int) and num_samples >= 1):
            raise UserError(
                f"num_samples={num_samples!r}: expected a number, 1 or more"
            )
        return base.results_for(
            prompts,
            lambda prompts: _grouped(
                self.continuations(prompts, sampling, stop, num_samples),
                num_samples,
            ),
        )

    def stream(self, prompt, *, stop=(), **options):
        """Continues a text, yielding the continuation in pieces.

        Args:
            prompt: a string.
            stop, **options: as of `generate`.

        Yields:
            Strings, as soon as they are generated.
        """
        turn = conversation.Conversation(
            self, self._sampling(options), _stops(stop)
        )
        turn.read(base.checked_text(prompt))
        return filter(None, turn.write())

    def beam_search(
        self, prompts, *, num_beams=4, length_penalty=1.0, stop=(), **options
    ):
        """Finds the most likely continuation of a text, or of several.

        Args:
            prompts: a string, or a list of strings.
            num_beams, length_penalty, stop: see `likeliest_continuations`.
            **options: the sampling options; only `max_new_tokens` counts.

        Returns:
            The continuation of a string; of a list, a list of those.
        """
        sampling = self._sampling(options)
        if not sampling.max_new_tokens:
            raise UserError("max_new_tokens=0: beam search needs at least 1")
        beams = {"num_beams": num_beams, "length_penalty": length_penalty}
        beams = BeamConfig(**plain_values(beams))
        search = functools.partial(
            self.likeliest_continuations,
            sampling=sampling,
            num_beams=beams.num_beams,
            length_penalty=beams.length_penalty,
            stop=_stops(stop),
        )
        return base.results_for(
            prompts, lambda prompts: (found.text for found in search(prompts))
        )

    def chat(self, messages, *, stop=(), **options) -> str:
        """Answers the last message of a chat.

        Args:
            messages: list of dicts, each with a "role" and a "content".
            stop, **options: as of `generate`.

        Raises:
            UserError: the model has no chat template, see `--chat_template`.
        """
        template = saved_models.chat_template(self.path)
        if template is None:
            raise UserError(
                f"{self.path}: has no chat template: train it with "
                "--chat_template=FILE, or use generate"
            )
        prompt = chat_templates.render_checked(template, messages)
        return self.generate(prompt, stop=stop, **options)

    def embed(self, texts) -> np.ndarray:
        """Computes the state of the top layer after a text, or several.

        Args:
            texts: a string, or a list of strings.

        Returns:
            float32 [units]; of several, [texts, units].
        """
        embed = self.functions.signatures["embed"]

        def embeddings(texts):
            for batch in base.batched(texts, _BATCH_SIZE):
                texts = tf.constant(base.encode(batch))
                yield from embed(texts=texts)["embeddings"].numpy()

        found = np.asarray(base.results_for(texts, embeddings), np.float32)
        if isinstance(texts, str):
            return found
        return found.reshape(-1, self.model_config.units)

    def score(self, text) -> metrics.Score:
        """Scores a text, the state carried from its beginning to its end.

        Args:
            text: a string, of two tokens at least, which is taken as it is.
                In a file, evaluate.py reads other line ends as line feeds.

        Raises:
            UserError: the text is shorter.
        """
        text = base.checked_text(text)
        _, nats = self.token_nats(text)
        return _score(nats, text)

    def surprisal(self, text) -> "Surprisal":
        """Computes how much each token of a text surprises the model.

        Args:
            text: a string.
        """
        return Surprisal(self._surprisals_of(base.checked_text(text)))

    def inspect(self, text) -> inspection_html.Inspection:
        """Looks inside the model while it reads a text, see docs/inspect.md.

        Args:
            text: a string, of two tokens at least.

        Raises:
            UserError: the text is shorter.
        """
        return inspection.inspect_text(
            self,
            base.checked_text(text).encode(),
            f"{len(text):,} characters.",
            [],
        )

    def export(self, path, *, weights="auto") -> pathlib.Path:
        """Writes the model as one file for another program, see `export.py`.

        Args:
            path: of the file. Its ending tells the format: .onnx, .tflite,
                .html for a page that generates, .safetensors for PyTorch, or
                .keras for Keras.
            weights: the type of the weights in the file: "float32", "float16",
                "int8", or "auto".

        Returns:
            The path.

        Raises:
            UserError: there is no such format, a package is missing, or the
                file cannot be written.
        """
        from stacked_rnn.export import runtimes  # imported late, as few need it

        path, formats = pathlib.Path(path), runtimes.suffixes()
        if path.suffix not in formats:
            raise UserError(
                f"{path}: its name must end in {', '.join(formats)}"
            )
        ExportConfig(format=formats[path.suffix], weights=weights)  # checks it
        runtimes.write(self, path, weights)
        return path

    @staticmethod
    def is_worth_compiling(steps) -> bool:
        """Whether XLA saves more time in so many steps than it takes."""
        return steps >= WORTH_COMPILING

    def _sampling(self, options) -> SamplingConfig:
        """The options of a call, completed by the defaults."""
        check_names(options, SamplingConfig)
        return dataclasses.replace(self.defaults, **plain_values(options))

    def continuations(self, prompts, sampling, stop=(), num_samples=1):
        """Generates continuations of prompts, in batches.

        Each CPU core works on a batch of its own, unless the model is wide and
        the prompts are few; a GPU works on one large batch.

        Args:
            prompts: iterable of strings, of any length; it is read only as far
                ahead as the batches need.
            sampling: a `SamplingConfig`.
            stop: strings that end a continuation and are not part of it.
            num_samples: number of continuations per prompt. The first has the
                seed of `sampling`, the second that plus one, and so on.

        Yields:
            A finished `Continuation` for each prompt and sample, in order.
        """
        rows = (
            Continuation(prompt, (sampling.seed + sample) % 2**63, stop)
            for prompt in prompts
            for sample in range(num_samples)
        )
        use_xla, given_up = False, threading.Event()
        workers, max_size, min_size = devices.cores(), _BATCH_SIZE, 1
        if devices.gpus():
            workers, max_size = 1, _GPU_BATCH_SIZE
        elif self.prefers_one_batch:
            min_size = _BATCH_SIZE
        with futures.ThreadPoolExecutor(workers) as pool:
            for group, batches in _in_batches(
                rows, workers, max_size, min_size
            ):
                rounds = -(-len(batches) // workers)
                use_xla |= self.is_worth_compiling(
                    sampling.max_new_tokens * rounds
                )
                generate_batch = functools.partial(
                    self._generate_batch,
                    sampling=sampling,
                    size=len(batches[0]),
                    use_xla=use_xla,
                    given_up=given_up,
                )
                try:
                    list(pool.map(generate_batch, batches))
                except BaseException:  # Ctrl-C: the pool waits for its threads
                    given_up.set()
                    raise
                yield from group

    def _generate_batch(self, rows, sampling, size, use_xla, given_up):
        """Finishes the `Continuation`s of a batch, unless an event is set.

        It is padded to `size` rows, so that XLA compiles for one shape only.
        """
        padding = Continuation("", 0)
        padding.stopped = True
        rows = rows + [padding] * (size - len(rows))
        carry = self.functions.begin(
            tf.constant([row.prompt for row in rows]),
            tf.constant([row.seed for row in rows], tf.int64),
        )
        # Only stop strings, which TensorFlow does not know, end it sooner.
        has_stops = any(row.has_stops for row in rows)
        first_chunk = 16 if has_stops else generation.CHUNK
        for _ in self.decode(carry, rows, sampling, use_xla, first_chunk):
            if given_up.is_set():
                return

    def likeliest_continuations(
        self,
        prompts,
        sampling,
        *,
        num_beams,
        length_penalty,
        stop=(),
        num_samples=1,
    ):
        """Finds the most likely continuations of prompts with beam search.

        A stop string with which a token begins ends a continuation during the
        search. A stop string that spans several tokens cuts the continuations
        after the search. Continuations with an end rank before those that
        reached `max_new_tokens`.

        Args:
            prompts: iterable of strings, of any length.
            sampling: a `SamplingConfig`. Only `max_new_tokens` counts.
            num_beams, length_penalty: see `decoding.beam_search`.
            stop: strings that end a continuation and are not part of it.
            num_samples: number of continuations per prompt, at most num_beams.

        Yields:
            Finished `Continuation`s, in the order of the prompts and the best
            of each prompt first, no text twice. There may be fewer than
            num_samples of a prompt, if the search finds no more.
        """
        stops = tuple(string.encode() for string in stop)
        search_options = {
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
                tf.constant([row.prompt for row in batch]),
                tf.zeros(len(batch), tf.int64),
            )
            found = self.functions.beam_search(carry, **search_options)
            found = [
                found[name].numpy()
                for name in ("token_ids", "log_probs", "lengths", "scores")
            ]
            for row, *beams in zip(batch, *found):
                texts = []
                for token_ids, log_probs, length, score in zip(*beams):
                    if score == -np.inf:
                        continue
                    text = Continuation(row.prompt, None, stop)
                    text.add(
                        self.token_bytes[token_ids[:length]].tolist(),
                        log_probs[:length],
                        ended=bool(length < sampling.max_new_tokens),
                    )
                    texts.append(text)
                # A stop string of several tokens may have ended some of them,
                # and left the same text of several: the first is the best.
                texts.sort(key=lambda text: not text.stopped)
                best = {}
                for text in texts:
                    best.setdefault(text.text, text)
                row.found.extend([*best.values()][:num_samples])

        rows = (_SearchedPrompt(prompt, []) for prompt in prompts)
        workers = devices.cores()
        # An executor would wait for its threads after Ctrl-C, and a search is
        # one call of TensorFlow, which ends when all its tokens are found.
        with multiprocessing.pool.ThreadPool(workers) as pool:
            for group, batches in _in_batches(
                rows, workers, max(1, _BATCH_SIZE // num_beams)
            ):
                pool.map(search, batches)
                for row in group:
                    yield from row.found

    def decode(self, carry, rows, sampling, use_xla=False, first_chunk=16):
        """Generates until all rows are finished, a chunk of tokens at a time.

        Args:
            carry: the state of the batch, see `decoding.generation`; from
                `functions.begin`, `functions.extend` or this method.
            rows: the `Continuation` of each row; receives the tokens.
            sampling: a `SamplingConfig`.
            use_xla: whether to run the loop that XLA compiles.
            first_chunk: number of tokens in the first chunk. Each is twice as
                long as the one before it, up to `generation.CHUNK`: a reader
                soon sees some text.

        Yields:
            The carry after each chunk.
        """

        def stopped():
            return tf.constant([row.stopped for row in rows])

        # Rows that finished at the limit of an earlier call go on.
        carry = carry | {"finished": stopped()}
        limits = carry["positions"] + sampling.max_new_tokens
        names, chunk = options.ALL, self.functions.decode_chunk
        if use_xla:
            chunk = self.functions.compiled_chunk
            # Exports of older versions do not have the plain loop.
            plain_chunk = getattr(self.functions, "compiled_plain_chunk", None)
            if plain_chunk and sampling.is_plain:
                names, chunk = options.PLAIN, plain_chunk
        values = options.tensors([sampling] * len(rows), names)
        values["max_new_tokens"] = limits
        count, left = first_chunk, sampling.max_new_tokens
        while left > 0 and not all(row.stopped for row in rows):
            steps = min(count, left)
            drawn = chunk(carry, values, tf.constant(steps))
            left -= steps
            count = min(2 * count, generation.CHUNK)
            carry = drawn["carry"]
            ended = carry["finished"] & (carry["positions"] < limits)
            for row, tokens, log_probs, length, row_ended in zip(
                rows,
                self.token_bytes[
                    drawn["token_ids"].numpy()[:, :steps]
                ].tolist(),
                drawn["log_probs"].numpy(),
                drawn["lengths"].numpy(),
                ended.numpy(),
            ):
                if not row.stopped:
                    row.add(
                        tokens[:length], log_probs[:length], bool(row_ended)
                    )
            carry["finished"] |= stopped()
            yield carry

    @functools.cached_property
    def _compiled_score_window(self):
        return tf.function(
            self.functions.score_window, jit_compile=True, autograph=False
        )

    def token_nats(self, text):
        """Computes the nats of each token of a text, the state carried along.

        Shows a progress bar on a terminal.

        Args:
            text: a string, or its UTF-8 bytes.

        Returns:
            token_ids: int32 [tokens].
            nats: float32 [tokens - 1], -log p of each token but the first.
        """
        token_ids = self.tokenizer.tokenize([text]).flat_values.numpy()
        if len(token_ids) < 2:
            return token_ids, np.zeros(0, np.float32)
        with terminal.progress_bar(len(token_ids) - 1, "token") as progress:
            score_window = self.functions.score_window
            # Without XLA, a GPU launches a kernel per op and time step.
            if devices.gpus() and self.is_worth_compiling(len(token_ids)):
                score_window = self._compiled_score_window
            nats = parallel_scores.nats_of_text(
                score_window,
                token_ids,
                self.functions.initial_states,
                progress,
                self.tokenizer.vocabulary_size(),
            )
        return token_ids, nats

    def surprisals(self, continuation) -> list:
        """Returns the nats of each token of a prompt and its continuation.

        Args:
            continuation: a `Continuation`.

        Returns:
            A list of (token bytes, nats, is_prompt), as `surprisal_html.page`
            takes them; nats is None for the first token of the prompt.
        """
        tokens = continuation.tokens
        if cut_token := continuation.cut_token:
            tokens = [*tokens[:-1], cut_token]
        drawn = zip(tokens, continuation.log_probs)
        return [
            *self._surprisals_of(continuation.prompt, is_prompt=True),
            *((token, -log_prob, False) for token, log_prob in drawn),
        ]

    def _surprisals_of(self, text, is_prompt=False) -> list:
        token_ids, nats = self.token_nats(text)
        tokens = self.token_texts[token_ids].tolist()
        return [
            (token, nats, is_prompt)
            for token, nats in zip(tokens, [None, *nats.tolist()])
        ]

    def evaluate_files(self, config, search, score=None) -> dict:
        """See `LoadedModel.evaluate_files`; `score` is as in `evaluate`."""
        from stacked_rnn import datasets  # imported late: generate needs none

        text = datasets.read_text(config.text, self.tokenizer)
        return self.evaluate(text, score)

    def evaluate(self, text, score=None) -> dict:
        """Scores a text, the state carried from its beginning to its end.

        Args:
            text: the text as UTF-8 bytes.
            score: computes the nats of token ids, int32 [tokens], as float32
                [tokens - 1], such as `training.AdaptiveScorer.token_nats`;
                None: the model as it was exported.

        Returns:
            A dict of JSON values:

            nats_per_token: mean cross-entropy.
            perplexity: exp(nats_per_token).
            bits_per_character: comparable between tokenizers, as long as no
                token is unknown.
            tokens: number of tokens that were predicted, all but the first.
            characters: number of characters of the text.
            unknown_tokens: number of those tokens outside the vocabulary.

        Raises:
            UserError: the text has fewer than two tokens, or its loss is not a
                number.
        """
        if score is None:
            token_ids, nats = self.token_nats(text)
        else:
            token_ids = self.tokenizer.tokenize([text]).flat_values.numpy()
            nats = score(token_ids) if len(token_ids) > 1 else token_ids[:0]
        total = _score(nats, text.decode("utf-8", "replace"))
        return {
            "nats_per_token": total.nats_per_token,
            "perplexity": total.perplexity,
            "bits_per_character": total.bits_per_character,
            "tokens": total.tokens,
            "characters": total.characters,
            "unknown_tokens": self.tokenizer.count_unknown(token_ids[1:]),
        }


@dataclasses.dataclass(frozen=True, repr=False)
class Surprisal:
    """How much each token of a text surprises a model.

    A notebook shows the text in colours.

    Attributes:
        tokens: list of (token bytes, nats, False); nats is -log p, None for the
            first token, which nothing predicts.
    """

    tokens: list

    @property
    def nats(self) -> np.ndarray:
        """-log p of each token, float32 [tokens]; NaN for the first."""
        return np.array([nats for _, nats, _ in self.tokens], np.float32)

    def __repr__(self):
        lines = []
        for token, nats, _ in self.tokens:
            cost = "-" if nats is None else f"{nats:.3f}"
            text = token.decode("utf-8", "backslashreplace")
            lines.append(f"{cost:>8}  {text!r}")
        return "\n".join(lines)

    def _repr_html_(self):
        return surprisal_html.fragment(self.tokens)


def _stops(stop) -> tuple[str, ...]:
    """The stop strings of a call: one string, or several.

    Raises:
        UserError: they are none, or one of them is empty.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for string in stops:
        if not (isinstance(string, str) and string):
            raise UserError(f"stop={stop!r:.60}: expected strings, none empty")
    return stops


def _grouped(continuations, num_samples):
    """Yields the text of each prompt, or the list of its `num_samples`."""
    texts = (continuation.text for continuation in continuations)
    if num_samples == 1:
        yield from texts
    else:
        yield from base.batched(texts, num_samples)


def _score(nats, text) -> metrics.Score:
    """The `Score` of a text whose tokens have these nats."""
    if not len(nats):
        raise UserError("--text: the text is shorter than two tokens")
    total = float(nats.sum(dtype=np.float64))
    if not math.isfinite(total):
        raise UserError("--text: the loss of the model is not a number")
    return metrics.Score(total, len(nats), len(text))


@dataclasses.dataclass(frozen=True)
class _SearchedPrompt:
    """A prompt and the continuations that beam search found, best first."""

    prompt: str
    found: list


def _in_batches(rows, workers, max_size, min_size=1):
    """Groups rows by the length of their prompts into batches.

    Args:
        rows: iterable of objects with a `prompt`, of any length.
        workers: number of batches that are worked on at the same time.
        max_size: most rows per batch.
        min_size: fewest rows per batch, if there are as many.

    Yields:
        A list of some hundred rows, in order, and a list of batches of the same
        rows. Prompts of similar length are together, because a batch is padded
        to its longest.
    """
    rows = iter(rows)
    while group := list(itertools.islice(rows, 4 * workers * max_size)):
        per_worker = -(-len(group) // workers)
        size = min(max_size, max(min_size, per_worker), len(group))
        by_length = sorted(group, key=lambda row: len(row.prompt))
        yield (
            group,
            [
                by_length[start : start + size]
                for start in range(0, len(group), size)
            ],
        )
