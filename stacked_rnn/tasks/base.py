"""The interface of a task, with what most tasks share."""

import dataclasses
import re
import shlex
from collections.abc import Callable
from typing import ClassVar

from stacked_rnn import configs
from stacked_rnn.utils import terminal

_LONGEST_TEXT = 60  # characters of a text in a suggested command


class Task:
    """The data, model and loss of a task, and how its model is exported.

    The sums of a batch add up over rows, shards, devices and steps. The loss is
    the first sum divided by the second.

    Args:
        data: the data of a run, as `read` loads it, with the attributes
            `training` and `validation` (batches, or None for the latter),
            `tokenizer`, `digest` and `unknown_share` (of its tokens).
        chosen: a `sizing.Choice` of settings that fit the data, or None.
        source: what the data were read from, to read them again.

    Attributes:
        name: key of the task in `configs.TASKS`.
        num_sums: number of values that `sums` returns.
        unit: name of what `count` counts.
        load_data: (train_config, vocabulary_size, tokenizer, source) -> data,
            for `read_all`.
        has_logits_at_each_token: whether the model computes logits at each
            token, which takes memory.
        shapes_vary: whether batches have different shapes.
        final_passes: how often a run reads the validation set at its end.
    """

    name: ClassVar[str]
    load_data: ClassVar[Callable]
    num_sums = 2
    unit = "tokens"
    has_logits_at_each_token = True
    shapes_vary = True
    final_passes = 1

    def __init__(self, data, chosen=None, source=None):
        self.data, self.chosen, self.source = data, chosen, source

    @property
    def info(self) -> configs.TaskInfo:
        """The description of the task in `configs.TASKS`."""
        return configs.TASKS[self.name]

    # Before a run ------------------------------------------------------------

    @classmethod
    def read(cls, start) -> "Task":
        """Reads the data of a run.

        Args:
            start: a `warm_start.WarmStart`. The task may choose settings that
                are not given.

        Raises:
            UserError: the data cannot be used.
        """
        raise NotImplementedError

    def read_all(self, train_config) -> "Task":
        """Returns the task with all data to train on, and none held out."""
        return type(self)(
            self.load_data(train_config, 0, self.data.tokenizer, self.source)
        )

    def complete(self, model_config) -> configs.ModelConfig:
        """Fills in the settings of the architecture that depend on the data.

        Raises:
            UserError: the task has no model of this architecture.
        """
        return dataclasses.replace(
            model_config, vocabulary_size=self.data.tokenizer.vocabulary_size()
        )

    def initial_weights(self, start, model_config) -> list | None:
        """Returns the weights that a run starts with; None: random ones."""
        return None

    def taken_weights(self, start, model_config) -> str:
        """Says for people which weights `initial_weights` takes."""
        return "the weights"

    def record(self) -> dict:
        """Returns JSON values that must not change when a run resumes."""
        return {}

    def warn(self) -> None:
        """Prints warnings about the data on standard error."""
        data = self.data
        if parts := getattr(data, "unknown_parts", ()):
            terminal.warn_of_unknown_parts(parts)
        else:
            terminal.warn_of_unknown_share(data.unknown_share, data.tokenizer)

    # Training ---------------------------------------------------------------

    def build(self, model_config, use_cudnn):
        """Builds a model, with `recurrent_layers` and `for_inference()`."""
        raise NotImplementedError

    def initial_states(self, model, batch_size):
        """Returns the states before a batch that continues no other one."""
        return ()

    def sums(self, model, inputs, targets, states, seed=None):
        """Computes the sums of a batch.

        Args:
            model: what `build` returned.
            inputs, targets: a batch of the data; a target of -1 is none.
            states: states before the first token.
            seed: int32 [2], not negative, the same on all devices: the seed of
                a training step. None: no training, and no dropout.

        Returns:
            The sums, float32 [num_sums], and the new states.
        """
        raise NotImplementedError

    def objective(self, sums):
        """Returns the sum that training minimizes, a scalar tensor.

        What layers add to the loss (`add_loss`, one number per row) is added
        to it, as far as the row has targets.
        """
        return sums[0]

    def count(self, sums) -> float:
        """Returns the number of units in the sums."""
        return sums[1]

    def score(self, sums, batches):
        """Returns the score of summed batches, with a method `logs(prefix)`."""
        raise NotImplementedError

    def cost(self, results) -> float:
        """Returns the value that selects the best epoch; lower is better."""
        return results["val_loss"]

    # After training ----------------------------------------------------------

    def exported(self, model):
        """Returns the module to export, with `model` and `save`."""
        raise NotImplementedError

    def callbacks(self, trainer, exported) -> list:
        """Returns Keras callbacks of the task."""
        return []

    def calibrate(self, exported) -> dict:
        """Finds what suits the validation texts best, with the best weights.

        Returns:
            Arguments for `finish`, JSON values, which the card of the exported
            model has too.
        """
        return {}

    def finish(self, exported, **found) -> None:
        """Prepares the model for its export, whatever its weights are."""

    def report(self, version, model_dir) -> None:
        """Prints and draws validation results of the exported model."""

    def next_steps(self, version) -> list[str]:
        """Returns commands to try with the exported model."""
        return []


def command(script, version, flag) -> str:
    """Returns a shell command that uses an exported model."""
    version = shlex.quote(str(version))
    return f"{terminal.script(script)} --saved_model={version} {flag}"


def commands_to_predict(version, text, file) -> list[str]:
    """Returns commands to try a model with predict.py and evaluate.py.

    Args:
        version: directory of the model.
        text: a text to predict for; the command shows its beginning.
        file: placeholder for the name of a file to score.
    """
    return [
        command("predict", version, f"--text={in_one_line(text)}"),
        command("evaluate", version, f"--text={file}"),
    ]


def in_one_line(text) -> str:
    """Quotes the beginning of a text as one argument in a shell."""
    return shlex.quote(" ".join(text.split())[:_LONGEST_TEXT])


def some_words(text) -> str:
    """Returns a few consecutive words of a text; empty if it has none."""
    three_words = r"(?<=\s)[^\W\d_]+( [^\W\d_]+){2}(?=\W)"
    found = re.search(three_words, text) or re.search(r"[^\W\d_]{2,9}", text)
    return found[0] if found else ""
