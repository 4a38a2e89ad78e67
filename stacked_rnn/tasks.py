"""What train.py does otherwise for each task: data, product, last words."""

import dataclasses
import random
import re
import shlex
import sys

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import (
    datasets,
    export,
    inference,
    metrics,
    models,
    training,
)
from stacked_rnn.configs import unescaped
from stacked_rnn.reports import plots
from stacked_rnn.utils import terminal

_SCORED = 1000  # pairs of the validation that are reported on
_DRAWN = 3  # of these
_LONGEST_TEXT = 60  # characters of one in a command to try


class LanguageModelTask:
    """A model that continues a text.

    Args:
        start: a `warm_start.Start`.
    """

    def __init__(self, start):
        self.data = datasets.load_language_data(
            start.train_config,
            start.model_config.vocabulary_size,
            start.tokenizer,
        )
        self.model_config = dataclasses.replace(
            start.model_config,
            vocabulary_size=self.data.tokenizer.vocabulary_size(),
            end_of_text=self.data.tokenizer.end_id is not None,
        )
        models.check_language_model(self.model_config)
        self.initial_weights = start.weights

    def warn(self) -> None:
        """Says what may surprise about the data."""
        data = self.data
        _warn_of_unknown(data)
        if not data.has_separator:
            separator = unescaped(data.tokenizer.document_separator)
            print(
                f"warning: --document_separator={separator!r} is nowhere in "
                "the text, which is one document: no generated text will end",
                file=sys.stderr,
            )
        for note in data.notes:
            print(note, file=sys.stderr)

    def product(self, model):
        """What is exported of a model."""
        return export.TextGenerator(model, self.data.tokenizer)

    def callbacks(self, trainer, product) -> list:
        """A short text of the model after each epoch."""

        def sample(epoch):
            product.model.set_weights(trainer.model.get_weights())
            return product.sample(100, seed=epoch)

        return [training.SampleTexts(trainer, sample)]

    def finish(self, product) -> None:
        """Nothing: the best model is exported as it is."""

    def report(self, version, model_dir) -> None:
        """Nothing: the curves say all."""

    def next_steps(self, version) -> list[str]:
        """Commands to try."""
        start = "--num_samples=3"
        if self.data.tokenizer.end_id is None:  # else each begins a document
            windows = self.data.validation or self.data.training
            token_ids = np.asarray(windows.token_ids[:1000], np.int32)
            (text,) = self.data.tokenizer.detokenize(
                tf.RaggedTensor.from_tensor(token_ids[None])
            )
            words = _some_words(text.numpy().decode("utf-8", "replace"))
            start = f"--prompt={shlex.quote(words)}" if words else start
        return [
            _command("generate", version, start),
            _command("evaluate", version, "--text=FILE"),
        ]


class ClassifierTask:
    """A model that tells of which class a text is.

    Args:
        start: a `warm_start.Start`.
    """

    def __init__(self, start):
        self._max_tokens = start.train_config.sequence_length
        self.data = datasets.load_classification_data(
            start.train_config,
            start.model_config.vocabulary_size,
            start.tokenizer,
        )
        self.model_config = dataclasses.replace(
            start.model_config,
            vocabulary_size=self.data.tokenizer.vocabulary_size(),
        )
        description = (
            self.model_config, len(self.data.labels), self.data.several_labels
        )  # fmt: skip
        models.check_classifier(*description)
        self.initial_weights = None
        if start.model:
            keras.utils.set_random_seed(start.train_config.seed)
            model = models.build_classifier(*description)
            model.take_over(start.model)
            self.initial_weights = model.get_weights()

    def warn(self) -> None:
        """Says what may surprise about the data."""
        data = self.data
        _warn_of_unknown(data)
        for count, what in (
            (data.num_empty, "empty: left out"),
            (
                data.num_truncated,
                f"of more than --sequence_length={self._max_tokens} tokens: "
                "the rest is not read",
            ),
        ):
            if count:
                print(f"warning: {count:,} text(s) {what}", file=sys.stderr)

    def product(self, model):
        """What is exported of a model."""
        return export.TextClassifier(
            model, self.data.tokenizer, self.data.labels, self._max_tokens
        )

    def callbacks(self, trainer, product) -> list:
        """None: the curves say all."""
        return []

    def finish(self, product) -> None:
        """Has the best model say how sure it may be, by the validation."""
        texts = self.data.validation_texts
        if texts is None:
            return
        product.model.cool(
            metrics.best_temperature(
                inference.classifier.scores_of(
                    product.serving_default, texts.texts
                ),
                inference.classifier.targets_of(texts, self.data.labels),
                self.data.several_labels,
            )
        )

    def report(self, version, model_dir) -> None:
        """Prints and draws what the exported model says of the validation."""
        texts = self.data.validation_texts
        if texts is None:
            return
        result = inference.load(version).evaluate(texts)
        print(
            "\nOn the validation: "
            + ", ".join(
                f"{name.replace('_', ' ')} {result[name]:.3f}"
                for name in ("accuracy", "macro_f1", "auc", "calibration_error")
                if result[name] is not None
            )
        )
        if "confusion" in result:
            print(
                metrics.format_confusion(result["confusion"], self.data.labels)
            )
        picture = model_dir / "classification.png"
        if plots.draw_classification(result, self.data.labels, picture):
            print(f"Drawn: {picture}")

    def next_steps(self, version) -> list[str]:
        """Commands to try."""
        texts = self.data.validation_texts
        text = texts.texts[0] if texts else "..."
        return _commands_to_predict(version, text, "LABELLED_FILE")


class Seq2SeqTask:
    """A model that makes a text of another.

    Args:
        start: a `warm_start.Start`.
    """

    initial_weights = None

    def __init__(self, start):
        self._config = start.train_config
        self.data = datasets.load_pair_data(
            start.train_config, start.model_config.vocabulary_size
        )
        self.model_config = dataclasses.replace(
            start.model_config,
            vocabulary_size=self.data.tokenizer.vocabulary_size(),
        )

    def warn(self) -> None:
        """Says what may surprise about the data."""
        _warn_of_unknown(self.data)
        for count, what in (
            (self.data.num_empty, "have an empty text"),
            (
                self.data.num_too_long,
                "have a text of more than --sequence_length="
                f"{self._config.sequence_length} tokens",
            ),
        ):
            if count:
                print(
                    f"warning: {count:,} pair(s) {what}: left out",
                    file=sys.stderr,
                )

    def product(self, model):
        """What is exported of a model."""
        return export.TextTranslator(
            model, self.data.tokenizer, 2 * self.data.longest_target
        )

    def callbacks(self, trainer, product) -> list:
        """What the model makes of a text, after each epoch."""
        pairs = self.data.validation_texts
        if pairs is None:
            return []

        def sample(epoch):
            product.model.set_weights(trainer.model.get_weights())
            text = random.Random(epoch).choice(pairs.sources)
            outputs = product.serving_default(tf.constant([text]))["outputs"]
            return f"{text} -> {outputs[0].numpy().decode()}"

        return [training.SampleTexts(trainer, sample)]

    def finish(self, product) -> None:
        """Nothing: the best model is exported as it is."""

    def report(self, version, model_dir) -> None:
        """Prints and draws what the exported model makes of the validation."""
        pairs = self.data.validation_texts
        if pairs is None:
            return
        model = inference.load(version)
        shown = pairs.sample(_SCORED)
        with terminal.progress_bar(len(shown.sources), "text") as progress:
            result = model.evaluate(shown, progress=progress)
        print(
            f"\nOn {result['examples']:,} texts of the validation: "
            f"{result['exact_match']:.1%} exact, "
            f"{result['edit_distance']:.4f} edits a character"
        )
        picture = model_dir / "attention.png"
        maps = [
            model.align(one.text, one.output)
            for one in model.rewrite(pairs.sample(_DRAWN).sources)
        ]
        if plots.draw_attention(maps, picture):
            print(f"Drawn: {picture}")

    def next_steps(self, version) -> list[str]:
        """Commands to try."""
        pairs = self.data.validation_texts
        text = pairs.sources[0] if pairs else "..."
        return _commands_to_predict(version, text, "PAIRS.tsv")


def _command(script, version, flag) -> str:
    """What a shell runs to try an exported model."""
    version = shlex.quote(str(version))
    return f"{terminal.script(script)} --saved_model={version} {flag}"


def _commands_to_predict(version, text, file) -> list[str]:
    """Commands to try a model that predict.py reads.

    Args:
        version: directory of the model.
        text: what to predict for, of which the beginning is shown.
        file: what stands for a file to score it on.
    """
    return [
        _command("predict", version, f"--text={_in_one_line(text)}"),
        _command("evaluate", version, f"--text={file}"),
    ]


def _in_one_line(text) -> str:
    """A text, or its beginning, as a word of a shell."""
    return shlex.quote(" ".join(text.split())[:_LONGEST_TEXT])


def _some_words(text) -> str:
    """Words that follow each other in a text; empty where it has none."""
    for words in (r"(?<=\s)[^\W\d_]+( [^\W\d_]+){2}(?=\W)", r"[^\W\d_]{2,9}"):
        if found := re.search(words, text):
            return found[0]
    return ""


def _warn_of_unknown(data):
    """Names what a given vocabulary lacks, or says how much a new one does."""
    if parts := getattr(data, "unknown_parts", ()):
        terminal.warn_of_unknown_parts(parts)
    else:
        terminal.warn_of_unknown_share(data.unknown_share, data.tokenizer)


TASKS = {
    "language_model": LanguageModelTask,
    "classifier": ClassifierTask,
    "seq2seq": Seq2SeqTask,
}
