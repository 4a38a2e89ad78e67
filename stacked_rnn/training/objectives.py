"""What each task minimizes, and what the sums that come of it say.

An objective adds up over rows, shards, devices and steps: the loss is the
first of its sums divided by the second.
"""

import tensorflow as tf

from stacked_rnn import metrics, models


class LanguageObjective:
    """Nats of each next token.

    Args:
        data: a `datasets.LanguageData`.

    Attributes:
        description: what a run of this objective is, besides its model.
        figure: the result that says most to people, and how it is written.
    """

    num_sums = 2  # nats, tokens
    unit = "tokens"  # of `count`
    figure = ("bits_per_character", "{:.3f} bits/char")
    has_logits_at_each_token = True

    def __init__(self, data):
        self.description = {"held_out": data.held_out}

    def build(self, model_config, use_cudnn):
        """The model."""
        return models.build_language_model(model_config, use_cudnn)

    def initial_states(self, model, batch_size):
        """What a batch that continues no other begins with."""
        return model.initial_states(batch_size)

    def sums(self, model, inputs, targets, states, training=False):
        """Of a batch: the sums, float32 [num_sums], and the new states.

        Args:
            model: what `build` gave.
            inputs, targets: int32 [batch, time]; -1 is no target.
            states: before the first token.
            training: whether dropout is applied.
        """
        new = model.step(
            {"token_ids": inputs, "states": states}, training=training
        )
        nats = tf.reduce_sum(metrics.token_nats(new["logits"], targets))
        count = tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
        return tf.stack([nats, count]), new["states"]

    def count(self, sums) -> float:
        """How many tokens the sums are of."""
        return sums[1]

    def score(self, sums, windows) -> metrics.Score:
        """What sums of any number of batches of some windows say."""
        nats, tokens = sums
        return metrics.Score(
            nats, int(tokens), tokens * windows.characters_per_token
        )

    def cost(self, results) -> float:
        """What the best epoch has the least of."""
        return results["val_loss"]


class ClassificationObjective:
    """Nats of each text's label, or of each class where it may have several.

    Args:
        data: a `datasets.ClassificationData`.
    """

    num_sums = 4  # weighted nats, weights; right answers, answers
    unit = "texts"
    figure = ("accuracy", "accuracy {:.3f}")
    has_logits_at_each_token = False

    def __init__(self, data):
        self.description = {"labels": list(data.labels)}
        self._data = data

    def build(self, model_config, use_cudnn):
        """The model."""
        return models.build_classifier(
            model_config,
            len(self._data.labels),
            self._data.several_labels,
            use_cudnn,
        )

    def initial_states(self, model, batch_size):
        """None: a batch has whole texts."""
        return ()

    def sums(self, model, inputs, targets, states, training=False):
        """Of a batch: the sums, float32 [num_sums], and the states.

        Args:
            model: what `build` gave.
            inputs: {token_ids, mask}, [batch, time] each.
            targets: int32 [batch, columns], see `datasets.Examples`.
            states: empty.
            training: whether dropout is applied.
        """
        logits = tf.cast(model(inputs, training=training), tf.float32)
        class_weights = tf.constant(self._data.class_weights)
        counts = targets >= 0
        targets = tf.maximum(targets, 0)
        if self._data.several_labels:
            nats = tf.nn.sigmoid_cross_entropy_with_logits(
                tf.cast(targets, tf.float32), logits
            )
            weights = tf.where(
                targets == 1, class_weights, tf.ones_like(class_weights)
            )
            is_right = (logits > 0) == (targets == 1)
        else:
            if logits.shape[1] == 1:  # log odds of the second class
                logits = tf.concat([tf.zeros_like(logits), logits], axis=1)
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
                targets[:, 0], logits
            )[:, None]
            weights = tf.gather(class_weights, targets)
            is_right = tf.argmax(logits, 1, tf.int32)[:, None] == targets

        def total(values):
            values = tf.cast(values, tf.float32)
            return tf.reduce_sum(tf.where(counts, values, 0.0))

        return (
            tf.stack(
                [
                    total(nats * weights),
                    total(weights),
                    total(is_right),
                    total(counts),
                ]
            ),
            states,
        )

    def count(self, sums) -> float:
        """How many texts the sums are of, whatever they weigh."""
        answers = len(self._data.labels) if self._data.several_labels else 1
        return sums[3] / answers

    def score(self, sums, windows) -> metrics.ClassificationScore:
        """What sums of any number of batches of some texts say."""
        return metrics.ClassificationScore(*sums)

    def cost(self, results) -> float:
        """What the best epoch has the least of.

        A classifier gets better for some time while it gets too sure of itself
        already, and its loss rises. Between equal accuracies the loss decides.
        """
        return 1e-6 * results["val_loss"] - results["val_accuracy"]


class Seq2SeqObjective:
    """Nats of each token of the target, given those before it.

    Where the likeliest token is right at each place, greedy decoding writes
    this very target: how many do is known without decoding.

    Args:
        data: a `datasets.PairData`.
    """

    num_sums = 4  # nats, tokens; targets all right, targets
    unit = "tokens"
    figure = ("exact_match", "{:.1%} exact")
    has_logits_at_each_token = True

    def __init__(self, data):
        self.description = {}

    def build(self, model_config, use_cudnn):
        """The model."""
        return models.build_seq2seq(model_config, use_cudnn)

    def initial_states(self, model, batch_size):
        """None: a batch has whole texts."""
        return ()

    def sums(self, model, inputs, targets, states, training=False):
        """Of a batch: the sums, float32 [num_sums], and the states.

        Args:
            model: what `build` gave.
            inputs: {source_ids, source_mask, target_ids}, [batch, time] each.
            targets: int32 [batch, target time], -1 is no target.
            states: empty.
            training: whether dropout is applied.
        """
        logits = model(inputs, training=training)["logits"]
        counts = targets >= 0
        is_right = tf.argmax(logits, -1, tf.int32) == targets
        is_text = tf.reduce_any(counts, axis=1)
        all_right = is_text & tf.reduce_all(is_right | ~counts, axis=1)
        return (
            tf.stack(
                [
                    tf.reduce_sum(metrics.token_nats(logits, targets)),
                    *(
                        tf.reduce_sum(tf.cast(which, tf.float32))
                        for which in (counts, all_right, is_text)
                    ),
                ]
            ),
            states,
        )

    def count(self, sums) -> float:
        """How many tokens the sums are of."""
        return sums[1]

    def score(self, sums, windows) -> metrics.Seq2SeqScore:
        """What sums of any number of batches of some pairs say."""
        return metrics.Seq2SeqScore(*sums)

    def cost(self, results) -> float:
        """What the best epoch has the least of."""
        return results["val_loss"]


OBJECTIVES = {
    "language_model": LanguageObjective,
    "classifier": ClassificationObjective,
    "seq2seq": Seq2SeqObjective,
}
