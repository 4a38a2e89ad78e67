"""Settings of all commands but train."""

import dataclasses
import re

from stacked_rnn.configs import search_space
from stacked_rnn.configs.base import (
    Config,
    UserError,
    check_encodable,
    setting,
    unescaped,
)
from stacked_rnn.configs.decoding import MAX_NEW_TOKENS

MOST_DRAWN = 4  # texts whose attention is drawn


@dataclasses.dataclass(frozen=True)
class TuneConfig(Config):
    """The search."""

    search: tuple[str, ...] = setting(
        (),
        "Flags of train.py to vary, with their values, separated by spaces: a "
        "list, units=128,256 or residual=true,false; a range, dropout=0..0.5, "
        "whose ends belong to it; a range in steps, units=64..256..64; and "
        "with log: a range in which each factor counts the same, "
        "learning_rate=log:0.001..0.01. May be repeated.",
    )
    algorithm: str = setting(
        "random",
        "How to choose the values: random draws them; hyperband trains many "
        "trials for a few epochs and the best of them longer, up to --epochs.",
        choices=("random", "hyperband"),
    )
    minutes: float = setting(
        30.0,
        "Time limit in minutes for all trials together. A larger one continues "
        "a search that has ended.",
        minimum=0.0,
    )
    tune_dir: str = setting(
        "",
        "Directory of the search: its trials, trials.csv, trials.png and "
        "best.flags (empty: runs/tune-CORPUS).",
        is_path=True,
    )

    def __post_init__(self):
        super().__post_init__()
        names = {dimension.name for dimension in self.space}
        if self.algorithm == "hyperband" and "epochs" in names:
            raise UserError(
                "--search: --algorithm=hyperband chooses the epochs itself: "
                "give --epochs, their maximum"
            )

    @property
    def space(self) -> tuple[search_space.Dimension, ...]:
        """The values to try, one `Dimension` per setting."""
        return search_space.parse(" ".join(self.search))


@dataclasses.dataclass(frozen=True)
class SavedModelConfig(Config):
    """The exported model to use."""

    saved_model: str = setting(
        "",
        "Directory of an exported model: one version, or the parent of several "
        "(the highest is used); or that of a run, a .zip archive of a model, "
        "or hf://USER/NAME on the Hugging Face Hub. Empty: the newest model "
        "under saved_models/ that this command can use.",
        is_path=True,
    )


@dataclasses.dataclass(frozen=True)
class GenerateConfig(Config):
    """Prompts, beam search and output."""

    prompt: tuple[str, ...] = setting(
        (), "Text to continue; may be repeated. Default: begin a new text."
    )
    prompts_file: str = setting(
        "",
        "File with one prompt per line, any number of them; may be gzipped, a "
        "pipe, or - for standard input.",
    )
    interactive: bool = setting(
        False,
        "Write a text in turns with the model: it continues after each line "
        "that you enter, even an empty one, until the end of input (Ctrl-D).",
    )
    num_samples: int = setting(
        1,
        "Number of continuations per prompt: drawn with seed, seed + 1 and so "
        "on, or the best that beam search finds.",
        minimum=1,
    )
    num_beams: int = setting(
        1,
        "Number of beams: above 1, search for the likeliest continuations "
        "instead of drawing tokens.",
        minimum=1,
        maximum=1000,
    )
    length_penalty: float = setting(
        1.0,
        "Exponent of the length when beam search compares finished texts "
        "(ended by a stop string or an end-of-text token) by log p / length ** "
        "length_penalty: 0 prefers short texts, 1 compares the mean log p per "
        "token.",
        minimum=0.0,
        maximum=4.0,
    )
    stop: tuple[str, ...] = setting(
        (),
        "End a text before this string; may be repeated. \\n, \\t, \\r, \\s "
        "and \\\\ mean a line break, a tab, a carriage return, a space and a "
        "backslash.",
    )
    stream: bool | None = setting(
        None,
        "Print a single text as it is generated. Default: only on a terminal.",
    )
    output: str = setting(
        "text",
        "Format of the output: text; jsonl, one JSON object per line with "
        "prompt, text, seed, finish_reason and mean_log_prob; or html, a page "
        "that colours each character by its surprisal (with "
        "--max_new_tokens=0, the prompt alone).",
        choices=("text", "jsonl", "html"),
    )

    def __post_init__(self):
        super().__post_init__()
        for string in self.stop:
            check_encodable("stop", string)
            if not string:
                raise UserError(
                    "--stop=: an empty string would end every text at once: "
                    "leave it out"
                )
        if self.num_beams == 1:
            return
        if self.num_samples > self.num_beams:
            raise UserError(
                f"--num_samples={self.num_samples}: beam search finds at most "
                f"--num_beams={self.num_beams} texts"
            )
        if self.interactive or self.stream:
            raise UserError(
                f"--{'interactive' if self.interactive else 'stream'}: "
                "beam search has no text to show before its end: leave out "
                f"--num_beams={self.num_beams}"
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings of `stop`, with their escapes replaced."""
        return tuple(map(unescaped, self.stop))

    @property
    def use_beam_search(self) -> bool:
        """Whether to search for texts instead of drawing their tokens."""
        return self.num_beams > 1


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """The text to score."""

    text: str = setting(
        "",
        "Text to score: a file, a directory, a glob in quotes, or - for "
        "standard input, in the formats that --corpus of train.py takes for "
        "the same task.",
    )
    text_field: str = setting(
        "text", "Classifiers only: column or field with the text."
    )
    label_field: str = setting(
        "label", "Classifiers only: column or field with the label."
    )
    label_separator: str = setting(
        ",", "Multi-label classifiers only: string between the labels."
    )
    source_field: str = setting(
        "source", "Seq2seq only: column or field with the text to rewrite."
    )
    target_field: str = setting(
        "target", "Seq2seq only: column or field with the expected output."
    )
    temperature: float = setting(
        1.0,
        "Language models only: divide the logits by this; a validation text "
        "may be a little more likely with 0.9 to 1.1. Not a text to judge by.",
        minimum=0.01,
    )
    dynamic_rate: float = setting(
        0.0,
        "Language models only: let the model learn from the text, each stretch "
        "after it is scored (dynamic evaluation): the learning rate, such as "
        "0.0001; needs --training_text (0: off).",
        minimum=0.0,
    )
    dynamic_decay: float = setting(
        0.002,
        "With --dynamic_rate: how strongly each step draws the weights back to "
        "those of the trained model.",
        minimum=0.0,
    )
    dynamic_window: int = setting(
        20, "With --dynamic_rate: tokens per stretch.", minimum=1
    )
    training_text: str = setting(
        "",
        "With --dynamic_rate: the text that the model was trained on, or a "
        "similar one; the size of the gradients is measured on it.",
    )
    cache_size: int = setting(
        0,
        "Language models only: number of last tokens that a neural cache "
        "holds, such as 500: tokens that followed on a similar state become "
        "more likely; for models of words (0: off).",
        minimum=0,
    )
    cache_weight: float = setting(
        0.1,
        "With --cache_size: share of the cache in each probability.",
        minimum=0.0,
        below=1.0,
    )
    cache_flatness: float = setting(
        0.5,
        "With --cache_size: how much more similar states count, theta in the "
        "paper.",
        minimum=0.0,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dynamic_rate and not self.training_text:
            raise UserError(
                "--dynamic_rate needs --training_text: name the text that the "
                "model was trained on"
            )

    @property
    def is_adaptive(self) -> bool:
        """Whether a language model is to adapt to the text."""
        return bool(
            self.dynamic_rate or self.cache_size or self.temperature != 1
        )


@dataclasses.dataclass(frozen=True)
class PredictConfig(Config):
    """The texts, and how to print the predictions."""

    text: tuple[str, ...] = setting((), "Text to read; may be repeated.")
    texts_file: str = setting(
        "",
        "File with one text per line, any number of them; may be gzipped, a "
        "pipe, or - for standard input.",
    )
    output: str = setting(
        "text",
        "Format of the output: text, one line per text (a classifier's label, "
        "probability and text, separated by tabs, or the output of a seq2seq "
        r"model; line breaks and tabs within are written as \n and \t), or "
        "jsonl, one JSON object per line with text, label and scores, or with "
        "text, output and score.",
        choices=("text", "jsonl"),
    )
    attention: str = setting(
        "",
        "Seq2seq only: PNG file for a drawing of the attention, where the "
        f"model looked while it wrote, for the first {MOST_DRAWN} texts.",
        is_path=True,
    )


@dataclasses.dataclass(frozen=True)
class InspectConfig(Config):
    """The text to read, and the page to write."""

    text: str = setting(
        "",
        "Text that the model reads: a file, a directory, a glob in quotes, or "
        "- for standard input.",
    )
    characters: int = setting(
        3000,
        "Number of characters from the beginning of the text to read.",
        minimum=2,
    )
    units: str = setting(
        "",
        "Units to show, LAYER:UNIT, both counted from 1 and separated by "
        "commas, as in 1:37,2:5 (empty: those that follow features of the text "
        "best).",
    )
    output: str = setting(
        "",
        "File to write, .html (empty: in this directory, under the name of the "
        "model, as in pydoc-inspect.html).",
        is_path=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.units and not re.fullmatch(
            r"[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*", self.units
        ):
            raise UserError(
                f"--units={self.units}: write LAYER:UNIT, separated by commas, "
                "as in --units=1:37,2:5"
            )
        if self.output and not self.output.endswith(".html"):
            raise UserError(
                f"--output={self.output}: the name must end in .html"
            )

    def unit_columns(self, num_layers, num_units) -> list[int]:
        """Returns the columns of `units` among all units, layer after layer.

        Raises:
            UserError: the model does not have such a unit.
        """
        columns = []
        for pair in self.units.split(",") if self.units else ():
            layer, unit = map(int, pair.split(":"))
            if not (1 <= layer <= num_layers and 1 <= unit <= num_units):
                raise UserError(
                    f"--units={pair}: the model has layers 1 to {num_layers}, "
                    f"each with units 1 to {num_units}"
                )
            columns.append((layer - 1) * num_units + unit - 1)
        return list(dict.fromkeys(columns))


@dataclasses.dataclass(frozen=True)
class ExportConfig(Config):
    """The file to write."""

    format: str = setting(
        "onnx",
        "Format of the file: onnx, for ONNX Runtime (.onnx); litert, for "
        "LiteRT, formerly TensorFlow Lite (.tflite); html, one page that "
        "generates in a browser without a network (.html); pytorch, the "
        "weights for nn.GRU, nn.LSTM or nn.RNN (.safetensors); or keras, the "
        "Keras model (.keras).",
        choices=("onnx", "litert", "html", "pytorch", "keras"),
    )
    weights: str = setting(
        "auto",
        "Number format of the weights. float16: half the size, almost the same "
        "loss. int8: a quarter of the size; --text measures what it costs. "
        "auto: int8 in a page (html), float32 in the other formats.",
        choices=("auto", "float32", "float16", "int8"),
    )
    output: str = setting(
        "",
        "File to write, .onnx, .tflite, .html, .safetensors or .keras (empty: "
        "in this directory, under the name of the model).",
        is_path=True,
    )
    text: str = setting(
        "",
        "Text file to score with the written file and with the SavedModel, "
        "which shows what smaller weights cost.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.format not in ("pytorch", "keras"):
            return
        if self.weights not in ("auto", "float32"):
            raise UserError(
                f"--weights={self.weights}: --format={self.format} writes "
                "float32"
            )
        if self.text:
            raise UserError(
                f"--text={self.text}: no effect with --format={self.format}, "
                "which writes the weights as they are: leave it out"
            )


@dataclasses.dataclass(frozen=True)
class ServeConfig(Config):
    """The models to serve, who may use them, and limits."""

    saved_model: str = setting(
        "",
        "Directory of an exported model: one version, the parent of several "
        "(the highest is served, and a new one as soon as it is there), or of "
        "several models, each served under its name; or that of a run, a .zip "
        "archive of a model, or hf://USER/NAME on the Hugging Face Hub. Empty: "
        "saved_models.",
        is_path=True,
    )
    model_name: str = setting(
        "", "Name of a single model (empty: that of its directory)."
    )
    host: str = setting(
        "127.0.0.1",
        "Address or name to listen on; localhost means both its IPv4 and its "
        "IPv6 address. 0.0.0.0 (or ::) lets other machines in: then set "
        "--api_keys_file.",
    )
    port: int = setting(
        8501, "Port to listen on (0: any free one).", minimum=0, below=65536
    )
    api_keys_file: str = setting(
        "",
        "File with one API key per line; # begins a comment. All but the page, "
        "probes and metrics then needs a key, as Authorization: Bearer KEY "
        "(empty: no keys).",
        is_path=True,
    )
    chat_template: str = setting(
        "",
        "File with a Jinja template, as Hugging Face has them, that makes a "
        "text of the messages of a chat, for models without a template of "
        "their own (empty: the last message of the user is continued).",
        is_path=True,
    )
    max_concurrent_per_key: int = setting(
        0,
        "Maximum number of requests per API key at the same time; further ones "
        "get status 429 (0: no limit).",
        minimum=0,
    )
    max_per_minute_per_key: int = setting(
        0,
        "Maximum number of requests per API key and minute, which may all come "
        "at once; further ones get status 429 (0: no limit).",
        minimum=0,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Host name that requests may use for this server, such as "
        "models.example.org; may be repeated. Requests for other hosts are "
        "refused. Default: on a loopback address localhost and IP addresses "
        "only, otherwise any.",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "Origin whose web pages may use the server, such as "
        "https://example.org, or * for all; may be repeated. Default: no other "
        "site's.",
    )
    max_tokens: int = setting(
        4096,
        "Maximum of new tokens that a request may ask for.",
        minimum=1,
        maximum=MAX_NEW_TOKENS,
    )
    max_waiting: int = setting(
        1024,
        "Maximum number of sequences that wait for one of the slots of a model "
        "(64, or 63 with three cores; a request has one per prompt and per n); "
        "further requests get status 429.",
        minimum=1,
    )
    max_body_bytes: int = setting(
        1_000_000, "Maximum size of a request's body, in bytes.", minimum=1
    )
    request_seconds: float = setting(
        300.0, "Maximum time per request, in seconds.", minimum=0.0
    )
    drain_seconds: float = setting(
        30.0,
        "How long running requests may continue after SIGTERM or Ctrl-C, in "
        "seconds.",
        minimum=0.0,
    )
    poll_seconds: float = setting(
        1.0, "How often to look for new versions, in seconds.", minimum=0.01
    )
    max_loaded: int = setting(
        0,
        "Maximum number of models in memory; the others are loaded when a "
        "request asks for them, in place of the least recently used one (0: no "
        "limit).",
        minimum=0,
    )
    prefix_cache_mib: int = setting(
        64,
        "Maximum memory per model, in MiB, for the states after beginnings of "
        "texts, so that a prompt that begins like one before is read from "
        "there on (0: none).",
        minimum=0,
    )
    jit_compile: bool = setting(
        True,
        "Compile each model with XLA after it is loaded, which takes one core "
        "half a minute and makes the model several times as fast.",
    )
    access_log: bool = setting(
        True, "Write one line of JSON per request to standard error."
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_concurrent_per_key", "max_per_minute_per_key"):
            if getattr(self, name) and not self.api_keys_file:
                raise UserError(
                    f"--{name} counts requests per key: set --api_keys_file"
                )
