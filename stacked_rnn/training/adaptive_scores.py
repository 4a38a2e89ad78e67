"""Scoring a text with a language model that adapts to it, for evaluate.py.

Dynamic evaluation (Krause et al. 2018, "Dynamic evaluation of neural sequence
models") takes a step of gradient descent after each stretch of the text. The
neural cache (Grave et al. 2017, "Improving neural language models with a
continuous cache") raises the probability of tokens that followed on a similar
state before. Neither looks ahead: a token is scored before the model learns
from it.
"""

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal

_EPSILON = 2e-5  # as in Krause's program
_WINDOW = 500  # tokens per call where the model learns nothing
_STATISTICS_WINDOWS = 500  # stretches of a text to measure gradients on


class AdaptiveScorer:
    """Scores texts with a model of its own, which begins each text anew.

    Args:
        model: a `models.LanguageModel`; its weights change during a text.
        config: an `EvaluateConfig`.
        training_ids: int32 [tokens], a text like those of the training, on
            which the size of the gradients is measured; needed if
            `config.dynamic_rate` is set.

    Raises:
        UserError: `training_ids` are too few. From `token_nats`: the rate is so
            high that the loss is no longer a number.
    """

    def __init__(self, model, config, training_ids=None):
        self._model, self._config = model, config
        self._weights = model.trainable_variables
        self._begin = [weight.numpy() for weight in self._weights]
        self._learns = config.dynamic_rate > 0
        self._score_and_learn = tf.function(
            self._score_and_learn, autograph=False
        )
        if self._learns:
            if len(training_ids) < 2:
                raise UserError(
                    f"--training_text={config.training_text}: gradients need "
                    "two tokens or more"
                )
            self._scales = self._measure_gradients(training_ids)

    def token_nats(self, token_ids):
        """Computes the nats of each token but the first, the state carried.

        Args:
            token_ids: int32 [tokens], two or more.

        Returns:
            float32 [tokens - 1].
        """
        config = self._config
        for weight, value in zip(self._weights, self._begin):
            weight.assign(value)
        cache = _Cache(config) if config.cache_size else None
        states, scored, done = self._model.states_before_text(1), [], 0
        with terminal.progress_bar(len(token_ids) - 1, "token") as progress:
            for inputs, targets, count in self._stretches(token_ids):
                nats, seen, states = self._score_and_learn(
                    inputs, targets, states
                )
                nats, seen = nats.numpy()[0, :count], seen.numpy()[0, :count]
                if not np.isfinite(nats).all():
                    raise UserError(
                        f"--dynamic_rate={config.dynamic_rate:g}: the loss is "
                        "no longer a number: take a lower rate"
                        if self._learns
                        else "--text: the loss is not a number"
                    )
                if cache is not None:
                    nats = cache.mix(nats, seen, targets.numpy()[0, :count])
                scored.append(nats)
                done += count
                progress(done)
        return np.concatenate(scored)

    def _stretches(self, token_ids):
        """Cuts a text as `metrics.windows_of_text` does."""
        window = self._config.dynamic_window if self._learns else _WINDOW
        return metrics.windows_of_text(token_ids, window)

    def _nats(self, inputs, targets, states):
        new = self._model.step({"token_ids": inputs, "states": states})
        logits = tf.cast(new["logits"], tf.float32) / self._config.temperature
        return metrics.token_nats(logits, targets), new

    def _gradients(self, inputs, targets, states):
        """Differentiates the mean nats of a stretch."""
        with tf.GradientTape() as tape:
            nats, new = self._nats(inputs, targets, states)
            count = tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
            loss = tf.reduce_sum(nats) / count
        gradients = tape.gradient(loss, [w.value for w in self._weights])
        return nats, new, [tf.convert_to_tensor(g) for g in gradients]

    def _score_and_learn(self, inputs, targets, states):
        if not self._learns:
            nats, new = self._nats(inputs, targets, states)
            return nats, new["outputs"], new["states"]
        config = self._config
        nats, new, gradients = self._gradients(inputs, targets, states)
        for weight, begin, (rms, share), gradient in zip(
            self._weights, self._begin, self._scales, gradients
        ):
            back = tf.minimum(config.dynamic_decay * share, 1.0)
            weight.assign(
                weight.value
                + back * (begin - weight.value)
                - config.dynamic_rate * gradient / (rms + _EPSILON)
            )
        return nats, new["outputs"], new["states"]

    def _measure_gradients(self, token_ids):
        """Returns for each weight the root mean square of its gradient.

        Returns:
            A list of (rms, share): the share is rms divided by its mean over
            all weights of the model.
        """
        gradients_of = tf.function(self._gradients, autograph=False)
        sums = [tf.Variable(tf.zeros_like(weight)) for weight in self._weights]
        states, count = self._model.initial_states(1), 0
        with terminal.progress_bar(_STATISTICS_WINDOWS, "stretch") as progress:
            for inputs, targets, _ in self._stretches(token_ids):
                _, new, gradients = gradients_of(inputs, targets, states)
                states = new["states"]
                for total, gradient in zip(sums, gradients):
                    total.assign_add(gradient**2)
                count += 1
                progress(count)
                if count == _STATISTICS_WINDOWS:
                    break
        rms = [tf.sqrt(total / count) for total in sums]
        mean = tf.add_n([tf.reduce_sum(r) for r in rms]) / sum(
            tf.size(r, tf.int32).numpy() for r in rms
        )
        return [(r, r / mean) for r in rms]


class _Cache:
    """The last states of a text, and the token that followed on each."""

    def __init__(self, config):
        self._config = config
        self._states = self._tokens = None

    def mix(self, nats, states, targets):
        """Mixes the model's probabilities of targets with those of the cache.

        Args:
            nats: float32 [time], by the model.
            states: float32 [time, units], what the readout saw.
            targets: int32 [time].

        Returns:
            float32 [time], the nats of the mixture.
        """
        config = self._config
        if self._states is None:
            self._states = np.zeros((0, states.shape[1]), np.float32)
            self._tokens = np.zeros(0, np.int32)
        num_old = len(self._states)
        all_states = np.concatenate([self._states, states])
        all_tokens = np.concatenate([self._tokens, targets])
        # Row t may use what was before it, and at most `cache_size` of that.
        now = num_old + np.arange(len(states))[:, None]
        then = np.arange(len(all_states))
        is_seen = (then < now) & (then >= now - config.cache_size)
        scores = config.cache_flatness * states @ all_states.T
        scores = np.where(is_seen, scores, -np.inf)
        largest = scores.max(axis=1, keepdims=True, initial=-1e30)
        weights = np.exp(scores - largest)
        is_target = all_tokens == targets[:, None]
        in_cache = (weights * is_target).sum(1) / np.maximum(
            weights.sum(1), 1e-30
        )
        share = np.where(is_seen.any(axis=1), config.cache_weight, 0.0)
        self._states = all_states[-config.cache_size :]
        self._tokens = all_tokens[-config.cache_size :]
        # In logarithms: the probability of a rare token may be less than the
        # least number.
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(
                np.log1p(-share) - nats, np.log(share * in_cache)
            )
        return -mixed.astype(np.float32)
