"""Training: the loop, its callbacks, and the run directory on disk."""

from stacked_rnn.training.adaptive_scores import AdaptiveScorer
from stacked_rnn.training.averaging import WeightAverage
from stacked_rnn.training.callbacks import SampleTexts, settings_for
from stacked_rnn.training.runs import (
    find_export,
    lock_run,
    note_export,
    past_record,
)
from stacked_rnn.training.sampled_softmax import CandidateSampler, sampled_nats
from stacked_rnn.training.strategies import (
    Workers,
    lost_workers_explained,
    make_strategy,
    strategy_of,
)
from stacked_rnn.training.trackers import check_packages, tracking
from stacked_rnn.training.trainer import Trainer
