"""What train.py does otherwise for each task: data, product, last words."""

import dataclasses
import sys

import keras

from stacked_rnn import (
    classification,
    command_line,
    datasets,
    export,
    models,
    prediction,
    training,
)


class LanguageModelTask:
    """A model that continues a text.

    Args:
        start: a `finetuning.Start`.
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
        command_line.warn_of_unknown_parts(self.data.unknown_parts)

    def product(self, model):
        """What is exported of a model."""
        return export.TextGenerator(model, self.data.tokenizer)

    def callbacks(self, trainer, product) -> list:
        """A short text of the model after each epoch."""

        def sample(epoch):
            product.model.set_weights(trainer.model.get_weights())
            return product.sample(100, seed=epoch)

        settings = trainer.model.config.to_dict() | trainer.config.to_dict()
        directory = trainer.model_dir / "tensorboard" / "train"
        return [training.SampleTexts(directory, settings, sample)]

    def report(self, version, model_dir) -> None:
        """Nothing: the curves say all."""

    def next_steps(self, version) -> str:
        """Commands to try."""
        return (
            f'  python generate.py --saved_model={version} --prompt="The "\n'
            f"  python evaluate.py --saved_model={version} --text=FILE"
        )


class ClassifierTask:
    """A model that tells of which class a text is.

    Args:
        start: a `finetuning.Start`.
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
        command_line.warn_of_unknown_parts(data.unknown_parts)
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

    def report(self, version, model_dir) -> None:
        """Prints and draws what the exported model says of the validation."""
        texts = self.data.validation_texts
        if texts is None:
            return
        result = prediction.load(version).evaluate(texts)
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
                classification.format_confusion(
                    result["confusion"], self.data.labels
                )
            )
        picture = model_dir / "classification.png"
        if training.draw_classification(result, self.data.labels, picture):
            print(f"Drawn: {picture}")

    def next_steps(self, version) -> str:
        """Commands to try."""
        return (
            f'  python predict.py --saved_model={version} --text="..."\n'
            f"  python evaluate.py --saved_model={version} --text=LABELLED_FILE"
        )


TASKS = {"language_model": LanguageModelTask, "classifier": ClassifierTask}
