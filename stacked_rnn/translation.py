"""A seq2seq model's SavedModel, loaded: texts out of texts.

Reads the directory alone; imports neither models nor training.
"""

import dataclasses
import importlib.util
import itertools
import pathlib

import numpy as np
import tensorflow as tf

from stacked_rnn import artifact, tokenizers
from stacked_rnn.configs import BeamConfig

_ROWS = 256  # texts of a call, times the beams of each


@dataclasses.dataclass(frozen=True)
class Translation:
    """What a model makes of a text.

    Attributes:
        text: the text.
        output: the best text made of it.
        score: of that, see `beams`.
    """

    text: str
    output: str
    score: float


@dataclasses.dataclass(frozen=True)
class SavedTranslator:
    """A SavedModel that `TextTranslator.save` wrote, loaded.

    Attributes:
        path: the directory of its version.
        tokenizer: of both sides.
        defaults: how it looks for a text unless told otherwise.
        functions: what `tf.saved_model.load` gave.
    """

    path: pathlib.Path
    tokenizer: tokenizers.Tokenizer
    defaults: BeamConfig
    functions: object

    def translate(self, texts, config=BeamConfig()):
        """Yields a `Translation` of each of any number of strings, in order."""
        texts = iter(texts)
        rows = max(1, _ROWS // config.num_beams)
        max_new_tokens = config.max_new_tokens or self.defaults.max_new_tokens
        while batch := list(itertools.islice(texts, rows)):
            found = self.functions.translate(
                tf.constant([_encoded(text) for text in batch]),
                tf.constant(config.num_beams),
                tf.constant(config.length_penalty),
                tf.constant(max_new_tokens),
            )
            for text, output, score in zip(
                batch, found["outputs"].numpy(), found["scores"].numpy()
            ):
                yield Translation(text, output.decode(), float(score))

    def evaluate(self, read, config=BeamConfig(), progress=None) -> dict:
        """Scores `datasets.TextPairs`.

        Args:
            read: texts and what should be made of each.
            config: how to look for it.
            progress: called with the number of texts done.

        Returns:
            exact_match: part of the outputs that are the target.
            edit_distance: characters to insert, delete or replace, of all
                outputs together, divided by the characters of the targets.
            bleu: of the corpus, 0 to 100, by sacrebleu; None without it.
            examples: how many there are.
        """
        outputs = []
        for one in self.translate(read.sources, config):
            outputs.append(one.output)
            if progress:
                progress(len(outputs))
        targets = list(read.targets)
        return {
            "exact_match": float(
                np.mean([one == other for one, other in zip(outputs, targets)])
            ),
            "edit_distance": edit_distance(outputs, targets),
            "bleu": bleu(outputs, targets),
            "examples": len(targets),
        }

    def align(self, text, output):
        """Where the model looks while it writes.

        Returns:
            The tokens of the text and of the output, lists of strings, the end
            an empty one; and the attention, float32 [output, text].
        """
        found = self.functions.align(
            tf.constant([_encoded(text)]), tf.constant([_encoded(output)])
        )
        text_tokens, output_tokens = (
            [
                token.decode("utf-8", "replace")
                for token in found[name][0].numpy()
            ]
            for name in ("text_tokens", "output_tokens")
        )
        return text_tokens, output_tokens, found["attention"][0].numpy()


def edit_distance(outputs, targets) -> float:
    """Levenshtein distance in characters, by those of the targets."""
    one, other = (
        tf.strings.unicode_split(tf.constant(texts), "UTF-8")
        for texts in (outputs, targets)
    )
    distances = tf.edit_distance(
        one.to_sparse(), other.to_sparse(), normalize=False
    )
    return float(tf.reduce_sum(distances)) / max(
        1, int(tf.size(other.flat_values))
    )


def bleu(outputs, targets) -> float | None:
    """Of the corpus, as sacrebleu has it; None where it is not installed."""
    if not importlib.util.find_spec("sacrebleu"):
        return None
    import sacrebleu

    return sacrebleu.corpus_bleu(outputs, [targets]).score


def _encoded(text) -> bytes:
    return text.encode("utf-8", "replace")


def load(saved_model="") -> SavedTranslator:
    """Loads a seq2seq model.

    Args:
        saved_model: see `artifact.find`.

    Raises:
        UserError: naming what is missing or damaged.
    """
    description = artifact.find_of_task(saved_model, "seq2seq")
    return SavedTranslator(
        description.path,
        description.tokenizer,
        description.beams,
        artifact.load_functions(description.path),
    )
