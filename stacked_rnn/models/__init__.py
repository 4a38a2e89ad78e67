"""The models, a functional Keras model per task.

Each makes its layers once and shares them between several graphs.
"""

from stacked_rnn.models.classifier import (
    Classifier,
    build_classifier,
    check_classifier,
    num_shared_layers,
)
from stacked_rnn.models.language_model import (
    LanguageModel,
    build_language_model,
    check_language_model,
)
from stacked_rnn.models.saved_weights import read_checkpoint, read_saved_model
from stacked_rnn.models.seq2seq import Seq2Seq, build_seq2seq
