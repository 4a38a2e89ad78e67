"""The product: a SavedModel that takes text in and gives text, or a label.

It holds core TensorFlow ops only and loads with `tf.saved_model.load` in a
process that has TensorFlow and nothing of this project.
"""

from stacked_rnn.export.classifier import TextClassifier
from stacked_rnn.export.language_model import TextGenerator
from stacked_rnn.export.seq2seq import TextRewriter
