"""The classifier task: labelling texts."""

import keras
import tensorflow as tf

from stacked_rnn import configs, datasets, export, inference, metrics, models
from stacked_rnn.inference.classifier import compute_scores, label_matrix
from stacked_rnn.reports import plots
from stacked_rnn.tasks import base
from stacked_rnn.training import sizing
from stacked_rnn.utils import terminal

_REPORTED = (
    "accuracy", "exact_match", "macro_f1", "auc", "calibration_error",
)  # fmt: skip


class ClassifierTask(base.Task):
    """Labels texts.

    The sums are the weighted nats of the labels, their weights, the number of
    correct predictions, and the number of predictions. If texts may have
    several labels, each class is a prediction of its own.
    """

    name = "classifier"
    load_data = staticmethod(datasets.load_classification_data)
    num_sums = 4
    unit = "texts"
    has_logits_at_each_token = False
    final_passes = 2  # the second one finds the temperature

    @classmethod
    def read(cls, start):
        config, model_config = start.train_config, start.model_config
        labelled = start.source or datasets.read_texts_of(config)
        chosen = None
        if start.given is not None and not start.tokenizer:
            chosen = sizing.for_classifier(
                labelled.texts, start.given, start.past
            )
        if chosen:
            (config,) = configs.replace_settings((config,), chosen.settings)
        data = cls.load_data(
            config, model_config.vocabulary_size, start.tokenizer, labelled
        )
        return cls(data, chosen, labelled)

    def complete(self, model_config):
        config = super().complete(model_config)
        models.check_classifier(
            config, len(self.data.labels), self.data.multi_label
        )
        return config

    def initial_weights(self, start, model_config):
        if not start.model:
            return None
        keras.utils.set_random_seed(start.train_config.seed)
        model = self.build(model_config, use_cudnn=False)
        model.load_backbone_from(start.model)
        return model.get_weights()

    def taken_weights(self, start, model_config):
        count = models.num_shared_layers(model_config, start.model.config)
        direction = ", forwards only," if model_config.bidirectional else ""
        return (
            f"the embedding and {count} of {model_config.num_layers} layer(s)"
            f"{direction}"
        )

    def record(self):
        return {"labels": list(self.data.labels)}

    def warn(self):
        super().warn()
        terminal.warn_of(
            self.data.num_truncated,
            f"text(s) have more than --sequence_length={self.data.max_tokens} "
            "tokens: the rest is not read",
        )

    def build(self, model_config, use_cudnn):
        return models.build_classifier(
            model_config,
            len(self.data.labels),
            self.data.multi_label,
            use_cudnn,
        )

    def sums(self, model, inputs, targets, states, seed=None):
        """See `Task.sums`.

        Args:
            model: a `models.Classifier`.
            inputs: {token_ids, mask}, each [batch, time].
            targets: int32 [batch, columns], see `datasets.Examples`.
            states: empty.
            seed: not None in training, with dropout.
        """
        logits = tf.cast(model(inputs, training=seed is not None), tf.float32)
        class_weights = tf.constant(self.data.class_weights)
        is_target = targets >= 0
        targets = tf.maximum(targets, 0)
        if self.data.multi_label:
            nats = tf.nn.sigmoid_cross_entropy_with_logits(
                tf.cast(targets, tf.float32), logits
            )
            weights = tf.where(
                targets == 1, class_weights, tf.ones_like(class_weights)
            )
            is_correct = (logits > 0) == (targets == 1)
        else:
            if logits.shape[1] == 1:  # log odds of the second class
                logits = tf.concat([tf.zeros_like(logits), logits], axis=1)
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
                targets[:, 0], logits
            )[:, None]
            weights = tf.gather(class_weights, targets)
            is_correct = tf.argmax(logits, 1, tf.int32)[:, None] == targets

        def total(values):
            values = tf.cast(values, tf.float32)
            return tf.reduce_sum(tf.where(is_target, values, 0.0))

        parts = (nats * weights, weights, is_correct, is_target)
        return tf.stack([*map(total, parts)]), states

    def count(self, sums):
        """Returns the number of texts in the sums, whatever their weights."""
        predictions = len(self.data.labels) if self.data.multi_label else 1
        return sums[3] / predictions

    def score(self, sums, batches):
        return metrics.ClassificationScore(*sums)

    def cost(self, results):
        """Returns minus the accuracy; equal accuracies are ordered by loss.

        The loss alone would stop too early: it rises once the classifier is
        overconfident, while the accuracy still improves.
        """
        return 1e-6 * results["val_loss"] - results["val_accuracy"]

    def exported(self, model):
        return export.TextClassifier(
            model, self.data.tokenizer, self.data.labels, self.data.max_tokens
        )

    def calibrate(self, exported):
        """Finds the temperature of the probabilities."""
        texts = self.data.validation_texts
        if texts is None:
            return {}
        return {
            "temperature": metrics.best_temperature(
                compute_scores(exported.serving_default, texts.texts),
                label_matrix(texts, self.data.labels),
                self.data.multi_label,
            )
        }

    def finish(self, exported, temperature=1.0):
        """Calibrates the probabilities."""
        exported.model.apply_temperature(temperature)

    def report(self, version, model_dir):
        texts = self.data.validation_texts
        if texts is None:
            return
        result = inference.load(version).evaluate(texts)
        print(
            "\nOn the validation texts: "
            + ", ".join(
                f"{name.replace('_', ' ')} {result[name]:.3f}"
                for name in _REPORTED
                if result.get(name) is not None
            )
        )
        if "confusion" in result:
            print(
                metrics.format_confusion(result["confusion"], self.data.labels)
            )
        picture = model_dir / "classification.png"
        if plots.draw_classification(result, self.data.labels, picture):
            print(f"Drawn: {picture}")

    def next_steps(self, version):
        texts = self.data.validation_texts
        text = texts.texts[0] if texts else "..."
        return base.commands_to_predict(version, text, "LABELLED_FILE")
