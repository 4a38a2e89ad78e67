"""Generates text from an exported model, with no need of the training data.

  python generate.py --prompt="The "
  python generate.py --prompt="The " --temperature=0.5 --num_samples=3
  python generate.py --interactive
  python generate.py --prompts_file=prompts.txt --output=jsonl
  python generate.py --prompt="The " --output=html > surprise.html

Standard output holds the texts alone; all else goes to standard error.
"""

import contextlib
import dataclasses
import itertools
import json
import sys

from stacked_rnn import command_line, configs
from stacked_rnn.configs import SamplingConfig, UserError, setting


@dataclasses.dataclass(frozen=True)
class GenerateConfig(configs.Config):
    """What to continue, and how to print it."""

    prompt: tuple[str, ...] = setting(
        (), "Text to continue; may be repeated. None: begins a new text."
    )
    prompts_file: str = setting(
        "", "File with one prompt a line, any number of them."
    )
    interactive: bool = setting(
        False,
        "Write a text in turn with the model: it goes on after each line that "
        "you enter (an empty one: just go on), until the end of input, Ctrl-D.",
    )
    num_samples: int = setting(
        1, "Continuations of each prompt, by seeds that count up.", minimum=1
    )
    stop: tuple[str, ...] = setting(
        (), "End a text before this string; may be repeated."
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


def main(where, config, sampling):
    """Prompts in, texts out."""
    from stacked_rnn import inference, surprise

    prompts = Prompts(config)
    model = inference.load(where.saved_model)
    if config.interactive:
        interact(inference.Conversation(model, sampling, config.stop), model)
        return
    warn_of_unknown_parts(model, itertools.islice(prompts, 1000))
    total = len(prompts) * config.num_samples
    streams = config.stream
    if streams is None:
        streams = sys.stdout.isatty()
    if streams and total == 1 and config.output == "text":
        (prompt,) = prompts
        text = inference.Conversation(model, sampling, config.stop)
        text.read(prompt)
        print(prompt, end="")
        show(text)
        return
    samples = model.generate(prompts, sampling, config.stop, config.num_samples)
    if config.output == "html":
        texts = [model.surprises(sample) for sample in samples]
        print(surprise.page(texts), end="")
        return
    with contextlib.ExitStack() as stack:
        progress = None
        if config.prompts_file and not sys.stdout.isatty():
            progress = stack.enter_context(
                inference.progress_bar(total, "text")
            )
        for number, sample in enumerate(samples, start=1):
            if config.output == "jsonl":
                print(as_json(sample))
            else:
                if total > 1 and progress is None:
                    print(f"--- seed {sample.seed}", file=sys.stderr)
                print(sample.prompt + sample.text)
            if progress is not None:
                progress(number)


def interact(text, model):
    """Lines in, continuations out, until the end of input."""
    if sys.stdin.isatty():
        print(
            "Enter a beginning; an empty line: go on; Ctrl-D: end.",
            file=sys.stderr,
        )
    for line in sys.stdin:
        line = line.rstrip("\n")
        warn_of_unknown_parts(model, [line])
        text.read(line)
        show(text)


def show(text):
    """Prints the model's turn as it comes, whole characters at a time."""
    for piece in text.write():
        print(piece, end="", flush=True)
    print()


def as_json(sample):
    """A line of --output=jsonl."""
    return json.dumps(
        {
            "prompt": sample.prompt,
            "text": sample.text,
            "seed": sample.seed,
            "finish_reason": sample.finish_reason,
            "mean_log_prob": sample.mean_log_prob,
        },
        ensure_ascii=False,
    )


def warn_of_unknown_parts(model, prompts):
    """One line on standard error, if any."""
    command_line.warn_of_unknown_parts(
        model.tokenizer.unknown_parts(list(prompts))
    )


class Prompts:
    """The prompts of --prompt, then those of --prompts_file; at least one.

    The file is read line by line, each time anew.
    """

    def __init__(self, config):
        self._given, self._file = config.prompt, config.prompts_file
        self._length = sum(1 for _ in self._lines())

    def __len__(self):
        return self._length

    def __iter__(self):
        for line in self._lines():
            # A command line may hold bytes that are not UTF-8.
            line = line.encode("utf-8", "surrogateescape")
            yield line.decode("utf-8", "replace")

    def _lines(self):
        yield from self._given
        if not self._file:
            if not self._given:
                yield ""
            return
        try:
            with open(self._file, encoding="utf-8") as file:
                for line in file:
                    yield line.removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--prompts_file={self._file}: "
                f"{getattr(error, 'strerror', None) or 'not UTF-8 text'}"
            ) from error


def run():
    """Console entry point."""
    command_line.run(
        main, configs.SavedModelConfig, GenerateConfig, SamplingConfig
    )


if __name__ == "__main__":
    run()
