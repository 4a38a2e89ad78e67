"""Labels texts with a classifier, or rewrites them with a seq2seq model.

  python predict.py --text="an unexpected delight"
  python predict.py --texts_file=reviews.txt --output=jsonl > labels.jsonl
  python predict.py --saved_model=saved_models/dates_to_iso --text="May 4, 2021"

A classifier prints for each text its label, the probability of that, and the
text; a seq2seq model prints the text that it writes.
"""

import contextlib
import json
import pathlib
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.cli.texts import (
    Lines,
    warn_of_unknown_parts,
    warn_of_unknown_texts,
)
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal

_ON_ONE_LINE = str.maketrans({"\n": r"\n", "\r": r"\r", "\t": r"\t"})


def main(where, config, search):
    """Texts in, a line for each out."""
    from stacked_rnn import inference, saved_models

    texts = Lines(config.text, config.texts_file, "texts_file")
    if not len(texts):
        raise UserError("--text or --texts_file is missing: which text?")
    predicting = [
        task for task, info in configs.TASKS.items() if not info.continues_texts
    ]
    description = saved_models.find_description(where.saved_model, *predicting)
    rewrites = description.info.rewrites_texts
    if not rewrites:
        flags.refuse_given(
            {"attention", *search.to_dict()},
            "has an effect with a seq2seq model only",
        )
    if config.attention:
        directory = pathlib.Path(config.attention).parent
        terminal.writable_directory("attention", directory)
    model = inference.load(description.path)
    if rewrites:
        warn_of_unknown_parts(model.tokenizer, texts)
        results = model.rewrite(texts, search)
    else:
        warn_of_unknown_texts(model.tokenizer, texts)
        results = model.predict(texts)
    drawn = _print(results, config, len(texts))
    if config.attention:
        _draw(model, drawn, config.attention)
    num_empty = sum(not text.strip() for text in texts)
    if num_empty:
        print(
            f"warning: {num_empty} text(s) are empty: what is predicted for "
            "them means nothing",
            file=sys.stderr,
        )


def _print(results, config, count) -> list:
    """Prints a line for each result; returns the first ones."""
    first = []
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
                first.append(result)
            if progress:
                progress(number)
    return first


def _line(columns) -> str:
    """Columns with tabs between them, in which there are none."""
    return "\t".join(column.translate(_ON_ONE_LINE) for column in columns)


def _draw(model, results, path):
    """Draws where the model looked while it wrote."""
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
