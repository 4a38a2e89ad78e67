"""The architecture."""

import dataclasses

from stacked_rnn.configs.base import Config, setting


@dataclasses.dataclass(frozen=True)
class ModelConfig(Config):
    """The architecture: with a tokenizer and weights, a whole model."""

    cell: str = setting(
        "gru",
        "Recurrent cell of every layer: gru is the best first choice, lstm "
        "keeps longer memories in large models, simple_rnn is the simplest.",
        choices=("gru", "lstm", "simple_rnn"),
    )
    num_layers: int = setting(
        2, "Recurrent layers on top of each other.", minimum=1, maximum=8
    )
    decoder_layers: int = setting(
        0,
        "Of a seq2seq model, recurrent layers of the decoder; num_layers are "
        "those of the encoder (0: as many).",
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
        "Standard deviation of the initial embedding. Wide embeddings tell the "
        "gates apart from the first step and learn fast; take about 0.1 with "
        "tie_embeddings, or to overfit a tiny text less. A classifier by "
        "characters wants 1.",
        minimum=0.0,
    )
    vocabulary_size: int = setting(
        0,
        "Most tokens that a vocabulary may hold: of words, the unknown token "
        "included (0: 10,000), or of subwords, from 256 on (0: 1,024). "
        "Characters and bytes take what they need.",
        minimum=0,
    )
    end_of_text: bool = setting(
        False,
        "The last token of the vocabulary ends a document, and the state "
        "starts anew with it: what --document_separator asks for.",
        is_internal=True,
    )
    bidirectional: bool = setting(
        False,
        "Read the input in both directions, with as many units each: only "
        "where all of it is at hand, so never in a language model.",
    )
    residual: bool = setting(
        False,
        "Add the input of every recurrent layer to its output: helps stacks of "
        "three layers and more.",
    )
    tie_embeddings: bool = setting(
        False,
        "Use the embedding, transposed, as the readout: fewer weights, worth "
        "having for large vocabularies.",
    )
    dropout: float = setting(
        0.0,
        "Fraction of activations dropped between layers while training. Raise "
        "it when the validation loss rises while the training loss falls.",
        minimum=0.0,
        below=1.0,
    )
    recurrent_dropout: float = setting(
        0.0,
        "Fraction of a layer's own state dropped while training, the same "
        "units at every time step.",
        minimum=0.0,
        below=1.0,
    )
    pooling: str = setting(
        "last",
        "Of a classifier, what the readout sees of the top layer: its last "
        "state, the mean or the maximum over time, or mean_max, both.",
        choices=("last", "mean", "max", "mean_max"),
    )
    embedding_dropout: float = setting(
        0.0,
        "Of a classifier, the fraction of the embedding's units dropped while "
        "training, the same ones in a whole text. A high one keeps it from "
        "learning a few labelled texts by heart.",
        minimum=0.0,
        below=1.0,
    )
