"""What all loaded models share."""

import dataclasses
import pathlib

from stacked_rnn import saved_models, tokenizers


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A SavedModel of this project, loaded.

    Attributes:
        description: its metadata, a `saved_models.Description`.
        functions: what `tf.saved_model.load` returned: the methods of the
            exported object, and `signatures`.
    """

    description: saved_models.Description
    functions: object

    @property
    def path(self) -> pathlib.Path:
        """The directory of its version."""
        return self.description.path

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, for work outside the graph."""
        return self.description.tokenizer

    def evaluate_files(self, config, search) -> dict:
        """Scores the files that a person names.

        Args:
            config: an `EvaluateConfig`.
            search: a `BeamConfig`, for models that rewrite texts.

        Returns:
            Results by name, JSON values.

        Raises:
            UserError: the files cannot be read, or do not suit the model.
        """
        raise NotImplementedError


def encoded(texts) -> list[bytes]:
    """Strings as UTF-8; half a character becomes a question mark."""
    return [text.encode("utf-8", "replace") for text in texts]
