"""Labels texts with a classifier, or rewrites them with a seq2seq model.

  python predict.py --text="an unexpected delight"
  python predict.py --texts_file=reviews.txt --output=jsonl > labels.jsonl
  python predict.py --saved_model=saved_models/dates_to_iso --text="May 4, 2021"

For each text, a classifier prints the label, its probability and the text; a
seq2seq model prints the text that it writes.
"""

import contextlib
import json
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.cli.texts import Lines, warn_of_unknown_texts
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal

_ON_ONE_LINE = str.maketrans({"\n": r"\n", "\r": r"\r", "\t": r"\t"})


def main(saved_model_config, config, search):
    """Predicts for each text, and prints one line per text."""
    from stacked_rnn import inference, saved_models

    texts = Lines(config.text, config.texts_file, "texts_file")
    if not len(texts):
        raise UserError("--text or --texts_file is missing: give a text")
    tasks = [
        task for task, info in configs.TASKS.items() if not info.continues_texts
    ]
    description = saved_models.find_description(
        saved_model_config.saved_model, *tasks
    )
    if not description.info.rewrites_texts:
        flags.refuse_given(
            {"attention", *search.to_dict()}, "for seq2seq models only"
        )
    if config.attention:
        terminal.writable_file("attention", config.attention)
    model = inference.from_description(description)
    if description.info.rewrites_texts:
        terminal.warn_of_unknown_parts(model.tokenizer.unknown_parts([*texts]))
        results = model.rewrite(texts, search)
    else:
        results = model.predict(texts)
    first_results = _print(results, config, len(texts))
    if config.attention:
        _draw(model, first_results, config.attention)
    # Last, so that the first predictions do not wait for the whole file.
    if not description.info.rewrites_texts:
        warn_of_unknown_texts(model.tokenizer, texts)
    terminal.warn_of(
        sum(not text.strip() for text in texts),
        "text(s) are empty: their predictions mean nothing",
    )


def _print(results, config, count) -> list:
    """Prints one line per result; returns the first `MOST_DRAWN`."""
    first_results = []
    with contextlib.ExitStack() as stack:
        progress = None
        if not sys.stdout.isatty():
            progress = stack.enter_context(terminal.progress_bar(count, "text"))
        for number, result in enumerate(results, start=1):
            if config.output == "jsonl":
                print(json.dumps(result.to_dict(), ensure_ascii=False))
            else:
                print(_line(result.columns()))
            if number <= configs.MOST_DRAWN:
                first_results.append(result)
            if progress:
                progress(number)
    return first_results


def _line(columns) -> str:
    """Joins columns by tabs; tabs and line breaks within are escaped."""
    return "\t".join(column.translate(_ON_ONE_LINE) for column in columns)


def _draw(model, results, path):
    """Draws the attention of some results into a file."""
    from stacked_rnn.reports import plots

    maps = [model.align(result.text, result.output) for result in results]
    if not plots.draw_attention(maps, path):
        raise UserError("--attention needs matplotlib: pip install matplotlib")


def run():
    """Console entry point."""
    flags.run(
        main,
        configs.SavedModelConfig,
        configs.PredictConfig,
        configs.BeamConfig,
    )
