"""Generates text with an exported language model.

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


def main(saved_model_config, config, sampling):
    """Continues the prompts and prints the texts."""
    from stacked_rnn import inference

    check_flags(config, sampling)
    has_prompt = config.prompt or config.prompts_file
    prompts = texts.Lines(
        config.prompt if has_prompt else ("",),
        config.prompts_file,
        "prompts_file",
    )
    count = len(prompts) * config.num_samples
    is_streamed = _is_streamed(config, count)
    if config.stream and not is_streamed:
        raise UserError(
            "--stream: only a single text is printed as it is generated: leave "
            "it out, or ask for one prompt, one sample and --output=text"
        )
    model = inference.load(saved_model_config.saved_model, "language_model")
    stop = config.stop_strings
    warn_of_stop_strings(model.tokenizer, stop)
    if config.interactive:
        conversation = inference.Conversation(model, sampling, stop)
        interact(conversation, model.tokenizer)
        return
    first = [*itertools.islice(prompts, 1000)]
    terminal.warn_of_unknown_parts(model.tokenizer.unknown_parts(first))
    if is_streamed:
        (prompt,) = prompts
        conversation = inference.Conversation(model, sampling, stop)
        conversation.read(prompt)
        print(prompt, end="")
        show(conversation)
        return
    if config.use_beam_search:
        continuations = model.likeliest_continuations(
            prompts,
            sampling,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            stop=stop,
            num_samples=config.num_samples,
        )
    else:
        continuations = model.continuations(
            prompts, sampling, stop, config.num_samples
        )
    if config.output == "html":
        surprisals = list(map(model.surprisals, continuations))
        print(surprisal_html.page(surprisals), end="")
    else:
        print_texts(continuations, config, count)


def _is_streamed(config, count) -> bool:
    """Whether to print the text as it is generated: only a single one is."""
    is_wanted = sys.stdout.isatty() if config.stream is None else config.stream
    is_possible = config.output == "text" and not config.use_beam_search
    return is_wanted and is_possible and count == 1


def check_flags(config, sampling) -> None:
    """Raises a `UserError` for flags that have no effect together.

    Args:
        config: a `GenerateConfig`.
        sampling: a `SamplingConfig`.
    """
    if config.use_beam_search:
        if not sampling.max_new_tokens:
            raise UserError("--max_new_tokens=0: beam search needs at least 1")
        flags.refuse_given(
            {"temperature", "top_k", "top_p", "repetition_penalty", "seed"},
            f"no effect with --num_beams={config.num_beams}, which draws "
            "nothing",
        )
    else:
        flags.refuse_given(
            {"length_penalty"},
            "no effect with --num_beams=1, which does not search",
        )
    if config.interactive:
        flags.refuse_given(
            {"prompt", "prompts_file", "num_samples", "output", "stream"},
            "no effect with --interactive, which continues the lines that you "
            "enter",
        )


def warn_of_stop_strings(tokenizer, strings) -> None:
    """Warns of each stop string that the model can never generate."""
    for string in strings:
        if missing := tokenizer.missing_characters(string):
            print(
                f"warning: --stop={string!r} never occurs: the model's "
                f"vocabulary lacks {' '.join(map(repr, missing))}",
                file=sys.stderr,
            )


def interact(conversation, tokenizer) -> None:
    """Continues each line of standard input, until the end of input."""
    if sys.stdin is None:
        raise UserError("--interactive: standard input is closed")
    if sys.stdin.isatty():
        print(
            "Enter some text; an empty line: continue; Ctrl-D: end.",
            file=sys.stderr,
        )
    for line in _entered_lines():
        terminal.warn_of_unknown_parts(tokenizer.unknown_parts([line]))
        conversation.read(line)
        show(conversation)


def _entered_lines():
    """Yields the lines of standard input, each as soon as it is entered."""
    try:
        for number, line in enumerate(sys.stdin):
            line.encode()  # fails where the locale let other bytes through
            line = line.removesuffix("\n").removesuffix("\r")
            yield line if number else line.removeprefix("\ufeff")
    except UnicodeError as error:
        raise UserError("--interactive: a line is not UTF-8 text") from error


def show(conversation) -> None:
    """Prints the model's turn while it is generated."""
    for piece in conversation.write():
        print(piece, end="", flush=True)
    print()


def print_texts(continuations, config, count) -> None:
    """Prints texts, or JSON lines, as they are finished.

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
                        if config.use_beam_search
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
