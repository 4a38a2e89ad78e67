"""Scores a text with an exported model: one JSON object on standard output.

  python evaluate.py --text=held_out.txt
  python evaluate.py --saved_model=saved_models/reviews --text=labelled.tsv
  python evaluate.py --saved_model=saved_models/dates_to_iso --text=pairs.tsv
  python evaluate.py --text=new.txt --dynamic_rate=1e-4 --training_text=old.txt

A language model reads the file from the first character to the last with the
state carried along, and predicts every token but the first once. A classifier
needs labelled texts, a seq2seq model pairs of texts, in a format of train.py.
"""

import dataclasses
import json
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError

_ADAPTIVE = (
    "temperature", "dynamic_rate", "dynamic_decay", "dynamic_window",
    "training_text", "cache_size", "cache_weight", "cache_flatness",
)  # fmt: skip
_NEED = {
    "dynamic_rate": ("dynamic_decay", "dynamic_window", "training_text"),
    "cache_size": ("cache_weight", "cache_flatness"),
}


def main(saved_model_config, config, search):
    """Scores a file and prints the result."""
    from stacked_rnn import inference, saved_models

    if not config.text:
        raise UserError("--text=FILE is missing: name the text to score")
    description = saved_models.find_description(saved_model_config.saved_model)
    info = description.info
    if not info.rewrites_texts:
        flags.refuse_given(search.to_dict(), "for seq2seq models only")
    if not info.continues_texts:
        flags.refuse_given(_ADAPTIVE, "for language models only")
    names = {field.name for field in dataclasses.fields(config)}
    flags.refuse_given(names & {*info.ignored}, f"no effect on {info.title}")
    if not description.entries.get("several_labels"):
        flags.refuse_given(
            ["label_separator"], "for multi-label classifiers only"
        )
    for needed, dependent in _NEED.items():
        if not getattr(config, needed):
            flags.refuse_given(dependent, f"no effect without --{needed}")
    model = inference.from_description(description)
    if config.is_adaptive:
        result = model.evaluate_files(
            config, search, _adaptive_scorer(model, config)
        )
    else:
        result = model.evaluate_files(config, search)
    if "bleu" in result and result["bleu"] is None:
        print("bleu needs: pip install sacrebleu", file=sys.stderr)
    if count := result.get("unknown_tokens"):
        print(
            f"warning: {count:,} of {result['tokens']:,} tokens are not in the "
            "vocabulary, and cost little: bits_per_character looks better than "
            "that of a model without unknown tokens",
            file=sys.stderr,
        )
    print(json.dumps(result))


def _adaptive_scorer(model, config):
    """Returns a function that scores token ids, for `evaluate_files`."""
    from stacked_rnn import datasets, models, training

    training_ids = None
    if config.dynamic_rate:
        text = datasets.read_text(
            config.training_text, model.tokenizer, "training_text", whole=False
        )
        training_ids = model.tokenizer.tokenize([text]).flat_values.numpy()
    return training.AdaptiveScorer(
        models.read_saved_model(model.description), config, training_ids
    ).token_nats


def run():
    """Console entry point."""
    flags.run(
        main,
        configs.SavedModelConfig,
        configs.EvaluateConfig,
        configs.BeamConfig,
    )
