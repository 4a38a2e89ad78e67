"""The learning rate over a run of so many steps, or of so much time."""

import math
import time

import keras

_CLOCK_STEPS = 1000  # that a schedule has which time walks through


class Clock:
    """How much of the time that a run may take is over.

    It stands still until `start`, so that the compilation of the first step
    costs a schedule nothing.

    Args:
        minutes: of all processes of the run together; 0: no limit.
        seconds_used: by those before this one.

    Attributes:
        seconds: that the run may take.
        reserve: seconds, of the end, that are kept for the last validation.
    """

    def __init__(self, minutes, seconds_used=0.0):
        self.seconds = 60 * minutes or math.inf
        self.reserve = 0.0
        self._used = seconds_used / self.seconds
        self._end = time.monotonic() + self.seconds - seconds_used
        self._started = None

    def start(self) -> None:
        """Lets the time pass, from the first call on."""
        if self._started is None:
            self._started = time.monotonic()

    def share(self) -> float:
        """Part of the time that is over, 1 at the end."""
        now, end = time.monotonic(), self._end - self.reserve
        if now >= end:
            return 1.0
        if self._started is None:
            return self._used
        passed = (now - self._started) / (end - self._started)
        return self._used + (1 - self._used) * passed


class _ByTheClock(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of `_CLOCK_STEPS` steps that time walks through.

    Args:
        schedule: of steps.
        share: variable, the part of the time that is over.
    """

    def __init__(self, schedule, share):
        self._schedule, self._share = schedule, share

    def __call__(self, step):
        return self._schedule(self._share * _CLOCK_STEPS)


def learning_rate(config, total_steps, share=None):
    """What a Keras optimizer takes.

    Args:
        config: a `TrainConfig`.
        total_steps: of the run.
        share: variable, the part of the time of the run that is over, where
            that ends it; None: `total_steps` do.
    """
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    steps = total_steps if share is None else _CLOCK_STEPS
    warmup_steps = min(100, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=config.learning_rate,
        warmup_steps=warmup_steps,
    )
    return schedule if share is None else _ByTheClock(schedule, share)
