"""The base class of the loaded models."""

import dataclasses
import pathlib
from typing import Any

from stacked_rnn import saved_models, tokenizers


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """An exported model in memory; `inference.load` makes it.

    Attributes:
        description: its metadata, a `saved_models.Description`.
        functions: the object that `tf.saved_model.load` returned, with the
            functions of the exported model and its `signatures`.
    """

    description: saved_models.Description
    functions: Any  # TensorFlow makes its class

    @property
    def path(self) -> pathlib.Path:
        """The directory of the model's version."""
        return self.description.path

    @property
    def name(self) -> str:
        """The model's name: that of the directory of its versions."""
        version = self.path.resolve()
        return (version.parent if version.name.isdigit() else version).name

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer, for use outside its graph."""
        return self.description.tokenizer

    def evaluate_files(self, config, search) -> dict:
        """Evaluates the model on files, as evaluate.py does.

        Args:
            config: an `EvaluateConfig`, which names the files.
            search: a `BeamConfig`; only models that rewrite texts use it.

        Returns:
            Metrics by name, JSON values.

        Raises:
            UserError: the files cannot be read, or do not suit the model.
        """
        raise NotImplementedError


def encode(texts) -> list[bytes]:
    """Encodes strings as UTF-8; lone surrogates become question marks."""
    return [text.encode("utf-8", "replace") for text in texts]
