"""Scores a text with an exported model: one JSON object on standard output.

  python evaluate.py --text=held_out.txt
  python evaluate.py --saved_model=saved_models/reviews --text=labelled.tsv

A language model reads the file from the first character to the last, the state
carried along, and predicts every token but the first once. A classifier reads
labelled texts, in the files that train.py takes.
"""

import dataclasses
import json

from stacked_rnn import command_line, configs
from stacked_rnn.configs import UserError, setting


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(configs.Config):
    """Which text."""

    text: str = setting(
        "", "File to score; of a classifier, what --corpus of train.py takes."
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


def main(where, config):
    """A file in, its score out."""
    from stacked_rnn import artifact

    if not config.text:
        raise UserError("--text=FILE is missing: which text to score?")
    path = artifact.find(where.saved_model)
    task = artifact.read_description(path).task
    print(json.dumps(TASKS[task](path, config)))


def evaluate_language_model(path, config) -> dict:
    """What a text costs."""
    from stacked_rnn import inference

    text = command_line.read_file("text", config.text)
    return inference.load(path).evaluate(text)


def evaluate_classifier(path, config) -> dict:
    """How often the labels of texts are right, and more."""
    from stacked_rnn import datasets, prediction

    model = prediction.load(path)
    return model.evaluate(
        datasets.read_labelled_texts(
            config.text,
            config.text_field,
            config.label_field,
            config.label_separator if model.several_labels else "",
            flag="text",
        )
    )


TASKS = {
    "language_model": evaluate_language_model,
    "classifier": evaluate_classifier,
}


def run():
    """Console entry point."""
    command_line.run(main, configs.SavedModelConfig, EvaluateConfig)


if __name__ == "__main__":
    run()
