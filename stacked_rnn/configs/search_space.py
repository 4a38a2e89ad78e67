"""The values that `tune.py --search` tries, read from its text."""

import dataclasses
import math

from stacked_rnn.configs.base import UserError, checked
from stacked_rnn.configs.model import ModelConfig
from stacked_rnn.configs.training import TrainConfig

# Settings that are the same in all trials: the text and what is held out of it,
# or the scores could not be compared; and where and how a run trains, which has
# no effect on its score.
_SAME_IN_ALL_TRIALS = frozenset(
    (
        "task", "corpus", "text_field", "label_field", "label_separator",
        "source_field", "target_field", "skip_bad_files", "cache_dir",
        "document_separator", "letters_only", "train_windows",
        "validation_windows", "validation_fraction", "validation", "seed",
        "max_minutes", "deterministic", "strategy", "wait_minutes",
        "jit_compile", "init_from", "model_dir", "export_dir",
        "checkpoint_minutes", "resume", "learn_all", "widen_vocabulary",
        "chat_template", "trackers",
    )
)  # fmt: skip
_FIELDS = {
    field.name: field
    for config_class in (ModelConfig, TrainConfig)
    for field in dataclasses.fields(config_class)
    if not field.metadata["is_internal"]
}
SEARCHABLE = frozenset(_FIELDS) - _SAME_IN_ALL_TRIALS
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The values of one setting: a list of them, or a range of numbers.

    Attributes:
        name: name of the setting.
        kind: its type: int, float, bool or str.
        choices: the values; empty: those of the range.
        low, high: the ends of the range, which belong to it.
        step: distance between neighbours from `low` on, with `is_log` their
            quotient; None: any number.
        is_log: whether the logarithm is drawn uniformly, not the number.
    """

    name: str
    kind: type
    choices: tuple = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    is_log: bool = False

    @property
    def middle(self):
        """The value in the middle of the list, once sorted, or of the range."""
        if self.choices:
            return sorted(self.choices)[len(self.choices) // 2]
        if self.is_log:
            return self.rounded(math.sqrt(self.low * self.high))
        return self.rounded((self.low + self.high) / 2)

    def rounded(self, value):
        """Returns a value with the type of the setting, a float of 3 digits."""
        if self.kind is not float or self.choices:
            return self.kind(value)
        return min(max(float(f"{value:.3g}"), self.low), self.high)


def parse(text) -> tuple[Dimension, ...]:
    """Reads a space such as `units=64,128 learning_rate=log:0.001..0.01`.

    Args:
        text: settings with their values, separated by white space. Values are
            a list (`64,128,256`), a range (`0..0.5`), a range in steps
            (`64..256..64`), or one of these ranges on a logarithmic scale
            (`log:0.001..0.01`; the step is then a factor).

    Raises:
        UserError: naming the setting and the fix.
    """
    dimensions: dict[str, Dimension] = {}
    for item in text.split():
        name, equals, values = item.partition("=")
        if name not in _FIELDS:
            raise UserError(f"--search: {name}: train.py has no such setting")
        if name in _SAME_IN_ALL_TRIALS:
            raise UserError(
                f"--search: {name} is the same in all trials: leave it out of "
                "the search"
            )
        if name in dimensions:
            raise UserError(f"--search: {name} stands there twice: join them")
        if not (equals and values):
            raise UserError(
                f"--search: {name} has no values: write them as in "
                "units=64,128, dropout=0..0.5 or learning_rate=log:0.001..0.01"
            )
        dimensions[name] = _parse_values(name, values)
    return tuple(dimensions.values())


def _parse_values(name, text) -> Dimension:
    kind = _FIELDS[name].type
    if ".." not in text:
        choices = tuple(_parse_value(name, word) for word in text.split(","))
        if len(set(choices)) < len(choices):
            raise UserError(f"--search: {name}={text} has a value twice")
        if len(choices) == 1:
            raise UserError(
                f"--search: {name}={text} is a single value: give it as "
                f"--{name}={text}, or list several"
            )
        return Dimension(name, kind, choices)
    if kind not in (int, float):
        raise UserError(
            f"--search: {name}={text}: only numbers have a range: list the "
            "values, separated by commas"
        )
    is_log = text.startswith("log:")
    low, high, *steps = text.removeprefix("log:").split("..")
    step = None
    if steps:
        step = _parse_number(name, kind, "..".join(steps))
    dimension = Dimension(
        name,
        kind,
        low=_parse_value(name, low),
        high=_parse_value(name, high),
        step=step,
        is_log=is_log,
    )
    problem = None
    if dimension.low >= dimension.high:
        problem = "the range is empty: write the smaller number first"
    elif is_log and dimension.low <= 0:
        problem = "a range with log: begins above 0"
    elif step is not None and step <= (1 if is_log else 0):
        problem = f"the step must be above {1 if is_log else 0}"
    if problem:
        raise UserError(f"--search: {name}={text}: {problem}")
    return dimension


def _parse_value(name, word):
    """Returns a value of a setting, which the setting's own check accepts."""
    field = _FIELDS[name]
    value = word if field.type is str else _parse_number(name, field.type, word)
    try:
        return checked(field, value)
    except UserError as error:
        message = str(error).removeprefix("--")
        raise UserError(f"--search: {message}") from error


def _parse_number(name, kind, word):
    try:
        if kind is bool:
            return {"true": True, "false": False}[word]
        return kind(word)
    except (ValueError, KeyError):
        raise UserError(
            f"--search: {name}: {word!r} is not {_KINDS[kind]}"
        ) from None
