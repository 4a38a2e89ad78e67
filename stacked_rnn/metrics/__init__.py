"""Evaluation metrics, a module per task, and measures of single units."""

from stacked_rnn.metrics.classifier import (
    ClassificationScore,
    area_under_curve,
    best_temperature,
    calibration,
    calibration_error,
    classification_report,
    confusion_matrix,
    f1_scores,
    format_confusion,
    predicted_classes,
)
from stacked_rnn.metrics.inspection import (
    ChosenUnit,
    UnitSearch,
    features_of_text,
    nearest_tokens,
    saturation,
)
from stacked_rnn.metrics.language_model import (
    Score,
    nats_of_text,
    token_nats,
    windows_of_text,
)
from stacked_rnn.metrics.seq2seq import Seq2SeqScore, bleu, edit_distance
