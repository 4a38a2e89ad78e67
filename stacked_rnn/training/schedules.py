"""Schedules of the learning rate, over steps or over time."""

import math
import time

import keras

_TIMED_STEPS = 1000  # steps of a schedule that follows the time


class Clock:
    """Measures the share of a run's time limit that is over.

    The share does not grow before `start`, so that the schedule loses nothing
    while the first step is compiled.

    Args:
        minutes: time limit of the run, over all processes that resume it; 0: no
            limit.
        seconds_used: seconds that earlier processes have used.
        started: the `time.monotonic()` from which the limit counts; None: now.
        reserve: seconds at the end that are kept for what comes after the last
            validation.
        least: share of the time that is for training, however slow the start
            was.

    Attributes:
        seconds: time limit in seconds; without one, infinity.
        validation: seconds at the end that are kept for the last validation,
            and what reads the same texts again; None: not known yet.
    """

    def __init__(
        self, minutes, seconds_used=0.0, started=None, reserve=0.0, least=0.25
    ):
        self.seconds = 60 * minutes or math.inf
        self.validation = None
        self._used = seconds_used / self.seconds
        now, left = time.monotonic(), self.seconds - seconds_used
        started = now if started is None else started
        self._end = max(started + left - reserve, now + least * left)
        self._started = None

    def start(self) -> None:
        """Starts the clock; only the first call has an effect."""
        if self._started is None:
            self._started = time.monotonic()

    def share(self) -> float:
        """Returns the share of the time that is over, 1 at the end."""
        now, end = time.monotonic(), self._end - (self.validation or 0.0)
        if now >= end:
            return 1.0
        if self._started is None:
            return self._used
        passed = (now - self._started) / (end - self._started)
        return self._used + (1 - self._used) * passed


class _TimedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that follows the time instead of the steps.

    Args:
        schedule: a Keras schedule over `_TIMED_STEPS` steps.
        share: variable, the share of the time that is over.
    """

    def __init__(self, schedule, share):
        self._schedule, self._share = schedule, share

    def __call__(self, step):
        return self._schedule(self._share * _TIMED_STEPS)

    def get_config(self):
        """Returns the schedule's settings, for callbacks that record them."""
        return self._schedule.get_config()


class _ScaledRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate in proportion to the length of the windows of a step.

    Args:
        rate: a number or a schedule.
        share: variable, that length as a share of whole windows.
    """

    def __init__(self, rate, share):
        self._rate, self._share = rate, share

    def __call__(self, step):
        rate = self._rate(step) if callable(self._rate) else self._rate
        return rate * self._share

    def get_config(self):
        """Returns the rate's settings, for callbacks that record them."""
        if callable(self._rate):
            return self._rate.get_config()
        return {"learning_rate": self._rate}


def learning_rate(config, total_steps, share=None, window_share=None):
    """Builds the `learning_rate` of a Keras optimizer: a number or a schedule.

    Args:
        config: a `TrainConfig`.
        total_steps: number of steps of the run.
        share: variable, the share of the run's time that is over, if the time
            ends the run; None: `total_steps` does.
        window_share: variable, the length of the windows of a step as a share
            of whole ones; None: all are whole.
    """
    rate = _rate_over_steps_or_time(config, total_steps, share)
    return rate if window_share is None else _ScaledRate(rate, window_share)


def _rate_over_steps_or_time(config, total_steps, share):
    """Builds the learning rate for whole windows: a number or a schedule."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    steps = total_steps if share is None else _TIMED_STEPS
    warmup_steps = min(100, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate / (warmup_steps + 1),  # 0 would lose steps
        max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=config.learning_rate,
        warmup_steps=warmup_steps,
    )
    return schedule if share is None else _TimedSchedule(schedule, share)
