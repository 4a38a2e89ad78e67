"""A seq2seq model, loaded: rewrites texts."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import BeamConfig
from stacked_rnn.inference import base
from stacked_rnn.utils import terminal

_ROWS = 256  # texts of a call, times the beams of each


@dataclasses.dataclass(frozen=True)
class Output:
    """A text, rewritten.

    Attributes:
        text: the text.
        output: the best text that the search found.
        score: its score, see `beam_search`.
    """

    text: str
    output: str
    score: float

    def columns(self) -> tuple[str, ...]:
        """What a line of predict.py has."""
        return (self.output,)

    def to_dict(self) -> dict:
        """The same and more, as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SavedSeq2Seq(base.LoadedModel):
    """A seq2seq model, loaded: rewrites texts."""

    @property
    def defaults(self) -> BeamConfig:
        """The search options that it was exported with."""
        return BeamConfig.from_dict(self.description.entries["search"])

    def rewrite(self, texts, config=BeamConfig()):
        """Yields an `Output` for each of any number of strings, in order."""
        texts = iter(texts)
        rows = max(1, _ROWS // config.num_beams)
        max_new_tokens = config.max_new_tokens or self.defaults.max_new_tokens
        while batch := list(itertools.islice(texts, rows)):
            found = self.functions.translate(
                tf.constant(base.encoded(batch)),
                tf.constant(config.num_beams),
                tf.constant(config.length_penalty),
                tf.constant(max_new_tokens),
            )
            for text, output, score in zip(
                batch, found["outputs"].numpy(), found["scores"].numpy()
            ):
                yield Output(text, output.decode(), float(score))

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
        for one in self.rewrite(read.sources, config):
            outputs.append(one.output)
            if progress:
                progress(len(outputs))
        targets = list(read.targets)
        return {
            "exact_match": float(
                np.mean([one == other for one, other in zip(outputs, targets)])
            ),
            "edit_distance": metrics.edit_distance(outputs, targets),
            "bleu": metrics.bleu(outputs, targets),
            "examples": len(targets),
        }

    def evaluate_files(self, config, search) -> dict:
        from stacked_rnn import datasets  # which `rewrite` does without

        pairs = datasets.read_pairs(
            config.text, config.source_field, config.target_field, flag="text"
        )
        with terminal.progress_bar(len(pairs.sources), "text") as progress:
            return self.evaluate(pairs, search, progress)

    def align(self, text, output):
        """Where the model looks while it writes.

        Returns:
            The tokens of the text and of the output, lists of strings, the end
            an empty one; and the attention, float32 [output, text].
        """
        found = self.functions.align(
            tf.constant(base.encoded([text])),
            tf.constant(base.encoded([output])),
        )
        text_tokens, output_tokens = (
            [
                token.decode("utf-8", "replace")
                for token in found[name][0].numpy()
            ]
            for name in ("text_tokens", "output_tokens")
        )
        return text_tokens, output_tokens, found["attention"][0].numpy()
