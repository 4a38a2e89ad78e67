"""The base class of the loaded models."""

import dataclasses
import itertools
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stacked_rnn import hub, saved_models, tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.utils import files


@dataclasses.dataclass(frozen=True, repr=False)
class LoadedModel:
    """An exported model in memory; `inference.load` makes it.

    Attributes:
        description: its metadata, a `saved_models.Description`.
        functions: the object that `tf.saved_model.load` returned, with the
            functions of the exported model and its `signatures`.
    """

    description: saved_models.Description
    functions: Any  # TensorFlow makes its class

    def __repr__(self):
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> pathlib.Path:
        """The directory of the model's version."""
        return self.description.path

    @property
    def name(self) -> str:
        """The model's name, see `saved_models.model_name`."""
        return saved_models.model_name(self.path)

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer, for use outside its graph."""
        return self.description.tokenizer

    def summary(self) -> str:
        """Describes the model: architecture, training, quality."""
        return "\n".join([*self.description.sentences(), str(self.path)])

    def save(self, path) -> pathlib.Path:
        """Copies the SavedModel, whole or not at all.

        Args:
            path: a directory, of which the copy becomes the next version, or
                the name of an archive that ends in .zip.

        Returns:
            The directory of the version, or the archive; `load` takes both.

        Raises:
            UserError: it cannot be written.
        """
        if not os.fspath(path):
            raise UserError("save: the path is empty")
        if hub.is_name(path):
            raise UserError(f"save: {path} is no directory: push uploads there")
        path = pathlib.Path(path)
        try:
            if path.suffix.lower() == saved_models.ARCHIVE:
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.whole_file(path) as file:
                    _write_archive(self.path, file)
                return path
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(".partial", "save-", path) as part:
                copy = shutil.copytree(self.path, pathlib.Path(part, "copy"))
                return saved_models.take_next_number(copy, path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write there: {error.strerror or error}"
            ) from error

    def push(self, name) -> str:
        """Uploads the SavedModel to the Hugging Face Hub.

        Args:
            name: "hf://USER/NAME", which `load` takes. The repository is made
                if it does not exist.

        Returns:
            The address of the repository.

        Raises:
            UserError: the package huggingface_hub is missing, or the Hub
                refuses.
        """
        return hub.upload(self.path, name)

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


def _write_archive(directory, file):
    """Writes the files of a directory as a zip archive, without its name."""
    with zipfile.ZipFile(
        file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False
    ) as archive:  # which takes files of before 1980, too
        for path in sorted(directory.rglob("*")):
            archive.write(path, path.relative_to(directory))


def batched(items, size):
    """Yields lists of `size` items, the last one perhaps shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def results_for(texts, compute, streams=False):
    """Applies a function of texts to one text, a list, or a stream of them.

    Args:
        texts: a string, or an iterable of strings.
        compute: takes an iterable of strings, and yields a result for each.
        streams: whether the results of an iterable that is no list or tuple
            are an iterator, which reads only what it needs.

    Returns:
        For a string its result; for others a list of results, or an iterator.

    Raises:
        UserError: it is neither a string nor an iterable of strings.
    """
    if isinstance(texts, str):
        (result,) = compute([checked_text(texts)])
        return result
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"{texts!r:.60}: expected a string or a list of them")
    results = compute(map(checked_text, texts))
    if streams and not isinstance(texts, Sequence):
        return results
    return list(results)


def checked_text(text) -> str:
    """Returns a text; lone surrogates become question marks.

    Raises:
        UserError: it is no string.
    """
    if not isinstance(text, str):
        raise UserError(f"{text!r:.60}: expected a string")
    return text.encode("utf-8", "replace").decode()


def encode(texts) -> list[bytes]:
    """Encodes strings as UTF-8; lone surrogates become question marks."""
    return [text.encode("utf-8", "replace") for text in texts]
