"""What training needs of a task: the interface, with what most tasks share."""

import re
import shlex
import sys
from typing import ClassVar

from stacked_rnn import configs
from stacked_rnn.utils import terminal

_LONGEST_TEXT = 60  # characters of one in a command to try


class Task:
    """A task: its data, its model, its loss, and what becomes of the model.

    The sums of a batch add up over rows, shards, devices and steps; the loss is
    the first of them divided by the second.

    Args:
        data: what `read` reads: has `training` and `validation` (batches, the
            latter or None), `tokenizer` and `digest`.

    Attributes:
        name: in `configs.TASKS`.
        num_sums: how many numbers `sums` returns.
        unit: what `count` counts.
        has_logits_at_each_token: whether the model computes logits at each
            token, which takes memory.
    """

    name: ClassVar[str]
    num_sums = 2
    unit = "tokens"
    has_logits_at_each_token = True

    def __init__(self, data):
        self.data = data

    @property
    def info(self) -> configs.TaskInfo:
        """What every module may know about the task."""
        return configs.TASKS[self.name]

    # Before a run ------------------------------------------------------------

    @classmethod
    def read(cls, start) -> "Task":
        """Reads the data of a run.

        Args:
            start: a `warm_start.WarmStart`.

        Raises:
            UserError: the data cannot be used.
        """
        raise NotImplementedError

    def complete(self, model_config) -> configs.ModelConfig:
        """The architecture with all that depends on the data.

        Raises:
            UserError: such a model cannot be built for the task.
        """
        raise NotImplementedError

    def initial_weights(self, start, model_config) -> list | None:
        """The weights that a run begins with; None: random ones."""
        return None

    def record(self) -> dict:
        """What a run of this task rests on, besides its settings: JSON."""
        return {}

    def warn(self) -> None:
        """Says on standard error what may surprise about the data."""
        data = self.data
        if parts := getattr(data, "unknown_parts", ()):
            terminal.warn_of_unknown_parts(parts)
        else:
            terminal.warn_of_unknown_share(data.unknown_share, data.tokenizer)

    # Training ---------------------------------------------------------------

    def build(self, model_config, use_cudnn):
        """Builds the model: has `recurrent_layers` and `for_inference()`."""
        raise NotImplementedError

    def initial_states(self, model, batch_size):
        """The states before a batch that continues no other one."""
        return ()

    def sums(self, model, inputs, targets, states, training=False):
        """Computes the sums of a batch.

        Args:
            model: what `build` returned.
            inputs, targets: what a batch of the data has; -1 is no target.
            states: before the first token.
            training: whether dropout is applied.

        Returns:
            float32 [num_sums], and the new states.
        """
        raise NotImplementedError

    def count(self, sums) -> float:
        """How many units the sums are of."""
        return sums[1]

    def score(self, sums, batches):
        """The results of sums over some batches: has `logs(prefix)`."""
        raise NotImplementedError

    def cost(self, results) -> float:
        """The value that selects the best epoch; lower is better."""
        return results["val_loss"]

    # After it ----------------------------------------------------------------

    def exported(self, model):
        """The module to export of a model: has `model` and `save`."""
        raise NotImplementedError

    def callbacks(self, trainer, exported) -> list:
        """Keras callbacks of the task."""
        return []

    def finish(self, exported) -> None:
        """Prepares the best model for its export."""

    def report(self, version, model_dir) -> None:
        """Prints and draws results of the exported model on the validation."""

    def next_steps(self, version) -> list[str]:
        """Commands to try with the exported model."""
        return []


def warn_of(count, what) -> None:
    """Says how many texts or pairs something was done to, if any."""
    if count:
        print(f"warning: {count:,} {what}", file=sys.stderr)


def command(script, version, flag) -> str:
    """What a shell runs to try an exported model."""
    version = shlex.quote(str(version))
    return f"{terminal.script(script)} --saved_model={version} {flag}"


def commands_to_predict(version, text, file) -> list[str]:
    """Commands to try a model that predict.py reads.

    Args:
        version: directory of the model.
        text: what to predict for; the command has its beginning.
        file: what stands for a file to score it on.
    """
    return [
        command("predict", version, f"--text={in_one_line(text)}"),
        command("evaluate", version, f"--text={file}"),
    ]


def in_one_line(text) -> str:
    """A text, or its beginning, as a word of a shell."""
    return shlex.quote(" ".join(text.split())[:_LONGEST_TEXT])


def some_words(text) -> str:
    """Words that follow each other in a text; empty where it has none."""
    for words in (r"(?<=\s)[^\W\d_]+( [^\W\d_]+){2}(?=\W)", r"[^\W\d_]{2,9}"):
        if found := re.search(words, text):
            return found[0]
    return ""
