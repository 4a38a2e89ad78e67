"""Labels texts with a classifier, or makes others of them with a seq2seq model.

  python predict.py --text="an unexpected delight"
  python predict.py --texts_file=reviews.txt --output=jsonl > labels.jsonl
  python predict.py --saved_model=saved_models/dates_to_iso --text="May 4, 2021"

A classifier says for each text its label, the probability of that, and the
text; a seq2seq model a line with what it makes of the text.
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


def main(where, config, beam_config):
    """Texts in, a line on each out."""
    from stacked_rnn import saved_models

    texts = Lines(config.text, config.texts_file, "texts_file")
    if not len(texts):
        raise UserError("--text or --texts_file is missing: what to read?")
    path = saved_models.find(where.saved_model, ("classifier", "seq2seq"))
    if saved_models.read_description(path).task == "seq2seq":
        lines = translated(path, texts, config, beam_config)
    else:
        flags.refuse_given(
            {"attention", *beam_config.to_dict()},
            "of use with a seq2seq model only",
        )
        lines = labelled(path, texts, config)
    with contextlib.ExitStack() as stack:
        progress = None
        if not sys.stdout.isatty():
            progress = stack.enter_context(
                terminal.progress_bar(len(texts), "text")
            )
        for number, line in enumerate(lines, start=1):
            print(line)
            if progress:
                progress(number)
    num_empty = sum(not text.strip() for text in texts)
    if num_empty:
        print(
            f"warning: {num_empty} text(s) are empty: what is said of them "
            "means nothing",
            file=sys.stderr,
        )


def labelled(path, texts, config):
    """Yields a line with what a classifier says of each text."""
    from stacked_rnn import inference, saved_models

    model = inference.load(path, "classifier")
    tokenizer = saved_models.read_description(path).tokenizer
    warn_of_unknown_texts(tokenizer, texts)
    for one in model.predict(texts):
        if config.output == "jsonl":
            yield as_json(
                text=one.text,
                label=one.labels if model.several_labels else one.labels[0],
                scores=one.scores,
            )
        else:
            labels = ",".join(one.labels)
            scores = ",".join(
                f"{one.scores[label]:.3f}" for label in one.labels
            )
            yield as_line(labels, scores, one.text)


def translated(path, texts, config, beam_config):
    """Yields a line with what a seq2seq model makes of each text."""
    from stacked_rnn import inference
    from stacked_rnn.reports import plots

    if config.attention:
        directory = pathlib.Path(config.attention).parent
        terminal.writable_directory("attention", directory)
    model = inference.load(path, "seq2seq")
    warn_of_unknown_parts(model.tokenizer, texts)
    maps = []
    for one in model.rewrite(texts, beam_config):
        if config.output == "jsonl":
            yield as_json(text=one.text, output=one.output, score=one.score)
        else:
            yield as_line(one.output)
        if config.attention and len(maps) < configs.MOST_DRAWN:
            maps.append(model.align(one.text, one.output))
    if maps and not plots.draw_attention(maps, config.attention):
        raise UserError("--attention needs matplotlib: pip install matplotlib")


def as_line(*values) -> str:
    """A line with tabs between values, in which there are none."""
    return "\t".join(value.translate(_ON_ONE_LINE) for value in values)


def as_json(**values) -> str:
    """A line of JSON."""
    return json.dumps(values, ensure_ascii=False)


def run():
    """Console entry point."""
    flags.run(
        main,
        configs.SavedModelConfig,
        configs.PredictConfig,
        configs.BeamConfig,
    )
