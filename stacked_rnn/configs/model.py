"""Settings of the architecture."""

import dataclasses

from stacked_rnn.configs.base import Config, setting


@dataclasses.dataclass(frozen=True)
class ModelConfig(Config):
    """Architecture of the model.

    With a tokenizer and weights, it is a complete model.
    """

    cell: str = setting(
        "gru",
        "Recurrent cell of every layer: gru is the best first choice, lstm "
        "keeps longer memories in large models, simple_rnn is the simplest.",
        choices=("gru", "lstm", "simple_rnn"),
    )
    num_layers: int = setting(
        2, "Number of stacked recurrent layers.", minimum=1, maximum=8
    )
    decoder_layers: int = setting(
        0,
        "Seq2seq only: number of recurrent layers of the decoder; num_layers "
        "is that of the encoder (0: as many as the encoder).",
        minimum=0,
        maximum=8,
    )
    units: int = setting(
        192, "Width of every recurrent layer.", minimum=1, maximum=2048
    )
    embedding_dim: int = setting(
        64, "Width of the token embedding.", minimum=1, maximum=2048
    )
    embedding_stddev: float = setting(
        1.0,
        "Standard deviation of the initial embedding. With a large one, the "
        "gates differ between tokens from the first step, and training is "
        "fast; use about 0.1 with tie_embeddings, or to overfit a tiny text "
        "less. A classifier that reads characters needs 1.",
        minimum=0.0,
    )
    vocabulary_size: int = setting(
        0,
        "Maximum size of a vocabulary of words, including the unknown token "
        "(0: 10,000), or of subwords, at least 256 (0: 1,024). Characters and "
        "bytes take as many entries as they need.",
        minimum=0,
    )
    end_of_text: bool = setting(
        False,
        "Whether the last token of the vocabulary ends a document and resets "
        "the state. Set by --document_separator; do not set it yourself.",
        is_internal=True,
    )
    bidirectional: bool = setting(
        False,
        "Read the input in both directions, with --units in each. Not for "
        "language models, which must not see the tokens to come.",
    )
    residual: bool = setting(
        False,
        "Add the input of every recurrent layer to its output: helps stacks of "
        "three or more layers.",
    )
    tie_embeddings: bool = setting(
        False,
        "Use the transposed embedding as the readout: fewer weights, useful "
        "for large vocabularies.",
    )
    dropout: float = setting(
        0.0,
        "Fraction of activations dropped between layers in training. Raise it "
        "when the validation loss rises while the training loss falls.",
        minimum=0.0,
        below=1.0,
    )
    recurrent_dropout: float = setting(
        0.0,
        "Fraction of a layer's own state dropped in training, the same units "
        "at every time step.",
        minimum=0.0,
        below=1.0,
    )
    pooling: str = setting(
        "last",
        "Classifiers only: what the readout sees of the top layer: its last "
        "state, the mean or the maximum over time, or both (mean_max).",
        choices=("last", "mean", "max", "mean_max"),
    )
    embedding_dropout: float = setting(
        0.0,
        "Classifiers only: fraction of the embedding's units dropped in "
        "training, the same ones throughout a text. A high value keeps the "
        "model from learning a few labelled texts by heart.",
        minimum=0.0,
        below=1.0,
    )
