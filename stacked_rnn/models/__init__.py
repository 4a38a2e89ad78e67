"""Models as functional Keras graphs: layers made once, wired several times."""

from stacked_rnn.models.classifier import (
    Classifier,
    build_classifier,
    check_classifier,
)
from stacked_rnn.models.language import (
    LanguageModel,
    build_language_model,
    check_language_model,
)

__all__ = [
    "Classifier",
    "LanguageModel",
    "build_classifier",
    "build_language_model",
    "check_classifier",
    "check_language_model",
]
