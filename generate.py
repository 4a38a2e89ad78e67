"""Generates text from an exported model, with no need of the training data.

  python generate.py --prompt="The "
  python generate.py --prompt="The " --temperature=0.5 --num_samples=3
  python generate.py --prompts_file=prompts.txt --output=jsonl

Standard output holds the texts alone; all else goes to standard error.
"""

import dataclasses
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
    prompts_file: str = setting("", "File with one prompt a line.")
    num_samples: int = setting(
        1, "Continuations of each prompt, by seeds that count up.", minimum=1
    )
    stop: tuple[str, ...] = setting(
        (), "End a text before this string; may be repeated."
    )
    output: str = setting(
        "text",
        "text, or jsonl: one JSON object a line, with prompt, text, seed, "
        "finish_reason and mean_log_prob.",
        choices=("text", "jsonl"),
    )


def main(where, config, sampling):
    """Prompts in, texts out."""
    from stacked_rnn import inference

    prompts = read_prompts(config)
    model = inference.load(where.saved_model)
    command_line.warn_of_unknown_parts(model.tokenizer.unknown_parts(prompts))
    several = len(prompts) * config.num_samples > 1
    for sample in model.generate(
        prompts, sampling, config.stop, config.num_samples
    ):
        if config.output == "jsonl":
            print(json.dumps(dataclasses.asdict(sample), ensure_ascii=False))
        else:
            if several:
                print(f"--- seed {sample.seed}", file=sys.stderr)
            print(sample.prompt + sample.text, flush=True)


def read_prompts(config) -> list[str]:
    """The prompts of --prompt and --prompts_file; at least one."""
    prompts = list(config.prompt)
    if config.prompts_file:
        try:
            with open(config.prompts_file, encoding="utf-8") as file:
                prompts += file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--prompts_file={config.prompts_file}: "
                f"{getattr(error, 'strerror', None) or 'not UTF-8 text'}"
            ) from error
    # A command line may hold bytes that are not UTF-8.
    return [
        prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for prompt in prompts or [""]
    ]


def run():
    """Console entry point."""
    command_line.run(
        main, configs.SavedModelConfig, GenerateConfig, SamplingConfig
    )


if __name__ == "__main__":
    run()
