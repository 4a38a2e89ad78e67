"""Pairs of texts: files, splits, batches, and synthetic pairs."""

import datetime
import gzip
import io
import re

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, datasets
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import synthetic_pairs

ROWS = [("Go.", "Va !"), ('I\'m "ok".', "Je vais bien.")]

GZIPPED = gzip.compress(
    b'Go.\tVa !\nI\'m "ok".\tJe vais bien.\n', mtime=0
)  # the same in all processes: it names a test


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "Go.\tVa !\nI'm \"ok\".\tJe vais bien.\tCC-BY\n"),
        ("a.tsv", "\ufeffGo.\tVa !\r\n\r\nI'm \"ok\".\tJe vais bien.\r\n"),
        ("a.tsv", "id\ttarget\tsource\n1\tVa !\tGo.\n"
                  "2\tJe vais bien.\tI'm \"ok\".\n"),
        ("a.csv", 'source,target\nGo.,Va !\n"I\'m ""ok"".",Je vais bien.\n'),
        ("a.csv", 'Go.,Va !\n"I\'m ""ok"".",Je vais bien.\n'),
        ("a.csv", 'Go.,Va !, \n"I\'m ""ok"".",Je vais bien.\n'),
        ("a.jsonl", '{"source": "Go.", "target": "Va !", "n": 1}\n\n'
                    '{"target": "Je vais bien.", '
                    '"source": "I\'m \\"ok\\"."}\n'),
        ("a.tsv.gz", GZIPPED),
    ],
)  # fmt: skip
def test_tables_and_jsonl_files_are_read(write, name, content):
    read = datasets.read_pairs(write(name, content))
    assert list(zip(read.sources, read.targets)) == ROWS


@pytest.mark.parametrize("flag", ["corpus", "text"])
def test_columns_can_be_named_and_empty_texts_are_left_out(write, flag, capsys):
    path = write("a.tsv", "en\tfr\nGo.\tVa !\n \tx\ny\t\nNo.\tNon.\n")
    read = datasets.read_pairs(path, "fr", "en", flag)
    assert (list(read.sources), list(read.targets)) == (
        ["Va !", "Non."], ["Go.", "No."],
    )  # fmt: skip
    said = capsys.readouterr().err
    assert said == "warning: 2 pair(s) have an empty text: left out\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "a\tb\n", ".tsv, .csv or .jsonl files .or generated: num"),
        ("a.tsv", "a\n", "line 1: no field 'target' .there are source.: the"),
        ("a.tsv", "a\tb\nc\n", "line 2: no field 'target'"),
        ("a.tsv", "a\t\n", "contains no pair of texts"),
        ("a.tsv", "", "line 1: no field 'source' .there are none."),
        ("a.csv", "a,b\ng, h,GH\n", "line 2: 3 cells, but the first.*has 2"),
        ("a.csv", "a,b,\ng, h,GH\n", "line 2: 3 cells, but the first.*has 2"),
        ("a.csv", "May 4, 2021,2021-05-04\n",
         "line 1: no field 'source' .there are May 4,  2021, 2021-05-04.: a "
         "text with commas must be quoted, .*, or the first line names"),
        ("a.csv", "a,b\nc,\"d\ne,f\n", "line 2: a quote that begins here is"),
        ("a.csv", "a,b\nc,\"d\" e\n", "line 2: .*contains a quote is written"),
        ("a.csv", "a;b\n", "line 1: .*separated by semicolons"),
        ("a.csv", "a\tb\n", "line 1: .*separated by tabs: name it .tsv"),
        ("a.tsv", "a,b\n", "line 1: .*separated by commas: name it .csv"),
        ("a.tsv", "source\ttarget\ttarget\na\tb\tc\n",
         "line 1: two columns are named 'target'"),
        ("a.tsv", "a\tb\nc\0\td\n", "zero byte at 5, line 2"),
        ("a.jsonl", '{"source": "a\\u0000", "target": "b"}',
         "line 1: a zero byte in 'source'"),
        ("a.jsonl", '{"source": "a", "target": "\\ud83d"}',
         r"line 1: half a character in 'target' .\\ud83d"),
        ("a.jsonl", '{"source": "a", "target": null}', "'target' is null"),
        ("a.jsonl", '{"source": "a", "target": "b", "source": "c"}',
         "line 1: two fields are named 'source'"),
        ("a.jsonl", "[" * 100_000, "line 1: nested too deeply"),
        ("a.tsv", "source\ttarget\n\"a\nb\"\tc\n", 
         "line 2: a quote is not closed on its line"),
        ("a.jsonl", '{"source": "a"}\n', "line 1: no field 'target'"),
        ("a.jsonl", '{"source": "a", "target": 3}\n', "target is not a string"),
        ("a.jsonl", "[]\n", "line 1: expected a JSON object"),
        ("a.tsv", b"a\t\xff\n", "not UTF-8"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_the_reason(write, name, content, message):
    path = write(name, content)
    with pytest.raises(UserError, match=message) as error:
        datasets.read_pairs(path)
    assert path in str(error.value)


def test_names_of_columns_ignore_case(write):
    path = write("a.tsv", "Target\tSource\nVa !\tGo.\n")
    read = datasets.read_pairs(path)
    assert (list(read.sources), list(read.targets)) == (["Go."], ["Va !"])


def test_a_first_line_read_as_a_pair_is_warned_of(write, capsys):
    path = write("a.tsv", "English\tFrench\tWho\nGo.\tVa !\tCC-BY\n")
    assert len(datasets.read_pairs(path).sources) == 2
    said = capsys.readouterr().err
    assert "line 1 is read as a pair, 'English' -> 'French'" in said
    assert said.count("\n") == 1


def test_pairs_come_through_pipes_and_standard_input(write, monkeypatch):
    for content in ("Go.\tVa !\n", '"Go.",Va !\n',
                    '{"source": "Go.", "target": "Va !"}\n'):  # fmt: skip
        stdin = io.TextIOWrapper(io.BytesIO(content.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        read = datasets.read_pairs("-")
        assert list(zip(read.sources, read.targets)) == [("Go.", "Va !")]


def test_generated_pairs_score_no_model():
    with pytest.raises(UserError, match="--text=dates_to_iso: .* trained on"):
        datasets.read_pairs("dates_to_iso", flag="text")


def test_named_columns_need_a_header(write):
    path = write("a.tsv", "Go.\tVa !\nNo.\tNon.\n")
    with pytest.raises(UserError, match="no field 'en'"):
        datasets.read_pairs(path, "en", "fr")
    with pytest.raises(UserError, match="no such file"):
        datasets.read_pairs(path + ".gz")


def config(path, **changes):
    return configs.TrainConfig(task="seq2seq", corpus=path, **changes)


@pytest.fixture
def chained(write):
    """40 separate pairs, and 10 that share texts, but for white space."""
    rows = [f"s{number}\tt{number}" for number in range(40)]
    rows += [
        f"c{number // 2}{' ' * (number % 2)}\td{(number + 1) // 2}"
        for number in range(10)
    ]
    return write("a.tsv", "\n".join(rows))


@pytest.mark.parametrize("seed", range(4))
def test_no_text_is_in_both_parts_of_the_split(chained, seed):
    data = datasets.load_pair_data(
        config(chained, validation_fraction=0.5, seed=seed)
    )
    held_out = data.validation_texts
    everything = datasets.read_pairs(chained)
    rest = set(zip(everything.sources, everything.targets)) - set(
        zip(held_out.sources, held_out.targets)
    )
    for number, side in enumerate((held_out.sources, held_out.targets)):
        assert not {*map(str.strip, side)} & {
            pair[number].strip() for pair in rest
        }
    assert 15 <= len(held_out.sources) <= 25
    chain = [text for text in held_out.sources if text.startswith("c")]
    assert len(chain) in (0, 10)
    again = datasets.load_pair_data(
        config(chained, validation_fraction=0.5, seed=seed)
    )
    assert again.validation_texts == held_out and again.digest == data.digest


@pytest.mark.parametrize("targets", [1, 5])
def test_a_missing_validation_part_is_reported_or_refused(
    write, targets, capsys
):
    rows = [f"s{number}\tt{number % targets}" for number in range(100)]
    path = write("a.tsv", "source\ttarget\n" + "\n".join(rows))
    assert datasets.load_pair_data(config(path)).validation is None
    said = capsys.readouterr().err
    assert "no validation: of 100 pair(s), those with" in said
    assert "and at least 10 without are needed" in said
    assert said.count("\n") == 1
    with pytest.raises(UserError, match="--early_stopping=1: no text to valid"):
        datasets.load_pair_data(config(path, early_stopping=1))


def test_batches_pad_and_mask_pairs(write):
    """Each pair comes once per epoch, with its end and its decoder inputs."""
    rng = np.random.default_rng(0)
    pairs = [
        ("a" * n + "b", "c" * (n + m) + "d")
        for n, m in rng.integers(1, [40, 9], (120, 2)).tolist()
    ]
    path = write("a.tsv", "\n".join(map("\t".join, pairs)))
    data = datasets.load_pair_data(
        config(path, batch_size=8, validation_fraction=0.0)
    )
    assert data.validation is None and data.validation_texts is None
    end_id = data.tokenizer.end_id
    epochs = []
    for epoch in range(2):
        found, lengths = [], set()
        for step in range(data.training.steps_per_epoch):
            page = data.training.page(
                epoch * data.training.steps_per_epoch + step
            )
            inputs, targets = data.training.batch(step, page, range(8))
            lengths.add((inputs["source_ids"].shape[1], targets.shape[1]))
            for source, mask, before, target in zip(
                *(inputs[name].numpy() for name in
                  ("source_ids", "source_mask", "target_ids")),
                targets.numpy(),
            ):  # fmt: skip
                if not mask.any():  # the batch is not full
                    assert (target == -1).all()
                    continue
                target = target[target >= 0]
                assert before[0] == end_id == target[-1] == source[mask][-1]
                assert (before[1 : len(target)] == target[:-1]).all()
                found.append(
                    tuple(
                        data.tokenizer.detokenize(
                            tf.ragged.constant([ids.tolist()])
                        ).numpy()[0].decode()
                        for ids in (source[mask], target)
                    )
                )  # fmt: skip
        assert 1 < len(lengths) <= 4
        epochs.append(found)
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(pairs)


def test_long_texts_are_left_out_and_counted(write):
    path = write("a.tsv", "ab\tcd\nabcdef\tc\na\tabcdef\nabc\tabc\n")
    data = datasets.load_pair_data(
        config(path, sequence_length=3, validation_fraction=0.0)
    )
    assert data.num_too_long == 2 and len(data.training) == 2
    assert data.longest_target == 4  # with its end
    with pytest.raises(UserError, match="4 of 4 are longer .* shortest has 2"):
        datasets.load_pair_data(
            config(path, sequence_length=1, validation_fraction=0.0)
        )


# Synthetic pairs --------------------------------------------------------------


def number_of_words(words):
    """Reads English words from left to right."""
    sizes = {"hundred": 100, "thousand": 1000, "million": 10**6}
    small = {
        synthetic_pairs.words_of_number(number): number
        for number in [*range(20), *range(20, 100, 10)]
    }
    total = part = 0
    for word in re.split("[ -]", words):
        if word == "hundred":
            part *= 100
        elif word in sizes:
            total, part = total + part * sizes[word], 0
        elif word != "and":
            part += small[word]
    return total + part


def test_generated_numbers_are_spelled_correctly():
    numbers = (0, 13, 40, 68, 101)
    assert [*map(synthetic_pairs.words_of_number, numbers)] == [
        "zero", "thirteen", "forty", "sixty-eight", "one hundred and one",
    ]  # fmt: skip
    assert synthetic_pairs.words_of_number(712_345) == (
        "seven hundred and twelve thousand three hundred and forty-five"
    )
    assert synthetic_pairs.words_of_number(2_000_017) == (
        "two million and seventeen"
    )
    pairs = synthetic_pairs.numbers_to_words()
    assert all(number_of_words(words) == int(digits) for digits, words in pairs)
    numbers = {int(digits) for digits, _ in pairs}
    assert numbers > set(range(1000)) and len(numbers) == len(pairs) == 30_000
    assert max(numbers) > 990_000
    assert synthetic_pairs.words_to_numbers()[:3] == [
        ("zero", "0"), ("one", "1"), ("two", "2"),
    ]  # fmt: skip


def test_generated_dates_are_unambiguous():
    written = {}
    date = datetime.date(1999, 1, 1)
    while date.year < 2001:
        for form in synthetic_pairs.forms_of_date(date):
            assert written.setdefault(form, date) == date
        date += datetime.timedelta(1)


def test_generated_dates_are_read_by_python():
    date = datetime.date(2021, 3, 2)
    forms = synthetic_pairs.forms_of_date(date)
    for form in (
        "%A, %d %B %Y", "%d %b %Y", "%a %b %d %Y", "%Y/%m/%d", "%d.%m.%Y",
        "%Y%m%d", "%B %d, %Y",
    ):  # fmt: skip
        assert date in [
            datetime.datetime.strptime(text, form).date()
            for text in forms
            if readable(text, form)
        ]
    assert "the second of March 2021" in forms
    assert "2.III.2021" in forms and "Tuesday, March 2nd 2021" in forms
    days = [datetime.date(2021, 1, day) for day in (11, 13, 20, 23, 30, 31)]
    assert [synthetic_pairs.forms_of_date(day)[7:9] for day in days] == [
        ["the 11th of January, 2021", "the eleventh of January 2021"],
        ["the 13th of January, 2021", "the thirteenth of January 2021"],
        ["the 20th of January, 2021", "the twentieth of January 2021"],
        ["the 23rd of January, 2021", "the twenty-third of January 2021"],
        ["the 30th of January, 2021", "the thirtieth of January 2021"],
        ["the 31st of January, 2021", "the thirty-first of January 2021"],
    ]
    pairs = synthetic_pairs.dates_to_iso()
    assert len(pairs) == 30_000
    assert len({iso for _, iso in pairs}) == 10_000


def readable(text, form):
    try:
        return datetime.datetime.strptime(text, form)
    except ValueError:
        return None


def test_generated_identifiers_are_converted_correctly():
    for name in ("read_only", "READ_ONLY", "ReadOnly", "readOnly"):
        assert synthetic_pairs.words_of_identifier(name) == ["read", "only"]
    assert synthetic_pairs.words_of_identifier("HTTPServer") == [
        "http",
        "server",
    ]
    pairs = dict(synthetic_pairs.identifiers_to_words())
    assert len(pairs) > 5000
    assert pairs["TextWrapper"] == pairs["textwrapper"] == "text wrapper"
