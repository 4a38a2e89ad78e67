"""The product: a SavedModel that takes text in and gives text out.

    saved_models/NAME/VERSION/   saved_model.pb, variables/
        assets/tokenizer.json            the tokenizer
        assets.extra/config.json         the architecture and the defaults

It holds core TensorFlow ops only and loads with `tf.saved_model.load` in a
process that has TensorFlow and nothing of this project.
"""

import functools
import json
import pathlib
import shutil
import tempfile

import tensorflow as tf

from stacked_rnn import evaluation, generation, inference, samplers
from stacked_rnn.configs import SamplingConfig

_SCORE_WINDOW = 128  # tokens that `score` runs through the layers at once


# There is nothing for autograph to convert, and trying takes seconds.
_function = functools.partial(tf.function, autograph=False)


def _rows(dtype, name):
    return tf.TensorSpec([None], dtype, name)


_OPTIONS = (  # of `generate`, one value for each prompt
    _rows(tf.int32, "max_new_tokens"),
    _rows(tf.float32, "temperature"),
    _rows(tf.int32, "top_k"),
    _rows(tf.float32, "top_p"),
    _rows(tf.float32, "repetition_penalty"),
    _rows(tf.int64, "seed"),
)


class TextGenerator(tf.Module):
    """Tokenizer and model in one module, with the signatures to serve.

    Args:
        model: a language model without dropout (`for_inference`), with
            `config`, `initial_states`, `step`, `prefill` and `decode_step`.
        tokenizer: a `tokenizers.Tokenizer`.
        defaults: a `SamplingConfig`, what `serving_default` generates with.
    """

    def __init__(self, model, tokenizer, defaults=SamplingConfig()):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.score_window = _function(
            self._score_window,
            input_signature=[
                tf.TensorSpec([None, None], tf.int32, "inputs"),
                tf.TensorSpec([None, None], tf.int32, "targets"),
                self._state_specs(),
            ],
        )

    def _state_specs(self):
        return tf.nest.map_structure(
            lambda state: tf.TensorSpec([None, *state.shape[1:]], state.dtype),
            self.model.initial_states(1),
        )

    def _default_options(self):
        return {
            spec.name: tf.constant(
                [getattr(self.defaults, spec.name)], spec.dtype
            )
            for spec in _OPTIONS
        }

    @_function(input_signature=[_rows(tf.string, "prompts")])
    def serving_default(self, prompts):
        """Continues each prompt with the exported defaults."""
        options = self._default_options()
        return {"texts": self._generate(prompts, **options)["texts"]}

    @_function(input_signature=[_rows(tf.string, "prompts"), *_OPTIONS])
    def generate(
        self,
        prompts,
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        seed,
    ):
        """Continues each prompt by its own options.

        Args:
            prompts: string [batch], of any lengths; an empty one begins a text.
            the others: [batch] each, or [1] for the same in all rows. What
                they mean is in `configs.SamplingConfig`.

        Returns:
            texts: string [batch], the continuations alone, valid UTF-8.
            token_ids: int32 [batch, longest], 0 beyond a row's length.
            log_probs: float32 [batch, longest], log p of each token.
            lengths: int32 [batch], tokens generated in each row.
        """
        return self._generate(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )

    def _generate(self, prompts, *, max_new_tokens, seed, **options):
        batch_size = tf.size(prompts)
        token_ids = self._prompt_ids(prompts)
        lengths = tf.cast(token_ids.row_lengths(), tf.int32)
        padded = token_ids.to_tensor()
        if_no_rows = 1 - tf.minimum(tf.shape(padded)[1], 1)
        padded = tf.pad(padded, [[0, 0], [0, if_no_rows]])
        # The last token of each prompt is left for the loop's first step.
        before = self.model.prefill(
            {
                "token_ids": padded,
                "mask": tf.sequence_mask(lengths - 1, tf.shape(padded)[1]),
                "states": self.model.initial_states(batch_size),
            }
        )
        limits = tf.broadcast_to(max_new_tokens, [batch_size])
        # One seed for all prompts must not mean one stream of numbers for all.
        seeds = tf.bitwise.bitwise_xor(
            tf.broadcast_to(seed, [batch_size]),
            tf.strings.to_hash_bucket_fast(prompts, 2**63 - 1),
        )
        drawn, log_probs = generation.generate(
            self._decode_step,
            tf.gather(padded, lengths - 1, batch_dims=1),
            before["states"],
            options=samplers.SamplingOptions(
                **{
                    name: tf.broadcast_to(values, [batch_size])
                    for name, values in options.items()
                }
            ),
            seeds=seeds,
            max_new_tokens=limits,
            seen=self._seen(token_ids, batch_size),
            never=self.tokenizer.unknown_id,
        )
        limits = tf.maximum(limits, 0)
        texts = self.tokenizer.detokenize(
            tf.RaggedTensor.from_tensor(drawn, lengths=limits)
        )
        return {
            "texts": tf.strings.unicode_transcode(
                texts, "UTF-8", "UTF-8", errors="replace"
            ),
            "token_ids": drawn,
            "log_probs": log_probs,
            "lengths": limits,
        }

    def _prompt_ids(self, prompts):
        """Token ids of the prompts, int32 [batch, (time)], none empty."""
        token_ids = self.tokenizer.tokenize(prompts)
        is_empty = tf.cast(token_ids.row_lengths() == 0, tf.int64)
        start = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(is_empty)], self.tokenizer.start_id),
            is_empty,
        )
        return tf.concat([start, token_ids], axis=1)

    def _seen(self, token_ids, batch_size):
        """Which tokens are in each prompt: bool [batch, vocabulary]."""
        indices = tf.stack(
            [token_ids.value_rowids(), tf.cast(token_ids.values, tf.int64)], 1
        )
        shape = [batch_size, self.tokenizer.vocabulary_size()]
        counts = tf.scatter_nd(
            indices, tf.ones_like(token_ids.values), tf.cast(shape, tf.int64)
        )
        counts = tf.ensure_shape(counts, [None, shape[1]])
        return counts > 0

    def _decode_step(self, token_ids, states):
        new = self.model.decode_step({"token_ids": token_ids, "states": states})
        return new["logits"], new["states"]

    @_function(input_signature=[_rows(tf.string, "texts")])
    def score(self, texts):
        """What each text costs the model, its first token given.

        Returns:
            nats: float32 [batch], -log p of all tokens but the first.
            tokens: int32 [batch], how many those are.
            characters: int32 [batch], of the text, whatever the tokens are.
        """
        ragged = self.tokenizer.tokenize(texts)
        token_ids = ragged.to_tensor(default_value=-1)
        inputs, targets = tf.maximum(token_ids[:, :-1], 0), token_ids[:, 1:]
        last = tf.shape(targets)[1]

        def add_window(start, nats, states):
            window = slice(start, start + _SCORE_WINDOW)
            window_nats, states = self._score_window(
                inputs[:, window], targets[:, window], states
            )
            return start + _SCORE_WINDOW, nats + window_nats, states

        batch_size = tf.size(texts)
        _, nats, _ = tf.while_loop(
            lambda start, *_: start < last,
            add_window,
            (
                tf.constant(0),
                tf.zeros([batch_size]),
                self.model.initial_states(batch_size),
            ),
        )
        tokens = tf.maximum(ragged.row_lengths() - 1, 0)
        characters = tf.strings.length(
            tf.strings.unicode_transcode(
                texts, "UTF-8", "UTF-8", errors="replace"
            ),
            unit="UTF8_CHAR",
        )
        return {
            "nats": nats,
            "tokens": tf.cast(tokens, tf.int32),
            "characters": characters,
        }

    def _score_window(self, inputs, targets, states):
        """(nats [batch], states) of a window; negative targets cost nothing."""
        new = self.model.step({"token_ids": inputs, "states": states})
        nats = evaluation.token_nats(new["logits"], targets)
        return tf.reduce_sum(nats, axis=-1), new["states"]

    @_function(input_signature=[tf.TensorSpec([], tf.int32, "batch_size")])
    def initial_states(self, batch_size):
        """The states before a text."""
        return self.model.initial_states(batch_size)

    def sample(self, max_new_tokens, seed=0) -> str:
        """A short text by the exported defaults, in one line."""
        options = self._default_options() | {
            "max_new_tokens": tf.constant([max_new_tokens]),
            "seed": tf.constant([seed], tf.int64),
        }
        text = self.generate(tf.constant([""]), **options)["texts"].numpy()[0]
        return repr(text.decode())[1:-1]

    def save(self, export_dir) -> pathlib.Path:
        """Writes the next version of the SavedModel, whole or not at all.

        Returns:
            The directory of the version, export_dir/VERSION.
        """
        export_dir = pathlib.Path(export_dir)
        export_dir.mkdir(parents=True, exist_ok=True)
        version = max(inference.versions(export_dir), default=0) + 1
        # A name that is not a number is no version to any reader.
        partial = pathlib.Path(
            tempfile.mkdtemp(".partial", "export-", export_dir)
        )
        try:
            self._write(partial)
            partial.chmod(0o755)
            partial.rename(export_dir / str(version))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return export_dir / str(version)

    def _write(self, directory):
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer_json = pathlib.Path(
                scratch, pathlib.Path(inference.TOKENIZER_FILE).name
            )
            tokenizer_json.write_text(
                json.dumps(self.tokenizer.to_dict(), ensure_ascii=False),
                encoding="utf-8",
            )
            self.tokenizer_json = tf.saved_model.Asset(str(tokenizer_json))
            tf.saved_model.save(
                self,
                str(directory),
                signatures={
                    "serving_default": self.serving_default,
                    "generate": self.generate,
                    "score": self.score,
                },
            )
        config = {
            "model": self.model.config.to_dict(),
            "sampling": self.defaults.to_dict(),
        }
        config_json = directory / inference.CONFIG_FILE
        config_json.parent.mkdir()
        config_json.write_text(json.dumps(config, indent=2) + "\n")
