"""What generate.py is asked for, reads and prints; no model in here.

`Lines` are read by predict.py too.
"""

import contextlib
import dataclasses
import itertools
import json
import sys

from stacked_rnn import command_line, configs
from stacked_rnn.configs import UserError, setting
from stacked_rnn.utils import text_files


@dataclasses.dataclass(frozen=True)
class GenerateConfig(configs.Config):
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
            configs.check_encodable("stop", string)
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
        return tuple(map(configs.unescaped, self.stop))

    @property
    def searches(self) -> bool:
        """Whether beam search is asked for, which draws nothing."""
        return self.num_beams > 1

    def streams(self, count) -> bool:
        """Whether `count` texts are printed as they come: one at most."""
        asked = sys.stdout.isatty() if self.stream is None else self.stream
        return (
            asked and count == 1 and self.output == "text" and not self.searches
        )


def check_use(config, sampling, given) -> None:
    """Raises for flags that would have no effect together.

    Args:
        config: a `GenerateConfig`.
        sampling: a `SamplingConfig`.
        given: the names of the flags on the command line.
    """
    if config.searches and not sampling.max_new_tokens:
        raise UserError("--max_new_tokens=0: beam search needs at least 1")
    without_use = given & (
        {"temperature", "top_k", "top_p", "repetition_penalty"}
        if config.searches
        else {"length_penalty"}
    )
    if without_use:
        flags = ", ".join(f"--{name}" for name in sorted(without_use))
        raise UserError(
            f"{flags}: of no use with --num_beams={config.num_beams}, which "
            + ("draws nothing" if config.searches else "searches nothing")
        )


class Lines:
    """Texts from the command line, then those of a file, one a line.

    The file is read line by line, each time anew.

    Args:
        given: strings.
        path: of the file, or "-"; empty: there is none.
        flag: that names it.

    Raises:
        UserError: the file is not there, no text, or empty.
    """

    def __init__(self, given, path, flag):
        self._given, self._flag = given, flag
        self._files = text_files.find(path, flag) if path else []
        self._length = sum(1 for _ in self._lines())
        if path and self._length == len(given):
            raise UserError(f"--{flag}={path}: there is no line in it")

    def __len__(self):
        return self._length

    def __iter__(self):
        for line in self._lines():
            # A command line may hold bytes that are not UTF-8.
            line = line.encode("utf-8", "surrogateescape")
            yield line.decode("utf-8", "replace")

    def _lines(self):
        yield from self._given
        for file in self._files:
            yield from text_files.read_lines(file, self._flag)


def warn_of_unknown_parts(tokenizer, prompts) -> None:
    """One line on standard error, if any."""
    command_line.warn_of_unknown_parts(tokenizer.unknown_parts(list(prompts)))


def warn_of_unknown_texts(tokenizer, texts) -> None:
    """Says of how many texts a vocabulary knows nothing at all."""
    if tokenizer.unknown_id is None:
        return
    count, texts = 0, iter(texts)
    while batch := list(itertools.islice(texts, 1000)):
        for token_ids in tokenizer.tokenize(batch):
            token_ids = token_ids.numpy()
            count += bool(token_ids.size) and bool(
                (token_ids == tokenizer.unknown_id).all()
            )
    if count:
        print(
            f"warning: nothing in {count:,} text(s) is known to the model: "
            "what is said of them means nothing",
            file=sys.stderr,
        )


def warn_of_stop_strings(tokenizer, strings) -> None:
    """Says which stop strings no text of a model can hold, a line each."""
    for string in strings:
        if missing := tokenizer.missing_characters(string):
            print(
                f"warning: --stop={string!r} can never come: the model's "
                f"vocabulary lacks {' '.join(map(repr, missing))}",
                file=sys.stderr,
            )


def interact(conversation, tokenizer) -> None:
    """Lines in, continuations out, until the end of input."""
    if sys.stdin is None:
        raise UserError("--interactive: standard input is closed")
    if sys.stdin.isatty():
        print(
            "Enter a beginning; an empty line: go on; Ctrl-D: end.",
            file=sys.stderr,
        )
    for line in _entered():
        warn_of_unknown_parts(tokenizer, [line])
        conversation.read(line)
        show(conversation)


def _entered():
    """The lines of standard input, each as soon as it is there."""
    try:
        for number, line in enumerate(sys.stdin):
            line.encode()  # where the locale let bytes through as they are
            line = line.removesuffix("\n").removesuffix("\r")
            yield line if number else line.removeprefix("\ufeff")
    except UnicodeError as error:
        raise UserError("--interactive: a line is not UTF-8 text") from error


def show(conversation) -> None:
    """Prints the model's turn as it comes, whole characters at a time."""
    for piece in conversation.write():
        print(piece, end="", flush=True)
    print()


def print_texts(continuations, config, count) -> None:
    """Prints finished texts as they come, or a JSON line for each.

    Args:
        continuations: iterable of `Continuation`s.
        config: a `GenerateConfig`.
        count: how many there are at most.
    """
    with contextlib.ExitStack() as stack:
        progress = None
        if config.prompts_file and not sys.stdout.isatty():
            progress = stack.enter_context(
                command_line.progress_bar(count, "text")
            )
        for number, continuation in enumerate(continuations, start=1):
            if config.output == "jsonl":
                print(_as_json(continuation))
            else:
                if count > 1 and progress is None:
                    title = (
                        f"text {number}"
                        if config.searches
                        else f"seed {continuation.seed}"
                    )
                    print(f"--- {title}", file=sys.stderr)
                print(continuation.prompt + continuation.text)
            if progress is not None:
                progress(number)


def _as_json(continuation):
    return json.dumps(
        {
            "prompt": continuation.prompt,
            "text": continuation.text,
            "seed": continuation.seed,
            "finish_reason": continuation.finish_reason,
            "mean_log_prob": continuation.mean_log_prob,
        },
        ensure_ascii=False,
    )
