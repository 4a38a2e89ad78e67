"""A running average of the weights, which validates better than the weights."""

import contextlib

import tensorflow as tf


class WeightAverage(tf.Module):
    """Averages variables over the training steps.

    After n steps, a step keeps min(decay, n / (n + 1)) of the average: the mean
    of all steps at first, then an exponential moving average.

    Args:
        variables: Keras variables. The average is made in the same
            `tf.distribute` scope.
        decay: largest share of the average that a step keeps.
        is_started: whether to average from the first step on; otherwise the
            average follows the variables until `start`.
    """

    def __init__(self, variables, decay, is_started=True):
        super().__init__()
        self._variables, self._decay = variables, decay
        self._averages = [
            tf.Variable(variable.value, trainable=False)
            for variable in variables
        ]
        self._count = tf.Variable(0.0, trainable=False)
        self._increment = tf.Variable(float(is_started), trainable=False)

    @property
    def is_started(self) -> bool:
        """Whether steps are averaged."""
        return bool(self._increment.numpy())

    def start(self) -> None:
        """Begins the average with the next step."""
        self._increment.assign(1.0)

    def update(self) -> None:
        """Takes the variables after a training step into the average."""
        share = 1 - tf.minimum(self._decay, self._count / (self._count + 1))
        for average, variable in zip(self._averages, self._variables):
            average.assign(average + share * (variable.value - average))
        self._count.assign_add(self._increment)

    def apply(self) -> None:
        """Gives the variables the values of their averages."""
        for average, variable in zip(self._averages, self._variables):
            variable.assign(average.numpy())

    @contextlib.contextmanager
    def applied(self):
        """Gives the variables the values of their averages, for a while."""
        with values_kept(self._variables):
            self.apply()
            yield


@contextlib.contextmanager
def values_kept(variables):
    """Gives variables the values that they have now again, at its end."""
    before = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)
