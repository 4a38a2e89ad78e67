"""The language model task: continuing texts."""

import dataclasses
import functools
import shlex
import sys

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import configs, datasets, export, metrics, models, training
from stacked_rnn.configs import unescaped
from stacked_rnn.tasks import base
from stacked_rnn.training import sizing

_TOKENS_TO_CALIBRATE = 2**14
_VALUES_TO_CALIBRATE = 2**24  # logits at once
_GAIN_TO_NAME = 0.002  # nats per token


class LanguageModelTask(base.Task):
    """Continues texts.

    The sums are the nats of the next tokens, their number, and what label
    smoothing adds to the nats in training.
    """

    name = "language_model"
    load_data = staticmethod(datasets.load_language_data)
    num_sums = 3
    shapes_vary = False

    @classmethod
    def read(cls, start):
        config, model_config = start.train_config, start.model_config
        corpus = start.source or datasets.open_corpus(config, start.tokenizer)
        chosen = None
        if start.given is not None and not config.train_windows:
            chosen = sizing.for_language_model(
                corpus,
                model_config,
                config,
                start.given,
                start.past,
                start.most_minutes,
            )
            (config,) = configs.replace_settings((config,), chosen.settings)
            if chosen.settings.get("document_separator"):
                corpus = corpus.as_lines()
        data = cls.load_data(
            config,
            model_config.vocabulary_size,
            start.tokenizer,
            corpus,
            # A run that has begun keeps its vocabulary.
            widen=start.model is not None and config.widen_vocabulary,
        )
        return cls(data, chosen, corpus)

    def complete(self, model_config):
        config = dataclasses.replace(
            super().complete(model_config),
            end_of_text=self.data.tokenizer.end_id is not None,
        )
        models.check_language_model(config)
        return config

    def initial_weights(self, start, model_config):
        if not start.model:
            return None
        keras.utils.set_random_seed(start.train_config.seed)
        model = self.build(model_config, use_cudnn=False)
        model.load_weights_from(start.model)
        return model.get_weights()

    def record(self):
        return {
            "held_out": self.data.held_out,
            "vocabulary_limit": self.data.vocabulary_limit,
        }

    def warn(self):
        super().warn()
        data = self.data
        if not data.has_separator:
            separator = unescaped(data.tokenizer.document_separator)
            print(
                f"warning: --document_separator={separator!r} is nowhere in "
                "the text, which is one document: no generated text will end",
                file=sys.stderr,
            )
        for note in data.notes:
            print(note, file=sys.stderr)

    def build(self, model_config, use_cudnn):
        return models.build_language_model(model_config, use_cudnn)

    def initial_states(self, model, batch_size):
        return model.initial_states(batch_size)

    def sums(self, model, inputs, targets, states, seed=None):
        """See `Task.sums`; inputs and targets are int32 [batch, time]."""
        config, is_training = model.config, seed is not None
        new = model.step(
            {"token_ids": inputs, "states": states}, training=is_training
        )
        logits = tf.cast(new["logits"], tf.float32)
        if is_training and 0 < config.sampled_words < config.vocabulary_size:
            nats = self._sampled_nats(model, new["outputs"], targets, seed)
        else:
            nats = metrics.token_nats(logits, targets)
        nats = tf.reduce_sum(nats)
        is_target = tf.cast(targets >= 0, tf.float32)
        smoothing, penalty = config.label_smoothing, tf.constant(0.0)
        if is_training and smoothing:
            mean_nats = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
            penalty = smoothing * (tf.reduce_sum(mean_nats * is_target) - nats)
        return (
            tf.stack([nats, tf.reduce_sum(is_target), penalty]),
            new["states"],
        )

    @functools.cached_property
    def _token_counts(self):
        return self.data.training.token_counts(
            self.data.tokenizer.vocabulary_size()
        )

    def _sampled_nats(self, model, outputs, targets, seed):
        """Computes the nats of targets under a sampled softmax.

        Args:
            model: a `LanguageModel`.
            outputs: [batch, time, units], what the readout sees.
            targets: int32 [batch, time].
            seed: int32 [2].

        Returns:
            float32 [batch * time].
        """
        sampler = training.CandidateSampler(
            self._token_counts, model.config.sampled_words
        )
        candidates, targets = sampler.draw(seed), tf.reshape(targets, [-1])
        logits = model.some_logits(
            tf.reshape(outputs, [-1, outputs.shape[-1]]),
            tf.maximum(targets, 0),
            candidates,
        )
        return training.sampled_nats(
            *logits, targets, candidates, sampler.log_probabilities
        )

    def objective(self, sums):
        nats, _, penalty = tf.unstack(sums)
        return nats + penalty

    def score(self, sums, batches):
        nats, tokens, _ = sums
        return metrics.Score(
            nats, int(tokens), tokens * batches.characters_per_token
        )

    def exported(self, model):
        return export.TextGenerator(model, self.data.tokenizer)

    def calibrate(self, exported):
        """Finds the softmax temperature that suits the validation text best.

        The model does not use it.
        """
        windows = self.data.validation
        if not windows:
            return {}
        sums = _temperature_sums(exported.model, windows)
        nats, tokens, slope, curvature = sums(1.0)
        # One step of Newton's method for the inverse of the temperature.
        temperature = round(1 / (1 - slope / max(curvature, 1e-9)), 3)
        if not 0.5 < temperature < 2:
            return {}
        best, *_ = sums(temperature)
        return {
            "softmax_temperature": {
                "temperature": temperature,
                "loss": best / tokens,
                "loss_at_1": nats / tokens,
                "tokens": int(tokens),
            }
        }

    def finish(self, exported, softmax_temperature=None):
        """Names the softmax temperature, if it makes a difference."""
        if not softmax_temperature:
            return
        gain = softmax_temperature["loss_at_1"] - softmax_temperature["loss"]
        if gain >= _GAIN_TO_NAME:
            print(
                f"With evaluate.py --temperature="
                f"{softmax_temperature['temperature']:g}, the validation loss "
                f"is {gain:.4f} lower."
            )

    def callbacks(self, trainer, exported):
        """Prints a short text by the model after each epoch."""

        def sample(epoch):
            exported.model.set_weights(trainer.weights())
            return exported.sample(100, seed=epoch)

        return [training.SampleTexts(trainer, sample)]

    def next_steps(self, version):
        start = "--num_samples=3"
        if self.data.tokenizer.end_id is None:  # else each sample is a document
            windows = self.data.validation or self.data.training
            token_ids = np.asarray(windows.token_ids[:1000], np.int32)
            (text,) = self.data.tokenizer.detokenize(
                tf.RaggedTensor.from_tensor(token_ids[None])
            )
            words = base.some_words(text.numpy().decode("utf-8", "replace"))
            start = f"--prompt={shlex.quote(words)}" if words else start
        return [
            base.command("generate", version, start),
            base.command("evaluate", version, "--text=FILE"),
        ]


def _temperature_sums(model, windows):
    """Makes a function that tells how well a softmax temperature suits a text.

    Args:
        model: a `LanguageModel`.
        windows: the text, of which `_TOKENS_TO_CALIBRATE` are read.

    Returns:
        A function of the temperature, which divides the logits. It returns the
        nats of the tokens, their number, and the first and the second
        derivative of the nats by the inverse of the temperature, where that is
        measured from the given one.
    """

    @tf.function(autograph=False)
    def add(sums, token_ids, targets, states, temperature):
        new = model.step({"token_ids": token_ids, "states": states})
        logits = tf.cast(new["logits"], tf.float32) / temperature
        nats = metrics.token_nats(logits, targets)
        log_p = tf.nn.log_softmax(logits)
        p, is_target = tf.exp(log_p), tf.cast(targets >= 0, tf.float32)
        # With b the inverse: d nats / db = E[z] - z_target, and
        # d^2 nats / db^2 = E[z^2] - E[z]^2; both are the same for log p as z.
        mean = tf.reduce_sum(p * log_p, axis=-1)
        square = tf.reduce_sum(p * log_p**2, axis=-1)
        values = tf.stack([nats, is_target, mean + nats, square - mean**2])
        new_sums = sums + tf.reduce_sum(values * is_target, axis=[1, 2])
        return new_sums, new["states"]

    count = -(-_TOKENS_TO_CALIBRATE // windows.sequence_length)
    count = min(windows.steps_per_epoch, -(-count // windows.batch_size))
    batches = [*windows.dataset().take(count)]

    # Some rows at a time: several numbers for each token and each target.
    values = windows.sequence_length * model.config.vocabulary_size
    rows = max(1, _VALUES_TO_CALIBRATE // values)

    def sums_at(temperature):
        sums, temperature = tf.zeros(4), tf.constant(temperature)
        for first in range(0, windows.batch_size, rows):
            part = slice(first, first + rows)
            states = zeros = model.initial_states(
                min(rows, windows.batch_size - first)
            )
            for token_ids, targets in batches:
                sums, states = add(
                    sums, token_ids[part], targets[part], states, temperature
                )
                if not windows.carries_state:
                    states = zeros
        return sums.numpy().tolist()

    return sums_at
