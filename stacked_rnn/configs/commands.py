"""What the commands ask for, besides what they share with training."""

import dataclasses

from stacked_rnn.configs.base import (
    Config,
    UserError,
    check_encodable,
    setting,
    unescaped,
)

MOST_DRAWN = 4  # texts of a picture of attention


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
class GenerateConfig(Config):
    """What to continue, and how to print it."""

    prompt: tuple[str, ...] = setting(
        (), "Text to continue; may be repeated. None: begins a new text."
    )
    prompts_file: str = setting(
        "",
        "File with one prompt a line, any number of them; may be gzipped, a "
        "pipe, or - for standard input.",
    )
    interactive: bool = setting(
        False,
        "Write a text in turn with the model: it goes on after each line that "
        "you enter (an empty one: just go on), until the end of input, Ctrl-D.",
    )
    num_samples: int = setting(
        1,
        "Continuations of each prompt, by seeds that count up, or the best "
        "that beam search finds.",
        minimum=1,
    )
    num_beams: int = setting(
        1,
        "Draw nothing: search for the likeliest continuation with so many at "
        "a time (1: draw).",
        minimum=1,
        maximum=1000,
    )
    length_penalty: float = setting(
        1.0,
        "Beam search compares log p / length ** length_penalty of texts that "
        "have come to an end (a stop string, an end-of-text token): 0 prefers "
        "short ones, 1 the mean over the tokens.",
        minimum=0.0,
        maximum=4.0,
    )
    stop: tuple[str, ...] = setting(
        (),
        "End a text before this string; may be repeated. \\n, \\t, \\r and "
        "\\\\ are a line break, a tab, a carriage return and a backslash.",
    )
    stream: bool | None = setting(
        None,
        "Print a single text as it is generated. When left out: on a terminal.",
    )
    output: str = setting(
        "text",
        "text; jsonl: one JSON object a line, with prompt, text, seed, "
        "finish_reason and mean_log_prob; html: a page that colours each "
        "character by its surprise (with --max_new_tokens=0: those of the "
        "prompt alone).",
        choices=("text", "jsonl", "html"),
    )

    def __post_init__(self):
        super().__post_init__()
        for string in self.stop:
            check_encodable("stop", string)
            if not string:
                raise UserError(
                    "--stop=: an empty string is before every text: leave it "
                    "out"
                )
        if self.num_beams == 1:
            return
        if self.num_samples > self.num_beams:
            raise UserError(
                f"--num_samples={self.num_samples}: beam search finds no more "
                f"than --num_beams={self.num_beams}"
            )
        if self.interactive or self.stream:
            raise UserError(
                f"--{'interactive' if self.interactive else 'stream'}: "
                "beam search knows a text only when it is whole: leave "
                f"out --num_beams={self.num_beams}"
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """What ends a text, itself."""
        return tuple(map(unescaped, self.stop))

    @property
    def searches(self) -> bool:
        """Whether beam search is asked for, which draws nothing."""
        return self.num_beams > 1


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Which text."""

    text: str = setting(
        "",
        "Text to score: what --corpus of train.py takes for the same task, a "
        "file, a directory, a glob in quotes, - for standard input.",
    )
    text_field: str = setting(
        "text", "Of a classifier: the column, or field, with the text."
    )
    label_field: str = setting(
        "label", "Of a classifier: the column, or field, with the label."
    )
    label_separator: str = setting(
        ",", "Of a classifier of several labels: what stands between them."
    )
    source_field: str = setting(
        "source", "Of seq2seq: the column, or field, with the text to read."
    )
    target_field: str = setting(
        "target", "Of seq2seq: the column, or field, with what to make of it."
    )


@dataclasses.dataclass(frozen=True)
class PredictConfig(Config):
    """Which texts, and how to print what is said of them."""

    text: tuple[str, ...] = setting((), "Text to read; may be repeated.")
    texts_file: str = setting(
        "",
        "File with one text a line, any number of them; may be gzipped, a "
        "pipe, or - for standard input.",
    )
    output: str = setting(
        "text",
        "text: a line for each, of a classifier label, probability and text, "
        "with tabs between them, of a seq2seq model what it makes of the text, "
        r"the line breaks and tabs of these written as \n and \t; "
        "jsonl: one JSON object a line, with text, label and scores, or with "
        "text, output and score.",
        choices=("text", "jsonl"),
    )
    attention: str = setting(
        "",
        "Of seq2seq: draw where the model looked while it wrote, for the first "
        f"{MOST_DRAWN} texts, into this PNG.",
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig(Config):
    """What to write."""

    format: str = setting(
        "onnx",
        "onnx, for ONNX Runtime: a .onnx file; litert, for LiteRT (once "
        "TensorFlow Lite): a .tflite file.",
        choices=("onnx", "litert"),
    )
    weights: str = setting(
        "float32",
        "What the weights are kept as. float16: half the size, the loss all "
        "but the same. int8: a quarter of it; ask --text what it costs.",
        choices=("float32", "float16", "int8"),
    )
    output: str = setting(
        "",
        "File to write, .onnx or .tflite (empty: here, by the name of the "
        "model).",
    )
    text: str = setting(
        "",
        "File to score with what was written and with the SavedModel, so that "
        "the loss of smaller weights is known.",
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
        "Address to listen on, or a name: localhost has one of IPv4 and one of "
        "IPv6. 0.0.0.0 (or ::) lets other machines in: set --api_keys_file "
        "then.",
    )
    port: int = setting(
        8501, "Port to listen on (0: any that is free).", minimum=0, below=65536
    )
    api_keys_file: str = setting(
        "",
        "File with an API key a line, # before comments; requests under /v1 "
        "then need one, Authorization: Bearer KEY (empty: no keys).",
    )
    max_concurrent_per_key: int = setting(
        0,
        "Most requests of one API key at the same time; one beyond gets status "
        "429 (0: any number).",
        minimum=0,
    )
    max_per_minute_per_key: int = setting(
        0,
        "Most requests of one API key in a minute, which it may send at once; "
        "one beyond gets status 429 (0: any number).",
        minimum=0,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "A name that the server is reached by, such as models.example.org "
        "(repeat for more); requests for others are refused. None: on a "
        "loopback address localhost and addresses only, elsewhere any.",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "An origin whose web pages may use the server, such as "
        "https://example.org (repeat for more, * for all; none: no other "
        "site's).",
    )
    max_tokens: int = setting(
        4096, "Most new tokens that a request may ask for.", minimum=1
    )
    max_waiting: int = setting(
        1024,
        "Most sequences waiting for one of the 64 slots of a model (a request "
        "has one per prompt and per n); a request beyond gets status 429.",
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

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_concurrent_per_key", "max_per_minute_per_key"):
            if getattr(self, name) and not self.api_keys_file:
                raise UserError(
                    f"--{name} counts requests by key: give --api_keys_file"
                )
