"""What becomes of a model that learns from two authors at once.

  python benchmarks/authors.py \
      --corpora=../shared/data/timemachine.txt,../shared/data/tinyshakespeare.txt

An exercise of D2L chapter 10. Two texts of equal length are cut into documents
of 500 characters, the last 15 % held out. Five models learn, for about as many
steps: from the one, from the other, from both shuffled, and from both where a
token names the author, at the beginning of each document or of each line. Each
is asked for the perplexity of either author, and for new documents. Who wrote a
piece of those is judged by logistic regression over strings of one to five
characters.

Writes authors.md, .json and .png to --output_dir, and prints the first.
"""

import dataclasses
import itertools
import math
import pathlib
import random
import statistics
import sys
import tempfile

import numpy as np
from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting
from stacked_rnn.utils import terminal

DOCUMENT, PIECE = 500, 100  # characters
BEGINNING = 50  # characters of a document given as a prompt
HELD_OUT = 0.15
BEGIN, LATER = slice(20), slice(100, None)  # of a document
SEPARATOR = "<|endoftext|>"
TOKENS = "\x01\x02"  # the authors', which neither text has
PASSES = 10  # over one author, or half as many over both
SAMPLES, LONGEST = 64, 400  # documents drawn from a model, characters of one


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    corpora: str = setting(
        "timemachine,shakespeare", "Two texts, separated by a comma."
    )
    seeds: int = setting(3, "Runs of everything.", minimum=1)
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plot."
    )


# The texts --------------------------------------------------------------------


def pieces_of(text, length):
    """A text cut into whole pieces of a length."""
    return [
        text[start : start + length]
        for start in range(0, len(text) - length + 1, length)
    ]


def read(corpora):
    """Name -> (documents to learn from, documents held out)."""
    from stacked_rnn import datasets

    texts = {
        pathlib.Path(corpus).stem: b"".join(
            datasets.Corpus(corpus).pieces()
        ).decode()
        for corpus in corpora.split(",")
    }
    if len(texts) != 2:
        raise UserError(f"--corpora={corpora}: expected two")
    length = min(map(len, texts.values()))
    authors = {}
    for name, text in texts.items():
        documents = pieces_of(text[:length], DOCUMENT)
        cut = int(len(documents) * (1 - HELD_OUT))
        authors[name] = documents[:cut], documents[cut:]
    return authors


def load(documents, scratch, tokenizer=None, **options):
    """The `LanguageData` of some documents, and how they were read."""
    from stacked_rnn import datasets

    path = pathlib.Path(scratch, "documents.txt")
    path.write_text(SEPARATOR.join(documents), encoding="utf-8")
    config = TrainConfig(
        corpus=str(path),
        document_separator=SEPARATOR,
        carry_state=True,
        sequence_length=64,
        validation_fraction=0.0,
        **options,
    )
    return datasets.load_language_data(config, tokenizer=tokenizer), config


# The models -------------------------------------------------------------------


def train(documents, tokenizer, passes, seed):
    """A `TextGenerator` that learned from some documents."""
    from stacked_rnn import export, training

    documents = random.Random(seed).sample(documents, len(documents))
    with tempfile.TemporaryDirectory() as scratch:
        data, config = load(
            documents, scratch, tokenizer, epochs=passes, seed=seed
        )
        trainer = training.Trainer(
            ModelConfig(
                num_layers=1,
                units=128,
                vocabulary_size=tokenizer.vocabulary_size(),
                end_of_text=True,
            ),
            config,
            data,
        )
        trainer.fit(verbose=0)
    return export.TextGenerator(trainer.model.for_inference(), tokenizer)


def once(token, document):
    """A document that begins with a token."""
    return token + document


def each_line(token, document):
    """A document whose lines all begin with a token."""
    return token + document.replace("\n", "\n" + token)


def nats(generator, documents):
    """What each character costs, tokens of authors left out.

    Args:
        generator: a `TextGenerator`.
        documents: of DOCUMENT characters each, besides the tokens.

    Returns:
        [documents, DOCUMENT].
    """
    ragged = generator.tokenize([SEPARATOR + text for text in documents])
    token_ids = ragged.to_tensor(-1).numpy()
    targets = token_ids[:, 1:]
    values, _ = generator.score_window(
        np.maximum(token_ids[:, :-1], 0),
        targets,
        generator.model.initial_states(len(documents)),
    )
    named = generator.tokenize([TOKENS]).flat_values.numpy()
    counts = (targets >= 0) & ~np.isin(targets, named)
    return values.numpy()[counts].reshape(len(documents), DOCUMENT)


def draw_texts(generator, prompts, seed):
    """Documents that go on from the prompts, taken in turn."""
    prompts = itertools.islice(itertools.cycle(prompts), SAMPLES)
    texts = generator.generate(
        [SEPARATOR + prompt for prompt in prompts],
        max_new_tokens=[LONGEST],
        temperature=[1.0],
        seed=range(seed * SAMPLES, (seed + 1) * SAMPLES),
    )["texts"]
    nameless = str.maketrans("", "", TOKENS)
    return [text.decode().translate(nameless) for text in texts.numpy()]


def fit_judge(authors):
    """A function: pieces -> whether each is of the first author."""
    from sklearn import pipeline
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    pieces, labels = [], []
    for label, (documents, _) in zip((True, False), authors.values()):
        found = [p for text in documents for p in pieces_of(text, PIECE)]
        pieces += found
        labels += [label] * len(found)
    judge = pipeline.make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False),
        LogisticRegression(max_iter=1000, C=10.0),
    ).fit(pieces, labels)
    return judge.predict


def verdict(judge, texts):
    """How some texts are judged, piece by piece.

    Returns:
        The percentage of pieces of the first author, and, of the texts of two
        pieces and more, that of those with pieces of both.
    """
    verdicts = [
        judge(pieces) for text in texts if (pieces := pieces_of(text, PIECE))
    ]
    longer = [v for v in verdicts if len(v) > 1]
    return (
        100 * float(np.concatenate(verdicts).mean()),
        100 * statistics.fmean(0 < v.mean() < 1 for v in longer),
    )


# One run ----------------------------------------------------------------------


def train_all(authors, tokenizer, seed):
    """The five generators: of each author, and of both without and with tokens.

    The last two see the token once and on each line.
    """
    (first, _), (second, _) = authors.values()
    one, other = (
        train(documents, tokenizer, PASSES, seed)
        for documents in (first, second)
    )
    both = train(first + second, tokenizer, PASSES // 2, seed)
    named = [
        train(
            [mark(TOKENS[0], text) for text in first]
            + [mark(TOKENS[1], text) for text in second],
            tokenizer,
            PASSES // 2,
            seed,
        )
        for mark in (once, each_line)
    ]
    return [one, other, both, *named]


def costs_of(generators, authors):
    """(model, author) -> nats of each place in a document held out."""
    one, other, both, named, named_lines = generators
    first, second = authors
    wrong, none = TOKENS[::-1], ("", "")
    return {
        (model, author): nats(
            generator, [mark(token, text) for text in held]
        ).mean(axis=0).tolist()
        for model, generator, mark, tokens in (
            (f"{first} alone", one, once, none),
            (f"{second} alone", other, once, none),
            ("both", both, once, none),
            ("both, token", named, once, TOKENS),
            ("both, wrong token", named, once, wrong),
            ("both, token on each line", named_lines, each_line, TOKENS),
            ("both, wrong token on each line", named_lines, each_line, wrong),
        )
        for (author, (_, held)), token in zip(authors.items(), tokens)
    }  # fmt: skip


def verdicts_of(generators, authors, judge, seed):
    """What was drawn -> its `verdict`."""
    one, other, both, named, named_lines = generators
    first, second = authors
    after_first, after_second = (
        [document[:BEGINNING] for document in held]
        for _, held in authors.values()
    )
    drawn = {
        f"{first} alone": (one, [""]),
        f"{second} alone": (other, [""]),
        "both": (both, [""]),
        f"both, after {first}": (both, after_first),
        f"both, after {second}": (both, after_second),
    }
    for where, generator, mark in (
        ("", named, once),
        (" on each line", named_lines, each_line),
    ):
        for author, token, opposite, texts in (
            (first, TOKENS[0], second, after_second),
            (second, TOKENS[1], first, after_first),
        ):
            name = f"token of {author}{where}"
            drawn[name] = generator, [token]
            drawn[f"{name}, after {opposite}"] = (
                generator,
                [mark(token, text) for text in texts],
            )
    return {
        name: verdict(judge, draw_texts(generator, prompts, seed))
        for name, (generator, prompts) in drawn.items()
    }


# The report -------------------------------------------------------------------


def spread(values, digits=2):
    """The mean and the standard deviation of some runs."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def perplexities(runs, name, places=slice(None)):
    """Of some places in the documents of an author, in each run."""
    return [math.exp(statistics.fmean(costs[name][places])) for costs in runs]


def conclusions(authors, costs, verdicts):
    """What the figures say: lines of Markdown."""

    def mean(model, author, places=slice(None)):
        return statistics.fmean(perplexities(costs, (model, author), places))

    def mixed(name):
        return statistics.fmean(run[name][1] for run in verdicts)

    def change(author, model, than, places=slice(None)):
        ratio = mean(model, author, places) / mean(than, author, places)
        return f"{100 * (ratio - 1):+.1f} %"

    lines = []
    for author in authors:
        alone = f"{author} alone"
        lines.append(
            f"- Perplexity on {author}: learning from both costs "
            f"{change(author, 'both', alone)}; the token brings "
            f"{change(author, 'both, token', 'both')}, on each line "
            f"{change(author, 'both, token on each line', 'both')}; the wrong "
            "one instead of the right one costs "
            f"{change(author, 'both, wrong token', 'both, token')} ("
            f"{change(author, 'both, wrong token', 'both, token', BEGIN)} on "
            f"the first {BEGIN.stop} characters), on each line "
            + change(
                author,
                "both, wrong token on each line",
                "both, token on each line",
            )
            + "."
        )
    once, lined = (
        " and ".join(
            f"{mixed(f'token of {author}{where}'):.0f}" for author in authors
        )
        for where in ("", " on each line")
    )
    return [
        *lines,
        f"- Texts with pieces of both authors: {mixed('both'):.0f} % without "
        f"a token, {once} % with one, {lined} % with one on each line.",
    ]


def table(columns, rows):
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(row) + " |"
        for row in (columns, ["---"] * len(columns), *rows)
    ]


def draw(authors, costs, verdicts, path):
    """Perplexity by model and by place, and who wrote what, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplot_mosaic(
        [["models", "places"], ["verdicts", "verdicts"]],
        figsize=(13, 13), layout="constrained",
    )  # fmt: skip
    models = list(dict.fromkeys(model for model, _ in costs[0]))
    places = [slice(start, start + 20) for start in range(0, 300, 20)]
    for index, author in enumerate(authors):
        panels["models"].barh(
            [row + 0.4 * index for row in range(len(models))],
            [
                statistics.fmean(perplexities(costs, (model, author)))
                for model in models
            ],
            height=0.38, label=f"on {author}",
        )  # fmt: skip
        for model, style in zip(models[3:], ("o-", "o--", "s-.", "s:")):
            means = np.array(
                [
                    [
                        statistics.fmean(perplexities(costs, (name, author), p))
                        for p in places
                    ]
                    for name in (model, "both")
                ]
            )
            panels["places"].plot(
                [place.start + 10 for place in places], means[0] / means[1],
                style, color=f"C{index}", label=f"{model}, on {author}",
            )  # fmt: skip
    names = list(verdicts[0])
    for index, label in enumerate(
        (f"pieces judged to be {next(iter(authors))}", "texts with both")
    ):
        panels["verdicts"].barh(
            [row + 0.4 * index for row in range(len(names))],
            [
                statistics.fmean(run[name][index] for run in verdicts)
                for name in names
            ],
            height=0.38, color=f"C{index + 2}", label=label,
        )  # fmt: skip
    for panel, rows in (("models", models), ("verdicts", names)):
        panels[panel].set_yticks([n + 0.2 for n in range(len(rows))], rows)
        panels[panel].invert_yaxis()
    panels["models"].set(xlabel="perplexity of the documents held out")
    panels["places"].set(
        xlabel="character of the document",
        ylabel="perplexity, both without a token = 1",
    )
    panels["places"].axhline(1.0, color="gray")
    panels["verdicts"].set(xlabel="per cent", xlim=(0, 100))
    for panel, axes in panels.items():
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=1 if panel == "places" else 2,
        )
    figure.savefig(path, dpi=110)


def main(config):
    """Measures, prints and writes the report."""
    output = terminal.writable_directory("output_dir", config.output_dir)
    calm = Calm()
    authors = read(config.corpora)
    judge = fit_judge(authors)
    first = next(iter(authors))
    held = {
        f"{name}, held out": verdict(judge, documents)
        for name, (_, documents) in authors.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        documents = itertools.chain(TOKENS, *itertools.chain(*authors.values()))
        tokenizer = load(documents, scratch)[0].tokenizer
    costs, verdicts = [], []
    for seed in range(config.seeds):
        generators = train_all(authors, tokenizer, seed)
        costs.append(costs_of(generators, authors))
        verdicts.append(held | verdicts_of(generators, authors, judge, seed))
        print("seed", seed, flush=True, file=sys.stderr)
    draw(authors, costs, verdicts, output / "authors.png")
    models = list(dict.fromkeys(model for model, _ in costs[0]))
    report = [
        f"# Two authors in one model\n\n{machine()}; {calm}.\n",
        f"A GRU of one layer of 128 units; {len(authors[first][0])} documents "
        f"of {DOCUMENT} characters of each author to learn from, "
        f"{len(authors[first][1])} held out; mean and standard deviation of "
        f"{config.seeds} runs.\n",
        "## Perplexity of the documents held out\n",
        *table(
            ["model", *(f"on {author}" for author in authors)],
            [
                [
                    model,
                    *(
                        spread(perplexities(costs, (model, author)))
                        for author in authors
                    ),
                ]
                for model in models
            ],
        ),
        "\n## Where in the document\n",
        *table(
            [
                "model",
                *(
                    f"{author}, {where}"
                    for author in authors
                    for where in (
                        f"characters 1 to {BEGIN.stop}",
                        f"after {LATER.start}",
                    )
                ),
            ],
            [
                [
                    model,
                    *(
                        spread(perplexities(costs, (model, author), places))
                        for author in authors
                        for places in (BEGIN, LATER)
                    ),
                ]
                for model in models[2:]
            ],
        ),
        "\n## Who wrote it\n",
        f"{SAMPLES} texts of at most {LONGEST} characters a run, drawn at "
        f"temperature 1, in pieces of {PIECE}; 'after' an author: after the "
        f"first {BEGINNING} characters of a document held out, which are not "
        "judged. The judge's own error is in the first two rows.\n",
        *table(
            ["text", f"% of pieces {first}", "% of texts with both"],
            [
                [
                    name,
                    *(spread(v, 0) for v in zip(*(r[name] for r in verdicts))),
                ]
                for name in verdicts[0]
            ],
        ),
        "",
        *conclusions(authors, costs, verdicts),
        "\n![authors](authors.png)",
    ]
    write_report(
        output,
        "authors",
        report,
        {
            "nats": [
                {
                    f"{model} on {author}": float(np.mean(cost[model, author]))
                    for model, author in cost
                }
                for cost in costs
            ],
            "verdicts": verdicts,
        },
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
