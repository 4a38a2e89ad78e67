"""What a model makes of two authors at once.

  python experiments/authors.py --corpora=timemachine.txt,shakespeare.txt

An exercise of D2L chapter 10. Two texts of equal length are cut into documents
of 500 characters, the last 15 % held out. Five models learn for about equally
many steps: from each author alone, from both shuffled, and from both where a
token names the author at the beginning of each document or of each line. The
study measures their perplexity on either author, and draws new documents. A
judge tells who wrote a piece of those: logistic regression over strings of one
to five characters.

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
import study
from study import common

from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting

DOCUMENT, PIECE = 500, 100  # characters
BEGINNING = 50  # characters of a document that serve as a prompt
HELD_OUT = 0.15
BEGIN, LATER = slice(20), slice(100, None)  # of a document
SEPARATOR = "<|endoftext|>"
TOKENS = "\x01\x02"  # they name the authors; neither text has them
PASSES = 10  # over one author, or half as many over both
SAMPLES, LONGEST = 64, 400  # documents that a model draws, characters of each


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    corpora: str = setting(
        "timemachine,shakespeare", "Two texts, separated by a comma."
    )
    seeds: int = setting(3, "Runs of the whole study.", minimum=1)


# The texts --------------------------------------------------------------------


def pieces_of(text, length):
    """Cuts a text into pieces of a length; drops the rest."""
    return [
        text[start : start + length]
        for start in range(0, len(text) - length + 1, length)
    ]


def read(corpora):
    """Reads the texts: name -> (training documents, held-out documents)."""
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
    """The `LanguageData` of some documents, and the `TrainConfig` for it."""
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
    """Trains on documents; returns a `TextGenerator`."""
    from stacked_rnn import export, tasks, training

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
            tasks.LanguageModelTask(data),
        )
        trainer.fit(verbose=0)
    return export.TextGenerator(trainer.model.for_inference(), tokenizer)


def once(token, document):
    """Puts a token before a document."""
    return token + document


def each_line(token, document):
    """Puts a token before each line of a document."""
    return token + document.replace("\n", "\n" + token)


def nats(generator, documents):
    """The mean nats of each place in documents, tokens of authors left out.

    Args:
        generator: a `TextGenerator`.
        documents: of DOCUMENT characters each, not counting the tokens.

    Returns:
        DOCUMENT numbers.
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
    by_document = values.numpy()[counts].reshape(len(documents), DOCUMENT)
    return by_document.mean(axis=0).tolist()


def draw_texts(generator, prompts, seed):
    """Draws documents that continue the prompts, taken in turn."""
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
    """Trains the judge, a function: pieces -> whether by the first author."""
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
    """Judges texts piece by piece.

    Returns:
        The percentage of pieces by the first author; and of the texts of two
        and more pieces, the percentage that has pieces by both.
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
    """Trains the five models.

    Returns:
        name -> (its `TextGenerator`, a function that marks a document with a
        token, the tokens of the authors).
    """
    texts = [documents for documents, _ in authors.values()]
    models = {
        f"{author} alone": (
            train(text, tokenizer, PASSES, seed),
            once,
            ("", ""),
        )
        for author, text in zip(authors, texts)
    }
    for name, mark, tokens in (
        ("both", once, ("", "")),
        ("both, token", once, TOKENS),
        ("both, token on each line", each_line, TOKENS),
    ):
        documents = [
            mark(token, document)
            for token, text in zip(tokens, texts)
            for document in text
        ]
        generator = train(documents, tokenizer, PASSES // 2, seed)
        models[name] = generator, mark, tokens
    return models


def costs_of(models, authors):
    """(model, author) -> nats of each place in the held-out documents."""
    costs = {}
    for name, (generator, mark, tokens) in models.items():
        ways = {name: tokens}
        if any(tokens):
            ways[name.replace("token", "wrong token")] = tokens[::-1]
        for way, tokens in ways.items():
            for (author, (_, held_out)), token in zip(authors.items(), tokens):
                documents = [mark(token, text) for text in held_out]
                costs[way, author] = nats(generator, documents)
    return costs


def verdicts_of(models, authors, judge, seed):
    """Judges what the models draw, with a prompt and without, by name."""
    prompts = {
        author: [document[:BEGINNING] for document in held_out]
        for author, (_, held_out) in authors.items()
    }
    drawn = {}
    for name, (generator, mark, tokens) in models.items():
        if not any(tokens):
            drawn[name] = generator, [""]
            if name == "both":
                for author, texts in prompts.items():
                    drawn[f"both, after {author}"] = generator, texts
            continue
        for author, opposite, token in zip(authors, [*authors][::-1], tokens):
            title = f"token of {author}{name.removeprefix('both, token')}"
            drawn[title] = generator, [token]
            drawn[f"{title}, after {opposite}"] = (
                generator,
                [mark(token, text) for text in prompts[opposite]],
            )
    return {
        name: verdict(judge, draw_texts(generator, texts, seed))
        for name, (generator, texts) in drawn.items()
    }


# The report -------------------------------------------------------------------


def spread(values, digits):
    """The mean and the standard deviation of some runs."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def perplexities(runs, name, places=slice(None)):
    """The perplexity of each run on some places in an author's documents."""
    return [math.exp(statistics.fmean(costs[name][places])) for costs in runs]


def perplexity_table(costs, authors, names, places):
    """The lines of a table: perplexity by model, author and places."""
    return common.table(
        ["model", *(f"{a}, {where}" for a in authors for where in places)],
        [
            [name]
            + [
                spread(perplexities(costs, (name, author), place), 2)
                for author in authors
                for place in places.values()
            ]
            for name in names
        ],
    )


def plot(authors, costs, report):
    """Draws perplexity by place in the document, relative to no token."""
    places = [slice(start, start + 20) for start in range(0, 300, 20)]
    models = list(dict.fromkeys(model for model, _ in costs[0]))[3:]
    with report.plot(9, 6) as figure:
        axes = figure.subplots()
        for index, author in enumerate(authors):
            for model, style in zip(models, ("o-", "o--", "s-.", "s:")):
                with_token, without = (
                    np.array(
                        [
                            statistics.fmean(perplexities(costs, name, place))
                            for place in places
                        ]
                    )
                    for name in ((model, author), ("both", author))
                )
                axes.plot(
                    [place.start + 10 for place in places],
                    with_token / without,
                    style,
                    color=f"C{index}",
                    label=f"{model}, on {author}",
                )
        axes.set(
            xlabel="character of the document",
            ylabel="perplexity, both without a token = 1",
        )
        axes.axhline(1.0, color="gray")
        axes.legend()


def main(config):
    """Measures, prints and writes the report."""
    report = common.Report(config, "authors", "Two authors in one model")
    authors = read(config.corpora)
    judge = fit_judge(authors)
    held_out = {
        f"{name}, held out": verdict(judge, documents)
        for name, (_, documents) in authors.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        documents = itertools.chain(TOKENS, *itertools.chain(*authors.values()))
        tokenizer = load(documents, scratch)[0].tokenizer
    costs, verdicts = [], []
    for seed in range(config.seeds):
        models = train_all(authors, tokenizer, seed)
        costs.append(costs_of(models, authors))
        verdicts.append(held_out | verdicts_of(models, authors, judge, seed))
        print("seed", seed, flush=True, file=sys.stderr)
    plot(authors, costs, report)
    names = list(dict.fromkeys(model for model, _ in costs[0]))
    everywhere = {"all characters": slice(None)}
    places = {
        f"characters 1 to {BEGIN.stop}": BEGIN,
        f"after {LATER.start}": LATER,
    }
    first = next(iter(authors))
    train_count, held_out_count = map(len, authors[first])
    lines = [
        f"A GRU of one layer of 128 units; {train_count} documents of "
        f"{DOCUMENT} characters by each author to learn from, {held_out_count} "
        f"held out; mean and standard deviation of {config.seeds} runs.\n",
        "## Perplexity of the held-out documents\n",
        *perplexity_table(costs, authors, names, everywhere),
        "\n## Where in the document\n",
        *perplexity_table(costs, authors, names[2:], places),
        "\n![perplexity by place](authors.png)",
        "\n## Who wrote it\n",
        f"{SAMPLES} texts of at most {LONGEST} characters per run, drawn at "
        f"temperature 1, in pieces of {PIECE}; 'after' an author: after the "
        f"first {BEGINNING} characters of a held-out document, which are not "
        "judged. The first two rows show the judge's own error.\n",
        *common.table(
            ["text", f"% of pieces {first}", "% of texts with both"],
            [
                [
                    name,
                    *(spread(v, 0) for v in zip(*(r[name] for r in verdicts))),
                ]
                for name in verdicts[0]
            ],
        ),
    ]
    by_run = [
        {
            f"{model} on {a}": statistics.fmean(cost[model, a])
            for model, a in cost
        }
        for cost in costs
    ]
    report.write(lines, {"nats": by_run, "verdicts": verdicts})


if __name__ == "__main__":
    flags.run(main, StudyConfig)
