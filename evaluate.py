"""Scores a text with an exported model: one JSON object on standard output.

  python evaluate.py --text=held_out.txt

The state is carried from the first character of the file to the last, and
every token but the first is predicted once.
"""

import dataclasses
import json

from stacked_rnn import command_line, configs
from stacked_rnn.configs import UserError, setting


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(configs.Config):
    """Which text."""

    text: str = setting("", "File to score.")


def main(where, config):
    """A file in, its score out."""
    from stacked_rnn import inference

    if not config.text:
        raise UserError("--text=FILE is missing: which text to score?")
    text = command_line.read_file("text", config.text)
    model = inference.load(where.saved_model)
    print(json.dumps(model.evaluate(text)))


def run():
    """Console entry point."""
    command_line.run(main, configs.SavedModelConfig, EvaluateConfig)


if __name__ == "__main__":
    run()
