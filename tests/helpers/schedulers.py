"""A scheduler of the server alone, and what it delivers."""

import queue
import time

import numpy as np

from stacked_rnn import configs
from stacked_rnn.serving import adjustments, scheduler


class Harness:
    """A `Scheduler`, and what it delivered: sequence -> list of updates."""

    def __init__(self, model, **options):
        self.updates = {}
        self.ended = queue.Queue()
        self.scheduler = scheduler.Scheduler(
            model, self._deliver, **{"cache_bytes": 2**20} | options
        )

    def _deliver(self, updates):
        for sequence, update in updates:
            self.updates.setdefault(sequence, []).append(
                (time.monotonic(), update)
            )
            if update.finish_reason:
                self.ended.put(sequence)

    def submit(
        self,
        prompts,
        stop=(),
        deadline=np.inf,
        adjustment=adjustments.NONE,
        **options,
    ):
        settings = {"max_new_tokens": 50} | options
        sampling = configs.SamplingConfig(**settings)
        sequences = [
            self.scheduler.sequence(
                prompt, sampling, stop, deadline, adjustment
            )
            for prompt in prompts
        ]
        self.scheduler.submit(sequences)
        return sequences

    def wait(self, count=1):
        return [self.ended.get(timeout=60) for _ in range(count)]

    def result(self, sequence):
        """(text, tokens, log p, finish reason) of all its updates together."""
        updates = [update for _, update in self.updates[sequence]]
        assert all(update.finish_reason is None for update in updates[:-1])
        return (
            "".join(update.text for update in updates),
            [token for update in updates for token in update.tokens],
            [value for update in updates for value in update.log_probs],
            updates[-1].finish_reason,
        )


def alone(model, prompt, stop=(), **options):
    """The continuation that `generate` gives."""
    settings = {"max_new_tokens": 50} | options
    sampling = configs.SamplingConfig(**settings)
    [continuation] = model.continuations([prompt], sampling, stop)
    return continuation
