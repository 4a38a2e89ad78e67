"""What the studies share: a training that is scored on the way.

Their reports are written by benchmarks/common.py, which is imported here.
"""

import dataclasses
import math
import pathlib
import statistics
import sys
import time

from stacked_rnn.configs import UserError, setting

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

import common


@dataclasses.dataclass(frozen=True)
class ReportConfig(common.ReportConfig):
    """Where the report goes."""

    output_dir: str = setting("experiments/results", "Directory of the report.")


def fit(trainer, windows, every, patience=math.inf):
    """Trains, scores on the way, and keeps the weights of the best score.

    Args:
        trainer: a `Trainer`; its model ends with the weights of the best score.
        windows: what is scored.
        every: steps between two scores.
        patience: after this many scores without a better one training stops.

    Returns:
        A dict: "steps" and "nats" (per token) of each score, and the median
        "seconds_a_step".

    Raises:
        UserError: the training ends before the first score.
    """
    import keras

    if trainer.total_steps < every:
        raise UserError(
            f"the text is too short: {trainer.total_steps} steps of training, "
            f"and the first score is after {every}: give a longer --corpus"
        )
    steps, nats, seconds = [], [], []
    started, best = 0.0, None

    def begin(batch, logs=None):
        nonlocal started
        started = time.perf_counter()

    def end(batch, logs=None):
        nonlocal best
        seconds.append(time.perf_counter() - started)
        if trainer.step % every:
            return
        steps.append(trainer.step)
        nats.append(trainer.evaluate(windows).nats_per_token)
        if nats[-1] == min(nats):
            best = trainer.model.get_weights()
        if len(nats) - nats.index(min(nats)) > patience:
            trainer.model.stop_training = True

    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=begin, on_train_batch_end=end
    )
    trainer.fit([callback], verbose=0)
    trainer.model.set_weights(best)
    return {
        "steps": steps,
        "nats": nats,
        "seconds_a_step": statistics.median(seconds),
    }
