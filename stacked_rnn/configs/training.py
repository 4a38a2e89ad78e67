"""What a model learns from, and how."""

import dataclasses

from stacked_rnn.configs.base import (
    Config,
    UserError,
    check_encodable,
    escaped,
    setting,
)
from stacked_rnn.configs.tasks import TASKS


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
