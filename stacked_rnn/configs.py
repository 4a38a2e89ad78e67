"""The one list of knobs: frozen dataclasses.

Every setting is a field that carries its default, its help and its check;
`command_line` makes the flags from them, so that each is written once.
"""

import dataclasses
import math
import re

MAX_NEW_TOKENS = 1_000_000  # of one text; the SavedModel holds to it too


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend.

    The message is one line: it names the flag or the file, and the fix. The
    commands print it without a traceback and exit with code 2.
    """


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\"}


def unescaped(text) -> str:
    r"""A string of the text, as a flag has it: with \n, \t, \r, \s and \\."""
    return re.sub(r"\\([ntrs\\])", lambda match: _ESCAPES[match[1]], text)


def escaped(text) -> str:
    r"""What a flag says, in the one way that a line of a flag file holds.

    Line breaks and tabs are \n, \t and \r, blanks at the ends \s.
    """
    text = unescaped(text).replace("\\", "\\\\")
    for letter in "ntr":
        text = text.replace(_ESCAPES[letter], f"\\{letter}")
    inner = text.lstrip(" ")
    before = len(text) - len(inner)
    after = len(inner) - len(inner.rstrip(" "))
    return r"\s" * before + inner.rstrip(" ") + r"\s" * after


def check_encodable(name, text) -> None:
    """Raises where a command line has bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--{name}={text!r}: not UTF-8: check the terminal's locale"
        ) from None


def setting(
    default,
    help,
    *,
    choices=None,
    minimum=-math.inf,
    maximum=math.inf,
    below=math.inf,
    is_internal=False,
):
    """A dataclass field with its help and its check.

    Args:
        default: the value when nothing is said. Its field's annotation (`int`,
            `float`, `bool`, `str`, `tuple[str, ...]`) gives the flag's type.
        help: what the setting does, in words for `--help`.
        choices: the allowed strings; None: any.
        minimum, maximum: the range of a number, ends included.
        below: a number must be less than this.
        is_internal: what other settings bring about: `--help` leaves it out.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "below": below,
        "is_internal": is_internal,
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
    name, rules = field.name, field.metadata
    if field.type in (int, float):
        kinds = (int, float) if field.type is float else (int,)
        low, high, below = rules["minimum"], rules["maximum"], rules["below"]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UserError(
                f"--{name}={value!r}: expected a {field.type.__name__}"
            )
        if not (low <= value <= high and value < below):  # catches NaN too
            lower = f"{low} <= " if low > -math.inf else ""
            upper = f" <= {high}" if high < math.inf else ""
            upper = f" < {below}" if below < math.inf else upper
            raise UserError(f"--{name}={value}: expected {lower}{name}{upper}")
    elif rules["choices"] and value not in rules["choices"]:
        raise UserError(
            f"--{name}={value!r}: expected one of "
            + ", ".join(rules["choices"])
        )


# Where a task wants others than a language model.
TASK_DEFAULTS = {
    "language_model": {},
    "classifier": {
        "tokenizer": "word",
        "num_layers": 1,
        "units": 64,
        "embedding_dim": 256,
        "embedding_stddev": 0.05,
        "bidirectional": True,
        "pooling": "max",
        "dropout": 0.5,
        "embedding_dropout": 0.8,
        "learning_rate": 0.002,
        "batch_size": 64,
        "epochs": 8,
        "sequence_length": 200,
    },
    "seq2seq": {
        "corpus": "dates_to_iso",
        "num_layers": 1,
        "units": 128,
        "bidirectional": True,
        "batch_size": 64,
        "epochs": 10,
        "sequence_length": 200,
    },
}


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
    decoder_layers: int = setting(
        0,
        "Of a seq2seq model, recurrent layers of the decoder; num_layers are "
        "those of the encoder (0: as many).",
        minimum=0,
        maximum=8,
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
        "tie_embeddings, or to overfit a tiny text less. A classifier by "
        "characters wants 1.",
        minimum=0.0,
    )
    vocabulary_size: int = setting(
        0,
        "Most tokens that a vocabulary may hold: of words, the unknown token "
        "included (0: 10,000), or of subwords, from 256 on (0: 1,024). "
        "Characters and bytes take what they need.",
        minimum=0,
    )
    end_of_text: bool = setting(
        False,
        "The last token of the vocabulary ends a document, and the state "
        "starts anew with it: what --document_separator asks for.",
        is_internal=True,
    )
    bidirectional: bool = setting(
        False,
        "Read the input in both directions, with as many units each: only "
        "where all of it is at hand, so never in a language model.",
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
    pooling: str = setting(
        "last",
        "Of a classifier, what the readout sees of the top layer: its last "
        "state, the mean or the maximum over time, or mean_max, both.",
        choices=("last", "mean", "max", "mean_max"),
    )
    embedding_dropout: float = setting(
        0.0,
        "Of a classifier, the fraction of the embedding's units dropped while "
        "training, the same ones in a whole text. A high one keeps it from "
        "learning a few labelled texts by heart.",
        minimum=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Where the text comes from, how it is cut, and how the weights move."""

    task: str = setting(
        "language_model",
        "What to train: language_model, which continues a text, classifier, "
        "which tells of which class a text is, or seq2seq, which makes a text "
        "of another. The latter have defaults of their own: "
        + "; ".join(
            f"{task}: "
            + " ".join(f"--{name}={value}" for name, value in settings.items())
            for task, settings in TASK_DEFAULTS.items()
            if settings
        )
        + ".",
        choices=tuple(TASK_DEFAULTS),
    )
    corpus: str = setting(
        "pydoc",
        "Text to learn from: a file, a directory with all that is below it, a "
        "glob in quotes, - for standard input, or a name: pydoc (the Python "
        "language reference inside Python itself, no download), timemachine, "
        "shakespeare (downloaded once). Several, separated by commas, are "
        "joined. Files may be gzipped. Of a classifier: .tsv or .csv with a "
        "header line, .jsonl, a directory with one for each class, several "
        "files with a text a line, one for each class, or imdb. Of seq2seq: "
        ".tsv, .csv or .jsonl, or a name of pairs that are made: "
        "numbers_to_words, words_to_numbers, dates_to_iso, "
        "identifiers_to_words.",
    )
    text_field: str = setting(
        "text", "Of a classifier: the column, or field, with the text."
    )
    label_field: str = setting(
        "label", "Of a classifier: the column, or field, with the label."
    )
    label_separator: str = setting(
        "",
        "Of a classifier: what stands between the labels of a text that may "
        "have several, or none, with \\t for a tab (empty: each has one).",
    )
    class_weights: bool = setting(
        False,
        "Of a classifier: let texts of rare classes count more, so that all "
        "classes count the same.",
    )
    source_field: str = setting(
        "source",
        "Of seq2seq: the column, or field, with the text to read. In a table "
        "without a header line it is the first one.",
    )
    target_field: str = setting(
        "target",
        "Of seq2seq: the column, or field, with the text to write. In a table "
        "without a header line it is the second one.",
    )
    skip_bad_files: bool = setting(
        False,
        "Leave out files of the corpus that cannot be read, are empty or not "
        "text, with a warning each; otherwise the first one stops.",
    )
    cache_dir: str = setting(
        "",
        "Where the tokens of a text of more than 16 million characters are "
        "kept, so that it is cut once and never held in memory (empty: "
        "stacked_rnn in the Keras cache, $KERAS_HOME or ~/.keras).",
    )
    tokenizer: str = setting(
        "char",
        "What a token is: a character (code point), a byte (any file, any "
        "language, no unknowns), a word, or a subword (a byte or a frequent "
        "string of bytes: no unknowns, and texts get short).",
        choices=("char", "byte", "word", "subword"),
    )
    document_separator: str = setting(
        "",
        "What stands between the documents of the text, such as <|endoftext|>, "
        "or \\n (so written) for one document a line; \\t, \\r, \\s and \\\\ "
        "are a tab, a carriage return, a blank and a backslash. It becomes one "
        "token, at which the state starts anew; generating it ends a text.",
    )
    letters_only: bool = setting(
        False,
        "Reduce all text to lower-case letters a-z and single spaces, as the "
        "book Dive into Deep Learning does.",
    )
    sequence_length: int = setting(
        100,
        "Tokens of one window, or all of a shorter text: the gradient flows "
        "back so far. A classifier reads so many of a text, and not what comes "
        "after them; seq2seq leaves out pairs with a longer text.",
        minimum=1,
    )
    batch_size: int = setting(
        32, "Windows of one training step, over all devices.", minimum=1
    )
    accumulate_steps: int = setting(
        1,
        "Compute a batch in so many parts, one after the other, and add up "
        "their gradients: the same step with less memory.",
        minimum=1,
    )
    epochs: int = setting(
        4,
        "Passes over the training text (0: as many as fit in --max_minutes; "
        "the default where that is given).",
        minimum=0,
    )
    max_minutes: float = setting(
        0.0,
        "Without --epochs: train for so many minutes in all, the learning rate "
        "falling until then; a faster machine gets further, so that no two "
        "runs are quite the same. With --epochs: stop after so many minutes, "
        "wherever it is, and the same command goes on (0: no limit).",
        minimum=0.0,
    )
    carry_state: bool = setting(
        False,
        "Cut the text into batch_size parallel streams, and start each window "
        "with the state that the window before it ended with: a lower loss on "
        "long texts, but prompts then want a line of context before them. "
        "Otherwise windows are shuffled and start with a state of zeros.",
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
        "Part of the text held out to measure progress: its end, or with "
        "document_separator whole documents, chosen by their text and the "
        "seed. Of a classifier or seq2seq: of the texts, chosen by the seed.",
        minimum=0.0,
        below=1.0,
    )
    optimizer: str = setting(
        "adam",
        "Rule that moves the weights.",
        choices=("adam", "adamw", "rmsprop", "sgd"),
    )
    learning_rate: float = setting(
        0.004, "Step size of the optimizer, at its highest.", minimum=0.0
    )
    learning_rate_schedule: str = setting(
        "cosine",
        "constant, or cosine: a short linear warm-up, then down to a "
        "hundredth at the end of the last epoch, or of the time.",
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
        "Stop after so many epochs without a better validation loss, or "
        "accuracy of a classifier (0: never). The best weights are exported in "
        "any case.",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Seed of the initial weights, the order of the windows, the dropout, "
        "and of which documents or labelled texts are held out.",
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
        "CPUs, of this machine), multi_worker (many machines, which TF_CONFIG "
        "or a Slurm job names: deploy/README.md), or auto: mirrored where "
        "there are several GPUs.",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
    )
    wait_minutes: float = setting(
        60.0,
        "With --strategy=multi_worker: wait so long for all workers to start "
        "(0: no limit).",
        minimum=0.0,
    )
    mixed_precision: bool = setting(
        False,
        "Multiply matrices in bfloat16, keep weights, gates and sums in "
        "float32: faster for wide layers where the CPU has the instructions "
        "(avx512_bf16 or amx_bf16 in /proc/cpuinfo), and on a GPU. On GPUs "
        "from before Ampere, or with --nojit_compile, in float16 with the loss "
        "scaled. The SavedModel stays float32.",
    )
    jit_compile: bool = setting(
        True,
        "Compile with XLA what it makes faster: on a CPU the loops over time, "
        "on a GPU the layers that cuDNN does not compute, and the optimizer.",
    )
    init_from: str = setting(
        "",
        "Go on from a trained model: a SavedModel (a version, or the parent of "
        "several: the highest is taken), or the model_dir of another run (its "
        "best checkpoint). Architecture and vocabulary stay those of that "
        "model, dropout may differ; the run is a new one. A classifier takes "
        "over the layers that it has in common with a language model.",
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
    checkpoint_minutes: float = setting(
        10.0,
        "Save a checkpoint so often within an epoch, besides the one at its "
        "end: no more is lost when the machine dies.",
        minimum=0.0,
    )
    resume: bool | None = setting(
        None,
        "Go on from the last checkpoint in model_dir. When left out: if it is "
        "there and of the same model. With --noresume a run that is there is "
        "moved aside.",
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("document_separator", "label_separator"):
            check_encodable(name, getattr(self, name))
            # One way to write it: in records, flag files and tokenizers.
            object.__setattr__(self, name, escaped(getattr(self, name)))
        if not (self.epochs or self.max_minutes):
            raise UserError(
                "--epochs=0: as many as fit in --max_minutes: give that, or "
                "their number"
            )
        validates = self.validation_fraction
        if self.train_windows:
            validates = self.validation_windows
        if self.early_stopping and not validates:
            raise UserError(
                "--early_stopping needs a text to validate on: give "
                "--validation_fraction or --validation_windows"
            )


_OF_LABELS = ("text_field", "label_field", "label_separator", "class_weights")
_OF_PAIRS = ("source_field", "target_field", "decoder_layers")
_OF_STREAMS = (
    "skip_bad_files",
    "cache_dir",
    "document_separator",
    "carry_state",
    "train_windows",
    "validation_windows",
)
_OF_NO_USE = {  # by task
    "language_model": (
        *_OF_LABELS,
        *_OF_PAIRS,
        "pooling",
        "embedding_dropout",
    ),
    "classifier": (*_OF_PAIRS, *_OF_STREAMS),
    "seq2seq": (
        *_OF_LABELS,
        *_OF_STREAMS,
        "pooling",
        "embedding_dropout",
        "init_from",
    ),
}


def with_task_defaults(model_config, train_config, given):
    """The two configurations with the defaults of their task.

    Args:
        model_config, train_config: as asked for.
        given: names of the settings that somebody asked for.

    Raises:
        UserError: somebody asked for what the task has no use for.
    """
    task = train_config.task
    for config in (model_config, train_config):
        for field in dataclasses.fields(config):
            if (
                field.name in _OF_NO_USE[task]
                and field.name in given
                and getattr(config, field.name) != field.default
            ):
                raise UserError(f"--{field.name}: of no use with --task={task}")
    defaults = dict(TASK_DEFAULTS[task])
    if train_config.max_minutes:
        defaults["epochs"] = 0  # as many as fit
    defaults = {
        name: value for name, value in defaults.items() if name not in given
    }
    return tuple(
        dataclasses.replace(
            config,
            **{
                name: value
                for name, value in defaults.items()
                if hasattr(config, name)
            },
        )
        for config in (model_config, train_config)
    )


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Config):
    """How tokens are drawn from the model's distribution."""

    max_new_tokens: int = setting(
        300, "Most tokens to generate.", minimum=0, maximum=MAX_NEW_TOKENS
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
        minimum=1e-9,
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

    @property
    def is_plain(self) -> bool:
        """Whether the temperature alone changes the distribution."""
        return not self.top_k and self.top_p == self.repetition_penalty == 1.0


@dataclasses.dataclass(frozen=True)
class BeamConfig(Config):
    """How a seq2seq model looks for the text to write."""

    num_beams: int = setting(
        4,
        "Of seq2seq: keep so many beginnings of a text at a time, and take the "
        "best in the end (1: always the likeliest token).",
        minimum=1,
        maximum=1000,
    )
    length_penalty: float = setting(
        0.0,
        "Of seq2seq: texts are compared by log p / length ** length_penalty: "
        "0 takes the likeliest, 1 the best mean over the tokens, which favours "
        "longer ones.",
        minimum=0.0,
        maximum=4.0,
    )
    max_new_tokens: int = setting(
        0,
        "Of seq2seq: most tokens to write (0: twice as many as the longest "
        "target of the training has).",
        minimum=0,
        maximum=MAX_NEW_TOKENS,
    )


@dataclasses.dataclass(frozen=True)
class SavedModelConfig(Config):
    """Which exported model a command works with."""

    saved_model: str = setting(
        "",
        "Directory of an exported model: a version, or the parent of several "
        "(the highest is taken). Empty: the newest under saved_models/ that "
        "this command has a use for.",
    )


@dataclasses.dataclass(frozen=True)
class ServeConfig(Config):
    """What is served, to whom, and within which limits."""

    saved_model: str = setting(
        "",
        "Directory of an exported model: a version, the parent of several (the "
        "highest is served, and a new one as soon as it is there), or of "
        "several models, each by its name. Empty: saved_models.",
    )
    model_name: str = setting(
        "", "What a single model is called (empty: as its directory)."
    )
    host: str = setting(
        "127.0.0.1",
        "Address to listen on. 0.0.0.0 lets other machines in: set "
        "--api_keys_file then.",
    )
    port: int = setting(
        8501, "Port to listen on (0: any that is free).", minimum=0, below=65536
    )
    api_keys_file: str = setting(
        "",
        "File with an API key a line; requests under /v1 then need one, "
        "Authorization: Bearer KEY (empty: no keys).",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "An origin whose web pages may use the server, such as "
        "https://example.org (repeat for more; none: no other site's).",
    )
    max_tokens: int = setting(
        4096, "Most new tokens that a request may ask for.", minimum=1
    )
    max_waiting: int = setting(
        1024,
        "Most texts that wait for one of the 64 places of a model; a request "
        "beyond gets status 429.",
        minimum=1,
    )
    max_body_bytes: int = setting(
        1_000_000, "Most bytes of a request's body.", minimum=1
    )
    request_seconds: float = setting(
        300.0, "Longest time that a request may take.", minimum=0.0
    )
    drain_seconds: float = setting(
        30.0,
        "After SIGTERM or Ctrl-C, requests that are here may go on so long.",
        minimum=0.0,
    )
    poll_seconds: float = setting(
        1.0, "How often to look for new versions, in seconds.", minimum=0.01
    )
    max_loaded: int = setting(
        0,
        "Most models in memory at a time: the others are loaded when they are "
        "asked for, each in the place of the one that was asked for least "
        "recently (0: all).",
        minimum=0,
    )
    jit_compile: bool = setting(
        True,
        "Compile each model with XLA once it is loaded: takes a core half a "
        "minute, and makes it several times as fast.",
    )
    access_log: bool = setting(
        True, "Write a line of JSON for each request to standard error."
    )
