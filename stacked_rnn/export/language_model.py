"""A language model as a SavedModel that continues texts."""

import functools

import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import MAX_NEW_TOKENS, SamplingConfig
from stacked_rnn.decoding import beam_search, generation, options
from stacked_rnn.export import base

_WINDOW = 128  # tokens that run through the layers at once
_PARTS = ("h", "c")  # of the state of a layer


# There is nothing for autograph to convert, and trying takes seconds.
_function = functools.partial(tf.function, autograph=False)


def _rows(dtype, name):
    return tf.TensorSpec([None], dtype, name)


class TextGenerator(base.ExportedModel):
    """Continues texts, and scores them.

    The signatures need no XLA: TensorFlow Serving has it off. `inference` and
    `serving` call these functions, which are saved too:

        begin           prompts, seeds -> carry (see `generation`)
        extend          texts, carry -> carry, the texts read
        decode_chunk    carry, options, count -> up to `count` tokens more
        compiled_chunk  the same, compiled by XLA: much faster, seconds late;
                        at most `generation.CHUNK` tokens
        compiled_plain_chunk
                        the same where `SamplingConfig.is_plain`, without the
                        other options: on a GPU twice as fast again
        beam_search     carry, num_beams, max_new_tokens, length_penalty,
                        end_ids -> what `beam_search.search` finds
        score_window    token ids, targets, states -> nats, states
        initial_states  batch size -> the states before a text
        tokenize        texts -> token ids, ragged

    Args:
        model: a language model without dropout (`for_inference`), with
            `config`, `initial_states`, `states_before_text`, `step`, `prefill`
            and `decode_step`.
        tokenizer: a `tokenizers.Tokenizer`.
        defaults: a `SamplingConfig`: the options of `serving_default`, and the
            value of an option that a request leaves out.
    """

    task = "language_model"

    def __init__(self, model, tokenizer, defaults=SamplingConfig()):
        super().__init__(model, tokenizer)
        self.defaults = defaults
        carry = {
            "token_ids": _rows(tf.int32, "token_ids"),
            "states": self._state_specs(),
            "seen": tf.TensorSpec(
                [None, tokenizer.vocabulary_size()], tf.bool, "seen"
            ),
            "positions": _rows(tf.int32, "positions"),
            "finished": _rows(tf.bool, "finished"),
            "seeds": _rows(tf.int64, "seeds"),
        }
        count = tf.TensorSpec([], tf.int32, "count")
        # Traced once each, however many call them.
        self.tokenize = _function(
            tokenizer.tokenize, input_signature=[_rows(tf.string, "texts")]
        )
        self.read_window = _function(
            self._read_window,
            input_signature=[
                tf.TensorSpec([None, None], tf.int32, "token_ids"),
                tf.TensorSpec([None, None], tf.bool, "mask"),
                self._state_specs(),
            ],
        )
        self.begin = _function(
            self._begin,
            input_signature=[
                _rows(tf.string, "prompts"),
                _rows(tf.int64, "seeds"),
            ],
        )
        self.extend = _function(
            self._extend, input_signature=[_rows(tf.string, "texts"), carry]
        )
        self.decode_chunk = _function(
            self._decode_chunk,
            input_signature=[carry, options.specs(options.ALL), count],
        )
        self.compiled_chunk, self.compiled_plain_chunk = (
            _function(
                functools.partial(
                    self._decode_chunk, padded_length=generation.CHUNK
                ),
                input_signature=[carry, options.specs(names), count],
                jit_compile=True,
            )
            for names in (options.ALL, options.PLAIN)
        )
        self.beam_search = _function(
            self._beam_search,
            input_signature=[
                carry,
                tf.TensorSpec([], tf.int32, "num_beams"),
                tf.TensorSpec([], tf.int32, "max_new_tokens"),
                tf.TensorSpec([], tf.float32, "length_penalty"),
                _rows(tf.int32, "end_ids"),
            ],
        )
        self.score_window = _function(
            self._score_window,
            input_signature=[
                tf.TensorSpec([None, None], tf.int32, "inputs"),
                tf.TensorSpec([None, None], tf.int32, "targets"),
                self._state_specs(),
            ],
        )
        self.generate = self._generate_signature()
        self.decode_step = self._decode_step_signature()

    def _state_specs(self):
        return tuple(
            tuple(
                tf.TensorSpec(
                    [None, *state.shape[1:]],
                    state.dtype,
                    f"state_{layer}_{part}",
                )
                for part, state in zip(_PARTS, parts)
            )
            for layer, parts in enumerate(self.model.initial_states(1))
        )

    def _named(self, states) -> dict:
        """The states by their names in the signatures."""
        return {
            spec.name: state
            for spec, state in zip(
                tf.nest.flatten(self._state_specs()), tf.nest.flatten(states)
            )
        }

    def _default_options(self):
        return options.tensors([self.defaults], options.DTYPES)

    # Signatures -------------------------------------------------------------

    @_function(input_signature=[_rows(tf.string, "prompts")])
    def serving_default(self, prompts):
        """Continues each prompt with the exported defaults."""
        found = self.generate(prompts, **self._default_options())
        return {"texts": found["texts"]}

    def _generate_signature(self):
        default = self._default_options()

        def generate(
            prompts,
            max_new_tokens=default["max_new_tokens"],
            temperature=default["temperature"],
            top_k=default["top_k"],
            top_p=default["top_p"],
            repetition_penalty=default["repetition_penalty"],
            seed=default["seed"],
        ):
            """Continues each prompt by its own options.

            Args:
                prompts: string [batch], any lengths; an empty one begins a
                    text.
                others: [batch] each, or [1] for the same value in all rows;
                    `configs.SamplingConfig` has their meaning and limits.

            Returns:
                texts: string [batch], the continuations alone, valid UTF-8.
                token_ids: int32 [batch, longest], 0 beyond a row's length.
                log_probs: float32 [batch, longest], log p of each token, 0
                    beyond a row's length.
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

        specs = options.specs().values()
        return _function(
            generate, input_signature=[_rows(tf.string, "prompts"), *specs]
        )

    @_function(input_signature=[_rows(tf.string, "texts")])
    def embed(self, texts):
        """The state of the top layer after each text.

        Returns:
            embeddings: float32 [batch, units], the top layer's state h.
        """
        _, states = self._read_all(texts)
        return {"embeddings": tf.cast(states[-1][0], tf.float32)}

    @_function(input_signature=[_rows(tf.string, "prompts")])
    def prefill(self, prompts):
        """Reads prompts: the start of a loop over `decode_step`.

        Returns:
            logits: float32 [batch, vocabulary], of the next token.
            state_LAYER_PART: [batch, units] each.
        """
        logits, states = self._read_all(prompts)
        return {"logits": logits, **self._named(states)}

    def _decode_step_signature(self):
        specs = self._state_specs()

        def decode_step(*, token_ids, **states):
            """Reads one token: token_ids int32 [batch] and the states that
            `prefill` returns, to logits and states.
            """
            states = [states[spec.name] for spec in tf.nest.flatten(specs)]
            logits, states = self._step(
                token_ids, tf.nest.pack_sequence_as(specs, states)
            )
            return {"logits": logits, **self._named(states)}

        return _function(decode_step).get_concrete_function(
            token_ids=_rows(tf.int32, "token_ids"),
            **{spec.name: spec for spec in tf.nest.flatten(specs)},
        )

    # Their parts ----------------------------------------------------------

    def _generate(self, prompts, *, max_new_tokens, seed, **checked):
        batch_size = tf.size(prompts)
        limits = tf.clip_by_value(
            tf.broadcast_to(max_new_tokens, [batch_size]), 0, MAX_NEW_TOKENS
        )
        with tf.control_dependencies(options.checks(checked)):
            checked = {
                name: tf.broadcast_to(values, [batch_size])
                for name, values in checked.items()
            }
        drawn = self.decode_chunk(
            self.begin(prompts, tf.broadcast_to(seed, [batch_size])),
            checked | {"max_new_tokens": limits},
            tf.reduce_max(tf.concat([limits, [0]], axis=0)),
        )
        longest = tf.reduce_max(tf.concat([drawn["lengths"], [0]], axis=0))
        token_ids = drawn["token_ids"][:, :longest]
        texts = self.tokenizer.detokenize(
            tf.RaggedTensor.from_tensor(token_ids, lengths=drawn["lengths"])
        )
        return {
            "texts": tf.strings.unicode_transcode(
                texts, "UTF-8", "UTF-8", errors="replace"
            ),
            "token_ids": token_ids,
            "log_probs": drawn["log_probs"][:, :longest],
            "lengths": drawn["lengths"],
        }

    def _begin(self, prompts, seeds):
        token_ids = self._prompt_ids(prompts)
        states = self.model.states_before_text(tf.size(prompts))
        last, states = self._read(token_ids, states)
        # One seed for all prompts must not mean one stream of numbers for all.
        hashes = tf.strings.to_hash_bucket_fast(prompts, 2**63 - 1)
        return generation.start(
            last,
            states,
            self._seen(token_ids),
            tf.bitwise.bitwise_xor(seeds, hashes),
        )

    def _extend(self, texts, carry):
        pending = tf.RaggedTensor.from_tensor(carry["token_ids"][:, None])
        token_ids = tf.concat([pending, self.tokenize(texts)], axis=1)
        last, states = self._read(token_ids, carry["states"])
        return carry | {
            "token_ids": last,
            "states": states,
            "seen": carry["seen"] | self._seen(token_ids),
        }

    def _decode_chunk(self, carry, options, count, padded_length=None):
        return generation.generate(
            self._step,
            carry,
            options=options,
            max_steps=count,
            padded_length=padded_length,
            banned_id=self.tokenizer.unknown_id,
            end_id=self.tokenizer.end_id,
        )

    def _beam_search(
        self, carry, num_beams, max_new_tokens, length_penalty, end_ids
    ):
        return beam_search.search(
            self._step,
            carry["token_ids"],
            carry["states"],
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            end_ids=end_ids,
            banned_id=self.tokenizer.unknown_id,
        )

    def _prompt_ids(self, prompts):
        """Token ids of the prompts, int32 [batch, (time)], none empty."""
        token_ids = self.tokenize(prompts)
        is_empty = tf.cast(token_ids.row_lengths() == 0, tf.int64)
        start = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(is_empty)], self.tokenizer.start_id),
            is_empty,
        )
        return tf.concat([start, token_ids], axis=1)

    def _read(self, token_ids, states):
        """Reads all but the last token of each row, a window at a time.

        Returns:
            The last token ids [batch] and the states before them.
        """
        lengths = tf.cast(token_ids.row_lengths(), tf.int32)
        padded = tf.pad(token_ids.to_tensor(), [[0, 0], [0, 1]])  # if no rows

        def read_window(start, states):
            window = padded[:, start : start + _WINDOW]
            place = start + tf.range(tf.shape(window)[1])
            mask = place[None, :] < lengths[:, None] - 1
            return start + _WINDOW, self.read_window(window, mask, states)

        _, states = tf.while_loop(
            lambda start, _: start + 1 < tf.reduce_max(lengths),
            read_window,
            (tf.constant(0), states),
        )
        return tf.gather(padded, lengths - 1, batch_dims=1), states

    def _read_window(self, token_ids, mask, states):
        inputs = {"token_ids": token_ids, "mask": mask, "states": states}
        return self.model.prefill(inputs)["states"]

    def _read_all(self, texts):
        """Logits [batch, vocabulary] and states after each text."""
        carry = self.begin(texts, tf.zeros([tf.size(texts)], tf.int64))
        return self._step(carry["token_ids"], carry["states"])

    def _seen(self, token_ids):
        """Which tokens are in each row: bool [batch, vocabulary]."""
        indices = tf.stack(
            [token_ids.value_rowids(), tf.cast(token_ids.values, tf.int64)], 1
        )
        vocabulary_size = self.tokenizer.vocabulary_size()
        counts = tf.scatter_nd(
            indices,
            tf.ones_like(token_ids.values),
            tf.stack([token_ids.nrows(), vocabulary_size]),
        )
        return tf.ensure_shape(counts > 0, [None, vocabulary_size])

    def _step(self, token_ids, states):
        new = self.model.decode_step({"token_ids": token_ids, "states": states})
        return tf.cast(new["logits"], tf.float32), new["states"]

    @_function(input_signature=[_rows(tf.string, "texts")])
    def score(self, texts):
        """Scores each text, its first token given.

        Returns:
            nats: float32 [batch], -log p of all tokens but the first.
            tokens: int32 [batch], how many those are.
            characters: int32 [batch], of the text, whatever its tokens are.
        """
        ragged = self.tokenize(texts)
        token_ids = ragged.to_tensor(default_value=-1)
        inputs, targets = tf.maximum(token_ids[:, :-1], 0), token_ids[:, 1:]
        last = tf.shape(targets)[1]

        def add_window(start, nats, states):
            window = slice(start, start + _WINDOW)
            window_nats, states = self.score_window(
                inputs[:, window], targets[:, window], states
            )
            window_nats = tf.reduce_sum(window_nats, axis=-1)
            return start + _WINDOW, nats + window_nats, states

        batch_size = tf.size(texts)
        _, nats, _ = tf.while_loop(
            lambda start, *_: start < last,
            add_window,
            (
                tf.constant(0),
                tf.zeros([batch_size]),
                self.model.states_before_text(batch_size),
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
        """(nats [batch, time], states); negative targets cost nothing."""
        new = self.model.step({"token_ids": inputs, "states": states})
        return metrics.token_nats(new["logits"], targets), new["states"]

    @_function(input_signature=[tf.TensorSpec([], tf.int32, "batch_size")])
    def initial_states(self, batch_size):
        """The states before a text."""
        return self.model.states_before_text(batch_size)

    def sample(self, max_new_tokens, seed=0) -> str:
        """A short text by the exported defaults."""
        changed = self._default_options() | {
            "max_new_tokens": tf.constant([max_new_tokens]),
            "seed": tf.constant([seed], tf.int64),
        }
        text = self.generate(tf.constant([""]), **changed)["texts"].numpy()[0]
        return text.decode()

    def signatures(self):
        return {
            name: getattr(self, name)
            for name in (
                "serving_default", "generate", "score", "embed", "prefill",
                "decode_step",
            )
        }  # fmt: skip

    def entries(self):
        return {"sampling": self.defaults.to_dict()}

    def warmup(self):
        texts = tf.constant([b""])
        return [
            ("serving_default", {"prompts": texts}),
            ("generate", {"prompts": texts} | self._default_options()),
            ("score", {"texts": texts}),
            ("embed", {"texts": texts}),
            ("prefill", {"prompts": texts}),
        ]
