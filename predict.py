"""Labels texts with an exported classifier.

  python predict.py --text="an unexpected delight"
  python predict.py --texts_file=reviews.txt --output=jsonl > labels.jsonl

For each text a line with its label, the probability of that, and the text.
"""

import contextlib
import dataclasses
import json
import sys

from stacked_rnn import command_line, configs, console
from stacked_rnn.configs import UserError, setting


@dataclasses.dataclass(frozen=True)
class PredictConfig(configs.Config):
    """Which texts, and how to print what they are."""

    text: tuple[str, ...] = setting((), "Text to label; may be repeated.")
    texts_file: str = setting(
        "", "File with one text a line, any number of them."
    )
    output: str = setting(
        "text",
        "text: label, probability and text, with tabs between them; jsonl: "
        "one JSON object a line, with text, label and scores.",
        choices=("text", "jsonl"),
    )


def main(where, config):
    """Texts in, labels out."""
    from stacked_rnn import prediction

    texts = console.Lines(config.text, config.texts_file, "texts_file")
    if not len(texts):
        raise UserError("--text or --texts_file is missing: what to label?")
    model = prediction.load(where.saved_model)
    num_empty = 0
    with contextlib.ExitStack() as stack:
        progress = None
        if not sys.stdout.isatty():
            progress = stack.enter_context(
                command_line.progress_bar(len(texts), "text")
            )
        for number, one in enumerate(model.predict(texts), start=1):
            num_empty += not one.text.strip()
            print(format_prediction(one, model.several_labels, config.output))
            if progress:
                progress(number)
    if num_empty:
        print(
            f"warning: {num_empty} text(s) are empty: their labels mean "
            "nothing",
            file=sys.stderr,
        )


def format_prediction(one, several_labels, output) -> str:
    """A line on a text."""
    if output == "jsonl":
        return json.dumps(
            {
                "text": one.text,
                "label": one.labels if several_labels else one.labels[0],
                "scores": one.scores,
            },
            ensure_ascii=False,
        )
    labels = ",".join(one.labels)
    scores = ",".join(f"{one.scores[label]:.3f}" for label in one.labels)
    return f"{labels}\t{scores}\t{one.text}"


def run():
    """Console entry point."""
    command_line.run(main, configs.SavedModelConfig, PredictConfig)


if __name__ == "__main__":
    run()
