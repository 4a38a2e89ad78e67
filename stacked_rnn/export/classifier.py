"""A classifier as a SavedModel that labels texts."""

import tensorflow as tf

from stacked_rnn.export import base


class TextClassifier(base.ExportedModel):
    """Labels texts.

    Args:
        model: a `models.Classifier` without dropout (`for_inference`).
        tokenizer: a `tokenizers.Tokenizer`.
        labels: the names of the classes.
        max_tokens: how many tokens of a text it reads.
    """

    task = "classifier"

    def __init__(self, model, tokenizer, labels, max_tokens):
        super().__init__(model, tokenizer)
        self._labels, self._max_tokens = tuple(labels), max_tokens

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.string, "texts")],
    )
    def serving_default(self, texts):
        """Labels texts.

        Returns:
            labels: string [batch], the likeliest class; with several labels a
                text, those likelier than not, joined by commas.
            scores: float32 [batch, classes], the probability of each class.
            classes: string [batch, classes], their names.
        """
        token_ids = self.tokenizer.tokenize(texts)[:, : self._max_tokens]
        padded = token_ids.to_tensor()
        # The layers want at least one time step.
        padded = tf.pad(padded, [[0, 0], [0, 1]])
        mask = tf.sequence_mask(token_ids.row_lengths(), tf.shape(padded)[1])
        scores = self.model.scores(
            self.model({"token_ids": padded, "mask": mask})
        )
        classes = tf.constant(self._labels)
        if self.model.multi_label:
            labels = tf.strings.reduce_join(
                tf.ragged.boolean_mask(
                    tf.broadcast_to(classes, tf.shape(scores)), scores > 0.5
                ),
                axis=-1,
                separator=",",
            )
        else:
            labels = tf.gather(classes, tf.argmax(scores, axis=-1))
        return {
            "labels": labels,
            "scores": scores,
            "classes": tf.broadcast_to(classes, tf.shape(scores)),
        }

    def signatures(self):
        return {"serving_default": self.serving_default}

    def entries(self):
        return {
            "labels": self._labels,
            "several_labels": self.model.multi_label,
            "max_tokens": self._max_tokens,
        }

    def warmup(self):
        return [("serving_default", {"texts": tf.constant([b""])})]
