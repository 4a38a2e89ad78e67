"""Scores a text with an exported model: one JSON object on standard output.

  python evaluate.py --text=held_out.txt
  python evaluate.py --saved_model=saved_models/reviews --text=labelled.tsv
  python evaluate.py --saved_model=saved_models/dates_to_iso --text=pairs.tsv

A language model reads the file from the first character to the last, the state
carried along, and predicts every token but the first once. A classifier reads
labelled texts, a seq2seq model pairs of texts, in the files of train.py.
"""

import json
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal


def main(where, config, beam_config):
    """A file in, its score out."""
    from stacked_rnn import saved_models

    if not config.text:
        raise UserError("--text=FILE is missing: which text to score?")
    path = saved_models.find(where.saved_model)
    task = saved_models.read_description(path).task
    if task == "seq2seq":
        result = evaluate_seq2seq(path, config, beam_config)
    else:
        flags.refuse_given(
            beam_config.to_dict(), "of use with a seq2seq model only"
        )
        result = TASKS[task](path, config)
    print(json.dumps(result))


def evaluate_language_model(path, config) -> dict:
    """What a text costs."""
    from stacked_rnn import datasets, inference, saved_models

    tokenizer = saved_models.read_description(path).tokenizer
    text = datasets.read_text(config.text, tokenizer)
    return inference.load(path).evaluate(text)


def evaluate_classifier(path, config) -> dict:
    """How often the labels of texts are right, and more."""
    from stacked_rnn import datasets, inference

    model = inference.load(path)
    return model.evaluate(
        datasets.read_labelled_texts(
            config.text,
            config.text_field,
            config.label_field,
            config.label_separator if model.several_labels else "",
            flag="text",
        )
    )


def evaluate_seq2seq(path, config, beam_config) -> dict:
    """How often what is made of a text is right, and how far it is off."""
    from stacked_rnn import datasets, inference

    pairs = datasets.read_pairs(
        config.text, config.source_field, config.target_field, flag="text"
    )
    model = inference.load(path)
    with terminal.progress_bar(len(pairs.sources), "text") as progress:
        result = model.evaluate(pairs, beam_config, progress)
    if result["bleu"] is None:
        print("no bleu: pip install sacrebleu", file=sys.stderr)
    return result


TASKS = {
    "language_model": evaluate_language_model,
    "classifier": evaluate_classifier,
}


def run():
    """Console entry point."""
    flags.run(
        main,
        configs.SavedModelConfig,
        configs.EvaluateConfig,
        configs.BeamConfig,
    )
