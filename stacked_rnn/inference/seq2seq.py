"""A loaded seq2seq model, which rewrites texts."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import BeamConfig, check_names
from stacked_rnn.inference import base
from stacked_rnn.reports import plots
from stacked_rnn.utils import terminal

_BATCH_SIZE = 256  # texts per call of the model, times their beams


@dataclasses.dataclass(frozen=True)
class Output:
    """The output of a seq2seq model for one text.

    Attributes:
        text: the text that was rewritten.
        output: the best text that beam search found.
        score: its score, log p / length ** length_penalty, where length counts
            its tokens and their end.
    """

    text: str
    output: str
    score: float

    def columns(self) -> tuple[str, ...]:
        """Returns the columns of a line that predict.py prints."""
        return (self.output,)

    def to_dict(self) -> dict:
        """Returns the attributes as JSON values."""
        return dataclasses.asdict(self)


class Attention(NamedTuple):
    """Where a model looked as it wrote an output; see `SavedSeq2Seq.align`.

    A notebook shows it as a picture.
    """

    text_tokens: list[str]
    output_tokens: list[str]
    attention: np.ndarray

    def _repr_png_(self):
        return plots.attention_png(self)


@dataclasses.dataclass(frozen=True, repr=False)
class SavedSeq2Seq(base.LoadedModel):
    """A loaded seq2seq model, which rewrites texts.

    rewriter = stacked_rnn.load("saved_models/dates_to_iso")
    print(rewriter.rewrite("the 3rd of March, 2021").output)
    """

    @property
    def defaults(self) -> BeamConfig:
        """The search options that the model was exported with."""
        return self.description.entries["search"]

    def rewrite(self, texts, config=BeamConfig(), **options):
        """Rewrites texts with beam search, in batches.

        Args:
            texts: a string, a list of strings, or another iterable, which is
                read only a batch ahead of what is returned.
            config: the search options. `max_new_tokens` of 0 stands for the
                limit in `defaults`.
            **options: settings of `configs.BeamConfig` that replace those of
                `config`, such as `num_beams`.

        Returns:
            The `Output` of a string; a list of a list's; an iterator over
            those of another iterable.

        Raises:
            UserError: there is no such option, or its value is out of range.
        """
        check_names(options, BeamConfig)
        config = dataclasses.replace(config, **options)
        return base.results_for(
            texts, functools.partial(self._outputs, config=config), streams=True
        )

    def _outputs(self, texts, config):
        batch_size = max(1, _BATCH_SIZE // config.num_beams)
        max_new_tokens = config.max_new_tokens or self.defaults.max_new_tokens
        for batch in base.batched(texts, batch_size):
            found = self.functions.translate(
                tf.constant(base.encode(batch)),
                tf.constant(config.num_beams),
                tf.constant(config.length_penalty),
                tf.constant(max_new_tokens),
            )
            for text, output, score in zip(
                batch, found["outputs"].numpy(), found["scores"].numpy()
            ):
                yield Output(text, output.decode(), float(score))

    def evaluate(self, pairs, config=BeamConfig(), progress=None) -> dict:
        """Rewrites texts and compares the outputs with the targets.

        Args:
            pairs: a `datasets.TextPairs`.
            config: the search options, as of `rewrite`.
            progress: None, or a function that is called with the number of
                texts done after each text.

        Returns:
            A dict of JSON values:

            exact_match: fraction of the outputs that equal their target.
            edit_distance: see `metrics.edit_distance`.
            bleu: see `metrics.bleu`.
            examples: number of texts.
        """
        outputs = []
        for result in self.rewrite(iter(pairs.sources), config):
            outputs.append(result.output)
            if progress:
                progress(len(outputs))
        targets = list(pairs.targets)
        exact = [output == target for output, target in zip(outputs, targets)]
        return {
            "exact_match": float(np.mean(exact)),
            "edit_distance": metrics.edit_distance(outputs, targets),
            "bleu": metrics.bleu(outputs, targets),
            "examples": len(targets),
        }

    def evaluate_files(self, config, search) -> dict:
        from stacked_rnn import datasets  # imported late: rewrite needs none

        pairs = datasets.read_pairs(
            config.text, config.source_field, config.target_field, flag="text"
        )
        with terminal.progress_bar(len(pairs.sources), "text") as progress:
            return self.evaluate(pairs, search, progress)

    def align(self, text, output) -> Attention:
        """Computes the attention of the model as it writes a given output.

        Args:
            text: the source, a string.
            output: a string, such as `rewrite` found for the text.

        Returns:
            text_tokens: the tokens of the text, a list of strings; the last is
                empty and stands for its end.
            output_tokens: the tokens of the output, likewise.
            attention: float32 [output tokens, text tokens], the weight of each
                token of the text at each token of the output.
        """
        found = self.functions.align(
            tf.constant(base.encode([text])), tf.constant(base.encode([output]))
        )
        text_tokens, output_tokens = (
            [
                token.decode("utf-8", "replace")
                for token in found[name][0].numpy()
            ]
            for name in ("text_tokens", "output_tokens")
        )
        attention = found["attention"][0].numpy()
        return Attention(text_tokens, output_tokens, attention)
