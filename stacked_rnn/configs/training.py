"""Settings of a training run."""

import dataclasses

from stacked_rnn.configs.base import (
    Config,
    UserError,
    check_encodable,
    escaped,
    setting,
)
from stacked_rnn.configs.tasks import TASKS

TRACKERS = ("tensorboard", "mlflow", "wandb")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Data, optimization and files of a run."""

    task: str = setting(
        "language_model",
        "What to train: a language_model, which continues texts, a classifier, "
        "which labels them, or seq2seq, which rewrites them. The last two have "
        "defaults of their own: "
        + "; ".join(
            f"{task}: "
            + " ".join(
                f"--{name}={value}" for name, value in info.defaults.items()
            )
            for task, info in TASKS.items()
            if info.defaults
        )
        + ".",
        choices=TASKS,
    )
    corpus: str = setting(
        "pydoc",
        "Text to learn from: a file, a directory with everything below it, a "
        "glob in quotes, - for standard input, or a name: pydoc (the Python "
        "language reference that Python ships, no download), timemachine, "
        "shakespeare (downloaded once). Several, separated by commas, are "
        "joined. Files may be gzipped. Classifiers: .tsv or .csv with a header "
        "line, .jsonl, a directory with one directory per class, one file per "
        "class with one text per line, or imdb. Seq2seq: .tsv, .csv or .jsonl, "
        "or the name of pairs that a program makes: numbers_to_words, "
        "words_to_numbers, dates_to_iso, identifiers_to_words.",
    )
    text_field: str = setting(
        "text", "Classifiers only: column or field with the text."
    )
    label_field: str = setting(
        "label", "Classifiers only: column or field with the label."
    )
    label_separator: str = setting(
        "",
        "Classifiers only: string between the labels of a text, \\t for a tab; "
        "a text may then have several labels, or none (empty: each has one).",
    )
    class_weights: bool = setting(
        False,
        "Classifiers only: give texts of rare classes a larger weight, so that "
        "all classes count the same.",
    )
    source_field: str = setting(
        "source",
        "Seq2seq only: column or field with the text to read; in a table "
        "without a header line, the first column.",
    )
    target_field: str = setting(
        "target",
        "Seq2seq only: column or field with the text to write; in a table "
        "without a header line, the second column.",
    )
    skip_bad_files: bool = setting(
        False,
        "Skip files of the corpus that cannot be read, are empty or not text, "
        "with one warning per file; otherwise the first one is an error.",
    )
    cache_dir: str = setting(
        "",
        "Directory for the tokens of a text of more than 16 million "
        "characters, which is tokenized once and never held in memory (empty: "
        "stacked_rnn in the Keras cache, $KERAS_HOME or ~/.keras).",
        is_path=True,
    )
    tokenizer: str = setting(
        "char",
        "What a token is: a character (code point), a byte (any file, any "
        "language, no unknown tokens), a word, or a subword (a byte or a "
        "frequent string of bytes: no unknown tokens, and fewer per text).",
        choices=("char", "byte", "word", "subword"),
    )
    document_separator: str = setting(
        "",
        "String between the documents of the text, such as <|endoftext|>, or "
        "\\n (so written) for one document per line; \\t, \\r, \\s and \\\\ "
        "stand for a tab, a carriage return, a space and a backslash. It "
        "becomes one token, which resets the state; generating it ends a text.",
    )
    letters_only: bool = setting(
        False,
        "Reduce all text to the lower-case letters a-z and single spaces, as "
        "the book Dive into Deep Learning does. Not for seq2seq.",
    )
    sequence_length: int = setting(
        100,
        "Tokens per window (fewer if the text is shorter): gradients flow back "
        "this far. A classifier reads at most this many tokens of a text; "
        "seq2seq leaves out pairs with a longer text.",
        minimum=1,
    )
    batch_size: int = setting(
        32, "Windows per training step, over all devices.", minimum=1
    )
    accumulate_steps: int = setting(
        1,
        "Number of parts in which a batch is computed, one after the other, "
        "before their gradients are added up: the same step with less memory.",
        minimum=1,
    )
    epochs: int = setting(
        4,
        "Passes over the training text (0: as many as fit in --max_minutes, "
        "which is the default where that is given, and for language models "
        "where neither is).",
        minimum=0,
        below=2**31,
    )
    max_minutes: float = setting(
        0.0,
        "Time limit in minutes, from the start of the command (of several "
        "workers: from when all are there) to the exported model (0: none; for "
        "language models without --epochs 2, up to 20 for long texts, and down "
        "to 0.5 for short ones). Without --epochs, the learning rate falls "
        "until the end of the time; a faster machine gets further, so that no "
        "two runs are quite the same. With --epochs, the run stops after this "
        "time, even within an epoch, and the same command resumes it.",
        minimum=0.0,
    )
    carry_state: bool = setting(
        False,
        "Cut the text into batch_size parallel streams, and start each window "
        "with the final state of the window before it: a lower loss on long "
        "texts, but prompts then need a line of context before them. "
        "Otherwise, windows are shuffled and start with a state of zeros.",
    )
    reset_states: float = setting(
        0.0,
        "With --carry_state: fraction of the streams whose state is set to "
        "zero before a training step. With 0.01, the model also learns to "
        "begin a text, and prompts need no line of context before them.",
        minimum=0.0,
        maximum=1.0,
    )
    half_windows: float = setting(
        0.0,
        "Fraction of the training steps that take half a window each, at half "
        "the learning rate. The windows to cut are drawn at random, and the "
        "second half follows the first. AWD-LSTM has 0.05.",
        minimum=0.0,
        maximum=1.0,
    )
    train_windows: int = setting(
        0,
        "Cut the text as the book Dive into Deep Learning does, into every "
        "window of sequence_length tokens, overlapping, and use the first N "
        "windows for training (0: off).",
        minimum=0,
    )
    validation_windows: int = setting(
        0,
        "With --train_windows: use the next N windows for validation.",
        minimum=0,
    )
    validation_fraction: float = setting(
        0.1,
        "Fraction of the text held out to measure progress. Language models: "
        "0.05 or less of a long text, unless it is given. Classifiers and "
        "seq2seq: of the texts, chosen by the seed.",
        minimum=0.0,
        below=1.0,
    )
    validation: str = setting(
        "blocks",
        "Language models only: what is held out: up to 20 blocks from all over "
        "the text, each of at most 100,000 characters, so that no chapter is "
        "missed; or the end of the text, as published figures want it. With "
        "--document_separator, whole documents in either case, chosen by their "
        "text and the seed.",
        choices=("blocks", "end"),
    )
    learn_all: bool = setting(
        False,
        "At the end, learn the held-out text too: from the best weights and "
        "with a low learning rate, one more pass over all the text, or in the "
        "last tenth of the time. The validation figures are those of before. "
        "Not for seq2seq.",
    )
    optimizer: str = setting(
        "adam",
        "Optimizer of the weights. Muon makes the updates of matrices "
        "orthogonal, which takes a sixth to two fifths more time on a CPU and "
        "learns much more in each step.",
        choices=("adam", "adamw", "muon", "rmsprop", "sgd"),
    )
    learning_rate: float = setting(
        0.004, "Peak learning rate of the optimizer.", minimum=0.0
    )
    weight_decay: float = setting(
        0.0,
        "Fraction of the weights of matrices that is taken away in each step, "
        "times the learning rate (0: none, or Keras' default of 0.004 with "
        "--optimizer=adamw).",
        minimum=0.0,
    )
    average_decay: float = setting(
        0.0,
        "Validate and export a running average of the weights, of which each "
        "step keeps this share: 0.99 to 0.999 (0: the weights themselves).",
        minimum=0.0,
        below=1.0,
    )
    average_patience: int = setting(
        0,
        "With --average_decay: begin to average after this many epochs without "
        "a better validation (0: with the first step).",
        minimum=0,
    )
    learning_rate_schedule: str = setting(
        "cosine",
        "How the learning rate changes: constant, or cosine, a short linear "
        "warm-up and then a decay to a hundredth at the end of the last epoch, "
        "or of the time.",
        choices=("constant", "cosine"),
    )
    gradient_clip_norm: float = setting(
        1.0,
        "Maximum norm of the gradient of a step; a larger one is scaled down "
        "to it (0: no clipping).",
        minimum=0.0,
    )
    early_stopping: int = setting(
        0,
        "Stop after this many epochs without a better validation loss, or "
        "accuracy of a classifier (0: never). The best weights are exported in "
        "any case.",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Random seed of the initial weights, the order of the windows, the "
        "dropout, and the choice of documents or labelled texts to hold out.",
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
        "CPUs, of this machine), multi_worker (many machines, named by "
        "TF_CONFIG or a Slurm job: see deploy/README.md), or auto (mirrored "
        "where there are several GPUs, otherwise one_device).",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
    )
    wait_minutes: float = setting(
        60.0,
        "With --strategy=multi_worker: how long to wait for all workers to "
        "start, in minutes (0: no limit).",
        minimum=0.0,
    )
    mixed_precision: bool = setting(
        False,
        "Multiply matrices in bfloat16, keep weights, gates and sums in "
        "float32: faster for wide layers on CPUs that have the instructions "
        "(avx512_bf16 or amx_bf16 in /proc/cpuinfo) and on GPUs. GPUs older "
        "than Ampere, or with --nojit_compile, use float16 and loss scaling. "
        "The SavedModel stays in float32.",
    )
    jit_compile: bool = setting(
        True,
        "Compile with XLA the parts that it makes faster: on a CPU the loops "
        "over time, on a GPU the whole step (cuDNN is used where compiling "
        "does not pay).",
    )
    init_from: str = setting(
        "",
        "Start a new run with the weights of a trained model: a SavedModel "
        "(one version, or the parent of several: the highest is used), the "
        "model_dir of another run (its best checkpoint), or weights of PyTorch "
        "(.safetensors, see docs/runtimes.md). "
        "Architecture and tokenizer are those of that model, the dropout may "
        "differ. A classifier takes the layers that it shares with a language "
        "model.",
        is_path=True,
    )
    widen_vocabulary: bool = setting(
        True,
        "With --init_from, language models only: add the characters of the new "
        "training text that the vocabulary lacks, or its most frequent words, "
        "up to --vocabulary_size in all. Otherwise, they are read as unknown.",
    )
    model_dir: str = setting(
        "",
        "Directory of the run: settings, checkpoints, TensorBoard logs, "
        "history.csv (empty: runs/CORPUS).",
        is_path=True,
    )
    export_dir: str = setting(
        "",
        "Directory of the SavedModels; each run adds a version, 1, 2, 3 ... "
        "(empty: saved_models/CORPUS).",
        is_path=True,
    )
    chat_template: str = setting(
        "",
        "File with a Jinja template, as Hugging Face has them, that makes a "
        "text of the messages of a chat; it becomes part of the SavedModel, "
        "for serve.py. Language models only.",
        is_path=True,
    )
    trackers: str = setting(
        "tensorboard",
        "Where the curves and the settings of the run are recorded, besides "
        "history.csv: tensorboard, mlflow or wandb (Weights & Biases, offline "
        "unless WANDB_MODE is set), or several, separated by commas (empty: "
        "nowhere).",
    )
    checkpoint_minutes: float = setting(
        10.0,
        "Minutes between checkpoints within an epoch, besides the one at its "
        "end: no more is lost when the machine dies.",
        minimum=0.0,
    )
    resume: bool | None = setting(
        None,
        "Resume from the last checkpoint in model_dir. Default: if there is "
        "one of the same run. With --noresume, a run that is there is moved "
        "aside.",
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("document_separator", "label_separator"):
            check_encodable(name, getattr(self, name))
            # Written alike in records, flag files and tokenizers.
            object.__setattr__(self, name, escaped(getattr(self, name)))
        tracker_names(self.trackers)  # checks them
        if not (self.epochs or self.max_minutes):
            raise UserError(
                "--epochs=0 trains as long as --max_minutes: set that, or a "
                "number of epochs"
            )
        if self.learn_all and self.train_windows:
            raise UserError(
                "--learn_all: --train_windows takes as many windows as it "
                "says: leave one of the two out"
            )
        validates = self.validation_fraction
        if self.train_windows:
            validates = self.validation_windows
        if self.early_stopping and not validates:
            raise UserError(
                "--early_stopping needs a text to validate on: set "
                "--validation_fraction or --validation_windows"
            )
        if self.average_decay and (
            0 < self.early_stopping <= self.average_patience
        ):
            raise UserError(
                f"--early_stopping={self.early_stopping} ends a run before "
                f"--average_patience={self.average_patience} begins to "
                "average: set a larger one, or a smaller patience"
            )


def tracker_names(trackers) -> tuple[str, ...]:
    """Returns the names in `TrainConfig.trackers`, each once.

    Raises:
        UserError: there is no such tracker.
    """
    names = tuple(
        dict.fromkeys(filter(None, map(str.strip, trackers.split(","))))
    )
    for name in names:
        if name not in TRACKERS:
            raise UserError(
                f"--trackers={trackers}: there is no {name!r}: name some of "
                f"{','.join(TRACKERS)}"
            )
    return names
