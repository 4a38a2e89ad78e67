"""Generates text from an exported model, with no need of the training data.

  python generate.py --prompt="The "
  python generate.py --prompt="The " --temperature=0.5 --num_samples=3
  python generate.py --interactive
  python generate.py --prompts_file=prompts.txt --output=jsonl
  python generate.py --prompt="The " --output=html > surprise.html
  python generate.py --prompt="The " --num_beams=8 --stop=.

Standard output holds the texts alone; all else goes to standard error.
"""

import contextlib
import itertools
import json
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags, texts
from stacked_rnn.configs import UserError
from stacked_rnn.reports import surprisal_html
from stacked_rnn.utils import terminal


def main(where, config, sampling):
    """Prompts in, texts out."""
    from stacked_rnn import inference

    check_use(config, sampling, flags.given_flags())
    nothing = not (config.prompt or config.prompts_file)
    prompts = texts.Lines(
        ("",) if nothing else config.prompt,
        config.prompts_file,
        "prompts_file",
    )
    model = inference.load(where.saved_model, "language_model")
    stop = config.stop_strings
    warn_of_stop_strings(model.tokenizer, stop)
    if config.interactive:
        conversation = inference.Conversation(model, sampling, stop)
        interact(conversation, model.tokenizer)
        return
    texts.warn_of_unknown_parts(
        model.tokenizer, itertools.islice(prompts, 1000)
    )
    count = len(prompts) * config.num_samples
    if _streams(config, count):
        (prompt,) = prompts
        conversation = inference.Conversation(model, sampling, stop)
        conversation.read(prompt)
        print(prompt, end="")
        show(conversation)
        return
    if config.searches:
        found = model.beam_search(
            prompts,
            sampling,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            stop=stop,
            num_samples=config.num_samples,
        )
    else:
        found = model.generate(prompts, sampling, stop, config.num_samples)
    if config.output == "html":
        print(surprisal_html.page(list(map(model.surprisals, found))), end="")
    else:
        print_texts(found, config, count)


def _streams(config, count) -> bool:
    """Whether `count` texts are printed as they come: one at most."""
    asked = sys.stdout.isatty() if config.stream is None else config.stream
    return (
        asked and count == 1 and config.output == "text" and not config.searches
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
        names = ", ".join(f"--{name}" for name in sorted(without_use))
        raise UserError(
            f"{names}: of no use with --num_beams={config.num_beams}, which "
            + ("draws nothing" if config.searches else "searches nothing")
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
        texts.warn_of_unknown_parts(tokenizer, [line])
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
            progress = stack.enter_context(terminal.progress_bar(count, "text"))
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


def run():
    """Console entry point."""
    flags.run(
        main,
        configs.SavedModelConfig,
        configs.GenerateConfig,
        configs.SamplingConfig,
    )
