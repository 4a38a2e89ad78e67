"""A seq2seq model as a SavedModel that rewrites texts."""

import functools

import tensorflow as tf

from stacked_rnn.configs import BeamConfig
from stacked_rnn.decoding import beam_search
from stacked_rnn.export import base

_function = functools.partial(tf.function, autograph=False)
_TEXTS = tf.TensorSpec([None], tf.string, "texts")
_SEARCH = (
    _TEXTS,
    tf.TensorSpec([], tf.int32, "num_beams"),
    tf.TensorSpec([], tf.float32, "length_penalty"),
    tf.TensorSpec([], tf.int32, "max_new_tokens"),
)


def _checks(num_beams, length_penalty, max_new_tokens):
    """Assertions that these are in the ranges of `BeamConfig`."""
    return [
        tf.debugging.Assert(is_right, [message])
        for is_right, message in (
            (num_beams >= 1, "num_beams: expected 1 <= num_beams"),
            (
                (length_penalty >= 0) & (length_penalty <= 4),
                "length_penalty: expected 0 <= length_penalty <= 4",
            ),
            (
                max_new_tokens >= 1,
                "max_new_tokens: expected 1 <= max_new_tokens",
            ),
        )
    ]


class TextRewriter(base.ExportedModel):
    """Rewrites texts.

    Args:
        model: a `models.Seq2Seq` without dropout (`for_inference`).
        tokenizer: a `tokenizers.Tokenizer` with an `end_id`.
        max_new_tokens: how many tokens it writes at most, by default.
    """

    task = "seq2seq"

    def __init__(self, model, tokenizer, max_new_tokens):
        super().__init__(model, tokenizer)
        self.defaults = BeamConfig(max_new_tokens=max_new_tokens)

    @_function(input_signature=[_TEXTS])
    def serving_default(self, texts):
        """Rewrites each text, by beam search with the defaults.

        Returns:
            outputs: string [batch], valid UTF-8.
            scores: float32 [batch], log p of each, the end included.
        """
        return self.translate(
            texts,
            self.defaults.num_beams,
            self.defaults.length_penalty,
            self.defaults.max_new_tokens,
        )

    @_function(input_signature=_SEARCH)
    def translate(self, texts, num_beams, length_penalty, max_new_tokens):
        """As `search`, the best output alone, which is found sooner.

        Returns:
            outputs, scores: [batch].
        """
        found = self._search(
            texts, num_beams, length_penalty, max_new_tokens, num_texts=1
        )
        return {name: values[:, 0] for name, values in found.items()}

    @_function(input_signature=_SEARCH)
    def search(self, texts, num_beams, length_penalty, max_new_tokens):
        """Finds `num_beams` outputs per text, the best first.

        Args:
            texts: string [batch].
            num_beams, length_penalty, max_new_tokens: see `BeamConfig`; all
                three are given.

        Returns:
            outputs: string [batch, num_beams], valid UTF-8.
            scores: float32 [batch, num_beams], see `beam_search`; minus
                infinity where there are no more texts.
        """
        with tf.control_dependencies(
            _checks(num_beams, length_penalty, max_new_tokens)
        ):
            num_beams, max_new_tokens = map(
                tf.identity, (num_beams, max_new_tokens)
            )
        return self._search(
            texts, num_beams, length_penalty, max_new_tokens, num_beams
        )

    @_function(
        input_signature=[_TEXTS, tf.TensorSpec([None], tf.string, "outputs")]
    )
    def align(self, texts, outputs):
        """The attention to each text while an output is written.

        Args:
            texts, outputs: string [batch] each.

        Returns:
            attention: float32 [batch, longest output + 1, longest text + 1];
                a row sums to 1, the last one is that of the end.
            text_tokens, output_tokens: string [batch, longest], the
                text of each token; empty for the end and beyond.
            log_probs: float32 [batch, longest output + 1], log p of each token
                of an output and of its end; 0 beyond.
        """
        message = "texts, outputs: expected as many of the one as of the other"
        is_paired = tf.equal(tf.size(texts), tf.size(outputs))
        with tf.control_dependencies(
            [tf.debugging.Assert(is_paired, [message])]
        ):
            texts = tf.identity(texts)
        source_ids, source_mask = self._read(texts)
        target_ids, target_mask = self._read(outputs)
        end_id = self.tokenizer.end_id
        before = tf.pad(
            target_ids[:, :-1], [[0, 0], [1, 0]], constant_values=end_id
        )
        result = self.model(
            {
                "source_ids": source_ids,
                "source_mask": source_mask,
                "target_ids": before,
            }
        )
        log_probs = tf.nn.log_softmax(tf.cast(result["logits"], tf.float32))
        log_probs = tf.gather(log_probs, target_ids, batch_dims=2)
        return {
            "attention": tf.cast(result["attention"], tf.float32),
            "text_tokens": self._tokens(source_ids),
            "output_tokens": self._tokens(target_ids),
            "log_probs": tf.where(target_mask, log_probs, 0.0),
        }

    def _search(
        self, texts, num_beams, length_penalty, max_new_tokens, num_texts
    ):
        source_ids, source_mask = self._read(texts)
        memory, states = self.model.encode(source_ids, source_mask)
        end_id = self.tokenizer.end_id
        found = beam_search.search(
            functools.partial(self.model.decode_step, memory=memory),
            tf.fill([tf.size(texts)], end_id),
            states,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            # A single text takes the first end that it comes to.
            length_penalty=tf.where(num_beams == 1, 0.0, length_penalty),
            end_ids=[end_id],
            banned_id=self.tokenizer.unknown_id,
            num_texts=num_texts,
        )
        token_ids, lengths = found["token_ids"], found["lengths"]
        with_end = tf.minimum(lengths + 1, max_new_tokens)
        penalty_left = tf.where(num_beams == 1, length_penalty, 0.0)
        rows = tf.RaggedTensor.from_tensor(
            tf.reshape(token_ids, [-1, tf.shape(token_ids)[-1]]),
            tf.reshape(lengths, [-1]),
        )
        outputs = tf.strings.unicode_transcode(
            self.tokenizer.detokenize(rows), "UTF-8", "UTF-8"
        )
        return {
            "outputs": tf.reshape(outputs, tf.shape(lengths)),
            "scores": found["scores"]
            / tf.cast(with_end, tf.float32) ** penalty_left,
        }

    def _read(self, texts):
        """Token ids, each row with its end, and their mask: [batch, time]."""
        token_ids = self.tokenizer.tokenize(texts)
        ends = tf.fill([tf.size(texts), 1], self.tokenizer.end_id)
        token_ids = tf.concat([token_ids, ends], axis=1)
        padded = token_ids.to_tensor(self.tokenizer.end_id)
        # The layers want at least one time step.
        no_texts = tf.cast(tf.equal(tf.size(texts), 0), tf.int32)
        padded = tf.pad(padded, [[0, 0], [0, no_texts]])
        mask = tf.sequence_mask(token_ids.row_lengths(), tf.shape(padded)[1])
        return padded, mask

    def _tokens(self, token_ids):
        each = tf.RaggedTensor.from_tensor(tf.reshape(token_ids, [-1, 1]))
        return tf.reshape(self.tokenizer.detokenize(each), tf.shape(token_ids))

    def signatures(self):
        return {
            "serving_default": self.serving_default,
            "search": self.search,
            "align": self.align,
        }

    def entries(self):
        return {"search": self.defaults.to_dict()}

    def warmup(self):
        return [("serving_default", {"texts": tf.constant([b""])})]
