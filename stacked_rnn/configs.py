"""The one list of knobs: frozen dataclasses, and the flags made from them.

Every setting is a field that carries its default, its help and its check. The
command line flags are generated from the fields, so that help, checks and
defaults are written once. Imports no TensorFlow: `--help` and a mistyped flag
answer at once.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import sys
import tempfile

from absl import app, flags, logging


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend.

    The message is one line: it names the flag or the file, and the fix. The
    commands print it without a traceback and exit with code 2.
    """


def setting(
    default,
    help,
    *,
    choices=None,
    minimum=-math.inf,
    maximum=math.inf,
    below=math.inf,
):
    """A dataclass field with its help and its check.

    Args:
        default: the value when nothing is said. Its field's annotation (`int`,
            `float`, `bool`, `str`, `tuple[str, ...]`) gives the flag's type.
        help: what the setting does, in words for `--help`.
        choices: the allowed strings; None: any.
        minimum, maximum: the range of a number, ends included.
        below: a number must be less than this.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "below": below,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of the configurations: checks on creation, JSON out and in."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    def to_dict(self) -> dict:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict):
        """The inverse of `to_dict`, also after a trip through JSON."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(
                f"{cls.__name__} has no setting named {', '.join(unknown)}: "
                "it was written by another version of stacked_rnn"
            )
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )

    def differences(self, other) -> list[str]:
        """The fields that differ, each as `name: this, not that`."""
        return [
            f"{field.name}: {getattr(other, field.name)}, "
            f"not {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def _check(field, value) -> None:
    rules = field.metadata
    if field.type in (int, float):
        kinds = (int, float) if field.type is float else (int,)
        low, high, below = rules["minimum"], rules["maximum"], rules["below"]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UserError(
                f"--{field.name}={value!r}: expected a {field.type.__name__}"
            )
        if not (low <= value <= high and value < below):  # catches NaN too
            upper = f"< {below}" if below < math.inf else f"<= {high}"
            raise UserError(
                f"--{field.name}={value}: expected {low} <= {field.name} "
                + (upper if below < math.inf or high < math.inf else "")
            )
    elif rules["choices"] and value not in rules["choices"]:
        raise UserError(
            f"--{field.name}={value!r}: expected one of "
            + ", ".join(rules["choices"])
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Config):
    """The architecture: with a tokenizer and weights, a whole model."""

    cell: str = setting(
        "gru",
        "Recurrent cell of every layer: gru is the best first choice, lstm "
        "keeps longer memories in large models, simple_rnn is the simplest.",
        choices=("gru", "lstm", "simple_rnn"),
    )
    num_layers: int = setting(
        2, "Recurrent layers on top of each other.", minimum=1, maximum=8
    )
    units: int = setting(
        192, "Width of every recurrent layer.", minimum=1, maximum=2048
    )
    embedding_dim: int = setting(
        64, "Width of the token embedding.", minimum=1, maximum=2048
    )
    embedding_stddev: float = setting(
        1.0,
        "Standard deviation of the initial embedding. Wide embeddings tell the "
        "gates apart from the first step and learn fast; take about 0.1 with "
        "tie_embeddings, or to overfit a tiny text less.",
        minimum=0.0,
    )
    vocabulary_size: int = setting(
        0,
        "Most tokens that a word vocabulary may hold, the unknown token "
        "included (0: 10,000). Characters and bytes take what they need.",
        minimum=0,
    )
    bidirectional: bool = setting(
        False,
        "Read the input in both directions: only where all of it is at hand, "
        "so never in a language model.",
    )
    residual: bool = setting(
        False,
        "Add the input of every recurrent layer to its output: helps stacks of "
        "three layers and more.",
    )
    tie_embeddings: bool = setting(
        False,
        "Use the embedding, transposed, as the readout: fewer weights, worth "
        "having for large vocabularies.",
    )
    dropout: float = setting(
        0.0,
        "Fraction of activations dropped between layers while training. Raise "
        "it when the validation loss rises while the training loss falls.",
        minimum=0.0,
        below=1.0,
    )
    recurrent_dropout: float = setting(
        0.0,
        "Fraction of a layer's own state dropped while training, the same "
        "units at every time step.",
        minimum=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Where the text comes from, how it is cut, and how the weights move."""

    task: str = setting(
        "language_model",
        "What to train: a model that continues a text.",
        choices=("language_model",),
    )
    corpus: str = setting(
        "pydoc",
        "Text to learn from: a file, a glob in quotes, - for standard input, "
        "or a name: pydoc (the Python language reference inside Python itself, "
        "no download), timemachine, shakespeare (downloaded once). Several, "
        "separated by commas, are joined. Files may be gzipped.",
    )
    tokenizer: str = setting(
        "char",
        "What a token is: a character (code point), a byte (any file, any "
        "language, no unknowns) or a word.",
        choices=("char", "byte", "word"),
    )
    letters_only: bool = setting(
        False,
        "Reduce all text to lower-case letters a-z and single spaces, as the "
        "book Dive into Deep Learning does.",
    )
    sequence_length: int = setting(
        100,
        "Tokens of one window: the gradient flows back so far.",
        minimum=1,
    )
    batch_size: int = setting(
        64, "Windows of one training step, over all devices.", minimum=1
    )
    epochs: int = setting(6, "Passes over the training text.", minimum=1)
    max_minutes: float = setting(
        0.0,
        "Stop after so many minutes of training, wherever it is, and export "
        "what there is (0: no limit).",
        minimum=0.0,
    )
    carry_state: bool = setting(
        False,
        "Cut the text into batch_size parallel streams, and start each window "
        "with the state that the window before it ended with. Otherwise "
        "windows are shuffled and start with a state of zeros.",
    )
    train_windows: int = setting(
        0,
        "The book's way to cut a text: every window of sequence_length tokens, "
        "overlapping; the first so many are for training (0: not this way).",
        minimum=0,
    )
    validation_windows: int = setting(
        0,
        "With --train_windows: the next so many windows are for validation.",
        minimum=0,
    )
    validation_fraction: float = setting(
        0.1,
        "Part of the text, from its end, held out to measure progress.",
        minimum=0.0,
        below=1.0,
    )
    optimizer: str = setting(
        "adam",
        "Rule that moves the weights.",
        choices=("adam", "adamw", "rmsprop", "sgd"),
    )
    learning_rate: float = setting(
        0.005, "Step size of the optimizer, at its highest.", minimum=0.0
    )
    learning_rate_schedule: str = setting(
        "cosine",
        "constant, or cosine: a short linear warm-up, then down to a "
        "hundredth at the end of the last epoch.",
        choices=("constant", "cosine"),
    )
    gradient_clip_norm: float = setting(
        1.0,
        "Scale the gradient of a step down to this norm when it is longer "
        "(0: never).",
        minimum=0.0,
    )
    early_stopping: int = setting(
        0,
        "Stop after so many epochs without a better validation loss (0: "
        "never). The best weights are exported in any case.",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Seed of the initial weights, the order of the windows, the dropout.",
        minimum=0,
        below=2**31,
    )
    deterministic: bool = setting(
        False,
        "Ask TensorFlow for bit-identical results from the same command on "
        "the same machine. Slower.",
    )
    strategy: str = setting(
        "auto",
        "Devices to train on: one_device, mirrored (all GPUs, or all logical "
        "CPUs, of this machine), or auto: mirrored where there are several "
        "GPUs.",
        choices=("auto", "one_device", "mirrored"),
    )
    jit_compile: bool = setting(
        False, "Compile the forward and backward pass with XLA."
    )
    model_dir: str = setting(
        "",
        "Directory of this run: configuration, checkpoints, TensorBoard, "
        "history.csv (empty: runs/CORPUS).",
    )
    export_dir: str = setting(
        "",
        "Directory of the SavedModel; each run adds a version, 1, 2, 3 ... "
        "(empty: saved_models/CORPUS).",
    )
    resume: bool | None = setting(
        None,
        "Go on from the last checkpoint in model_dir. When left out: if it is "
        "there and of the same model. With --noresume a run that is there is "
        "moved aside.",
    )


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Config):
    """How tokens are drawn from the model's distribution."""

    max_new_tokens: int = setting(
        300, "Most tokens to generate.", minimum=0, maximum=1_000_000
    )
    temperature: float = setting(
        0.8,
        "Below 1 bolder towards the likely tokens, above 1 more surprising, "
        "0 always the likeliest.",
        minimum=0.0,
        below=math.inf,
    )
    top_k: int = setting(
        0, "Draw among the k likeliest tokens only (0: all).", minimum=0
    )
    top_p: float = setting(
        1.0,
        "Draw among the likeliest tokens that together have at least this "
        "probability.",
        minimum=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = setting(
        1.0,
        "Above 1: make tokens that were seen already less likely; made for "
        "words, too blunt for characters.",
        minimum=0.01,
    )
    seed: int = setting(
        0,
        "Seed of the draw: the same seed, prompt and model give the same "
        "text. Sample number n uses seed + n.",
        minimum=0,
        below=2**63,
    )


@dataclasses.dataclass(frozen=True)
class SavedModelConfig(Config):
    """Which exported model a command works with."""

    saved_model: str = setting(
        "",
        "Directory of an exported model: a version, or the parent of several "
        "(the highest is taken). Empty: the newest under saved_models/.",
    )


# From fields to flags, and back ---------------------------------------------


def run(main, *config_classes) -> None:
    """Runs a command: flags in, one configuration of each class to `main`.

    Called from the script that holds `main`. A `UserError` becomes one line on
    standard error and exit code 2; Ctrl-C, exit code 130.

    Args:
        main: called with one instance of each of `config_classes`, in order.
        *config_classes: the `Config` classes whose fields become flags.
    """
    program = os.path.basename(sys.argv[0])
    script = sys.modules["__main__"]
    if not script.__doc__:  # an installed entry point has no text of its own
        script.__doc__ = main.__globals__["__doc__"]
    for config_class in config_classes:
        for field in dataclasses.fields(config_class):
            _define_flag(field)

    def guarded(arguments):
        try:
            if len(arguments) > 1:
                raise UserError(
                    f"{arguments[1]!r} is not a flag: every option is one, "
                    "such as --name=value (see --help)"
                )
            values = [_from_flags(kind) for kind in config_classes]
            _import_tensorflow_quietly()
            if not flags.FLAGS["verbosity"].present:  # absl says INFO
                logging.set_verbosity(logging.WARNING)
            main(*values)
        except UserError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:  # the reader of a pipe has left, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    app.run(guarded)


def _define_flag(field) -> None:
    """Defines the absl flag of one field, listed in the script's `--help`."""
    name, default, rules = field.name, field.default, field.metadata
    if rules["choices"]:
        flags.DEFINE_enum(name, default, rules["choices"], rules["help"])
    elif field.type in (bool, bool | None):
        flags.DEFINE_bool(name, default, rules["help"])
    elif field.type is int:
        flags.DEFINE_integer(name, default, rules["help"])
    elif field.type is float:
        flags.DEFINE_float(name, default, rules["help"])
    elif field.type is str:
        flags.DEFINE_string(name, default, rules["help"])
    else:  # tuple[str, ...]: a flag that may be repeated
        flags.DEFINE_multi_string(name, list(default), rules["help"])
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _from_flags(config_class):
    """The configuration that the parsed flags describe."""
    values = flags.FLAGS.flag_values_dict()
    return config_class.from_dict(
        {
            field.name: values[field.name]
            for field in dataclasses.fields(config_class)
        }
    )


def to_flags(*values) -> str:
    """Configurations as a text for `--flagfile`: one flag a line."""
    lines = []
    for config in values:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if isinstance(value, bool):
                lines.append(
                    f"--{field.name}" if value else f"--no{field.name}"
                )
            elif value is not None:
                lines.append(f"--{field.name}={value}")
    return "\n".join(lines) + "\n"


def writable_directory(flag, path) -> pathlib.Path:
    """The directory that a flag names, made where it is missing.

    Raises:
        UserError: nothing can be written there.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(
            f"--{flag}={path}: cannot write there: {error.strerror}"
        ) from error


def _import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its native start-up notices.

    They are written before any log level takes effect. If the import fails,
    all that it wrote is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as notices, contextlib.ExitStack() as stack:
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for a CUDA driver
        except BaseException:
            os.dup2(stderr, 2)
            notices.seek(0)
            sys.stderr.write(notices.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(stderr, 2)
