"""The product: a SavedModel that takes text in and gives text, or a label.

It holds core TensorFlow ops only and loads with `tf.saved_model.load` in a
process that has TensorFlow and nothing of this project.
"""

from stacked_rnn.export.text_classifier import TextClassifier
from stacked_rnn.export.text_generator import TextGenerator
from stacked_rnn.export.text_translator import TextTranslator

__all__ = ["TextClassifier", "TextGenerator", "TextTranslator"]
