"""Settings of the architecture."""

import dataclasses

from stacked_rnn.configs.base import Config, UserError, setting


def _dropout(help):
    return setting(0.0, help, minimum=0.0, below=1.0, is_regularizer=True)


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
    cap_input_gate: bool = setting(
        False,
        "Keep the input gate of an LSTM at or below 1 - forget gate, so that "
        "its state stays small: steadier training.",
    )
    readout_layers: str = setting(
        "top",
        "What the readout sees: the top layer alone, or the outputs of all "
        "layers, their sum or side by side (concat). The latter two train "
        "faster, and help stacks of three or more layers. Language models "
        "only.",
        choices=("top", "sum", "concat"),
    )
    embedding_to_all_layers: bool = setting(
        False,
        "Let every layer see the token embedding, besides the layer below. "
        "Language models only.",
    )
    dropout: float = _dropout(
        "Fraction of activations dropped between layers in training. Raise it "
        "when the validation loss rises while the training loss falls."
    )
    recurrent_dropout: float = _dropout(
        "Fraction of a layer's own state dropped in training, the same units "
        "at every time step."
    )
    weight_dropout: float = _dropout(
        "Fraction of the recurrent weights dropped in training, others in each "
        "step (DropConnect): the best cure for wide layers that overfit."
    )
    embedding_dropout: float = _dropout(
        "Fraction of the embedding's units dropped in training, the same ones "
        "throughout a text or window. A high value keeps a classifier from "
        "learning a few labelled texts by heart. Not for seq2seq."
    )
    token_dropout: float = _dropout(
        "Language models only: fraction of the vocabulary dropped in training: "
        "all occurrences of a token in a batch."
    )
    output_dropout: float = _dropout(
        "Language models only: fraction of what the readout sees that is "
        "dropped in training."
    )
    locked_dropout: bool = setting(
        False,
        "Drop the same units throughout a text or window (variational "
        "dropout), instead of others at each time step.",
        is_regularizer=True,
    )
    label_smoothing: float = setting(
        0.0,
        "Language models only: share of the probability that the loss wants to "
        "see spread over the whole vocabulary. The loss that is shown leaves "
        "it out.",
        minimum=0.0,
        below=1.0,
        is_regularizer=True,
    )
    sampled_words: int = setting(
        0,
        "Language models only: train with a sampled softmax, over the target "
        "and N tokens that are drawn anew for each step (repeats count once), "
        "frequent ones more often: much faster with 10,000 words or more, such "
        "as 1,024 of 30,000. The loss of training is then an estimate; "
        "validation and the exported model have the full softmax (0, or as "
        "many as the vocabulary has: all tokens).",
        minimum=0,
        is_regularizer=True,
    )
    activation_penalty: float = setting(
        0.0,
        "Language models only: factor of the squares of what the readout sees, "
        "after output_dropout, in the loss (AR).",
        minimum=0.0,
        is_regularizer=True,
    )
    temporal_penalty: float = setting(
        0.0,
        "Language models only: factor of the squared changes of the top layer "
        "from one time step to the next in the loss (TAR).",
        minimum=0.0,
        is_regularizer=True,
    )
    pooling: str = setting(
        "last",
        "Classifiers only: what the readout sees of the top layer: its last "
        "state, the mean or the maximum over time, or both (mean_max).",
        choices=("last", "mean", "max", "mean_max"),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sampled_words and self.label_smoothing:
            raise UserError(
                "--label_smoothing is over the whole vocabulary, of which "
                f"--sampled_words={self.sampled_words} sees a part: leave one "
                "of the two out"
            )

    def without_regularizers(self) -> "ModelConfig":
        """Returns the architecture that these weights have after training."""
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(self)
            if field.name in REGULARIZERS
        }
        return dataclasses.replace(self, **defaults)


REGULARIZERS = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.metadata["is_regularizer"]
)
