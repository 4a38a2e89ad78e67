"""Labelled texts: files, splits, batches."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from stacked_rnn import configs, datasets
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import labelled_texts

PAIRS = [("good film", "pos"), ('bad "film', "neg"), ("so, so", "neg")]


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    return name


def pairs(source, **options):
    read = datasets.read_labelled_texts(source, **options)
    return [(text, *names) for text, names in zip(read.texts, read.labels)]


def test_tsv_fields_may_hold_quotes():
    lines = ["text\tlabel", *("\t".join(pair) for pair in PAIRS)]
    assert pairs(write("a.tsv", "\n".join(lines))) == PAIRS


def test_csv_fields_may_be_quoted():
    content = (
        'label,id,text\npos,1,good film\nneg,2,"bad ""film"\nneg,3,"so, so"\n'
    )
    assert pairs(write("a.csv", content)) == PAIRS


def test_gzipped_jsonl_with_named_fields_is_read():
    lines = [json.dumps({"review": t, "sentiment": n}) for t, n in PAIRS]
    content = gzip.compress("\n\n".join(lines).encode())
    fields = {"text_field": "review", "label_field": "sentiment"}
    assert pairs(write("a.jsonl.gz", content), **fields) == PAIRS


def test_byte_order_mark_and_mixed_line_ends_are_read():
    content = "text\tlabel\r\ngood film\tpos\nbad\u2028film\tneg\rso, so\tneg"
    read = pairs(write("a.tsv", b"\xef\xbb\xbf" + content.encode()))
    assert read == [
        ("good film", "pos"), ("bad\u2028film", "neg"), ("so, so", "neg")
    ]  # fmt: skip


def test_a_directory_per_class_is_read():
    write("reviews/pos/1.txt", "good\nfilm")
    write("reviews/neg/a/1.txt", "bad film")
    write("reviews/neg/.git", "not a text")
    assert pairs("reviews") == [("bad film", "neg"), ("good\nfilm", "pos")]


@pytest.mark.parametrize("names", [("r.neg", "r.pos"), ("neg.txt", "pos.txt")])
def test_a_file_per_class_is_read(names):
    for name, text in zip(names, ("bad\u0085film\nso, so\n", "good film\n")):
        write(name, text)
    expected = [
        ("bad\u0085film", "neg"),
        ("so, so", "neg"),
        ("good film", "pos"),
    ]
    assert pairs(",".join(names)) == expected


def test_a_glob_of_tables_is_read():
    for number, (text, name) in enumerate(PAIRS):
        write(f"part{number}.tsv", f"text\tlabel\n{text}\t{name}\n")
    assert pairs("part*.tsv") == PAIRS


@pytest.mark.parametrize("value", [1, True, "1"])
def test_numbers_are_accepted_as_labels(value):
    write("a.jsonl", json.dumps({"text": "a", "label": value}))
    ((_, name),) = pairs("a.jsonl")
    assert name == json.dumps(value).strip('"')


def test_several_labels_per_text_are_read():
    write("a.tsv", "text\tlabel\nx\ta|b\ny\t\nz\tb|b\n")
    read = datasets.read_labelled_texts("a.tsv", label_separator="|")
    assert read.labels == [("a", "b"), (), ("b",)]
    write(
        "a.jsonl",
        '{"text": "x", "label": ["b", "a"]}\n{"text": "y", "label": []}',
    )
    assert datasets.read_labelled_texts("a.jsonl").labels == [("b", "a"), ()]


@pytest.mark.parametrize("flag", ["corpus", "text"])
def test_empty_texts_are_left_out(flag, capsys):
    write("a.tsv", "text\tlabel\n \tpos\ngood\tpos\n\tneg\n")
    assert datasets.read_labelled_texts("a.tsv", flag=flag).texts == ["good"]
    said = capsys.readouterr().err
    assert said == "warning: 2 text(s) are empty: left out\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "txt\tlabel\nx\ty\n", "a.tsv, line 1: no field 'text'"),
        ("a.tsv", "text\tlabel\nx\n", "a.tsv, line 2: no field 'label'"),
        ("a.jsonl", '{"text": "x"}', "line 1: no field 'label'"),
        ("a.jsonl", '{"text": 7, "label": "x"}', "text is not a string"),
        ("a.jsonl", "{", "a.jsonl, line 1: not JSON"),
        ("a.jsonl", "[1]", "a.jsonl, line 1: expected a JSON object"),
        ("a.jsonl", '{"text": "x", "label": {}}', "{} is not a label"),
        ("a.tsv", b"text\tlabel\n\xff\tx\n", "a.tsv is not UTF-8 text"),
        ("a.tsv", "text\tlabel\n", "contains no text"),
        ("a.tsv.gz", b"no gzip", "cannot read a.tsv.gz"),
        ("a.txt", "some text\n", "where are the labels?"),
        ("a.tsv", "text\tlabel\nx\tpos\ny\t \n", "a.tsv, line 3: no label"),
        ("a.jsonl", '{"text": "x", "label": ""}', "a.jsonl, line 1: no label"),
        ("a.jsonl", '{"text": "x", "label": null}', "'label' is null"),
        (
            "a.jsonl",
            '{"text": "x", "label": ["a", "b"]}\n{"text": "x", "label": "c"}',
            "a.jsonl, line 1: a list of labels, but a.jsonl, line 2 has a ",
        ),
        ("a.jsonl", '{"text": "x", "label": ["\\ud83d"]}', "half a character"),
        (
            "a.csv",
            "text,label\nfine,pos\n\nDear all, yes,pos\n",
            'a.csv, line 4: 3 cells, but the first line has 2: a text with '
            'commas must be quoted',
        ),
        ("a.tsv", "label\ttext\npos\ta\tb\n", "line 2: 3 cells"),
        (
            "a.csv",
            'label,text\n' + 'pos,x\n' * 9 + 'pos,"great\nneg,awful\n',
            "a.csv, line 11: a quote that begins here is never closed",
        ),
        ("a.csv", "text,label,text\na,b,c\n", "line 1: two columns are named"),
        ("a.csv", "text;label\na;b\n", "line 1: no field 'text' (there are "
         "text;label): its columns are separated by semicolons"),
        ("a.tsv", '"text"\t"label"\n"a"\t"b"\n', "quoted cells are for"),
        ("a.tsv", "Arabic\tAamer\n", "the first line names the columns, such"),
        ("a.tsv", 'text\tlabel\n"two\nlines"\tpos\n', "line 2: a quote is not"),
        ("a.tsv", b"text\tlabel\nx\0\tpos\n", "zero byte at 12, line 2"),
        ("a.tsv", "text\tlabel\n".encode("utf-16"), "a.tsv is UTF-16 text"),
        ("a.csv", b"PK\x03\x04", "a.csv is not plain text but a zip archive"),
        ("a.txt", "__label__pos good\n", "__label__ marks fastText's"),
        ("dir/train/a.txt", "a\n", "not classes"),
        ("dir/a.txt", "some text\n", "contains no directories"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_file_and_line(name, content, message):
    write(name, content)
    if "train" in name:
        write(name.replace("train", "test"), content)
    source = "dir" if name.startswith("dir") else name
    with pytest.raises(UserError) as error:
        datasets.read_labelled_texts(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_splits_are_not_classes():
    for name in ("c.train", "c.valid"):
        write(name, "good\n")
    with pytest.raises(UserError, match="train, valid are parts of a data set"):
        datasets.read_labelled_texts("c.*")


def test_texts_without_labels_are_no_class(capsys):
    """As in the directory of the large IMDB data set."""
    for name in ("neg", "pos", "unsup"):
        write(f"dir/{name}/1.txt", name)
    assert pairs("dir") == [("neg", "neg"), ("pos", "pos")]
    assert "unsup holds texts without labels" in capsys.readouterr().err


def test_a_table_beside_another_kind_of_file_is_named():
    write("a.tsv", "text\tlabel\nx\tpos\n")
    write("b.txt", "x\n")
    with pytest.raises(UserError, match="b.txt is neither .tsv nor .csv"):
        datasets.read_labelled_texts("a.tsv,b.txt")


def test_directories_of_classes_are_named_by_their_parent():
    for name in ("pos/1.txt", "neg/1.txt"):
        write(name, "x")
    for source in ("pos,neg", "*"):
        with pytest.raises(UserError, match=r"(pos|neg) is a directory: give"):
            datasets.read_labelled_texts(source)


def test_empty_surplus_cells_are_ignored():
    write("a.csv", "text,label,note\ngood,pos,,\nbad,neg\n")
    assert pairs("a.csv") == [("good", "pos"), ("bad", "neg")]


def test_quoted_texts_in_a_tsv_are_warned_of_once(capsys):
    write("a.tsv", "text\tlabel\n" + '"He said ""hi"", ok"\tpos\n' * 2)
    assert len(pairs("a.tsv")) == 2
    said = capsys.readouterr().err
    assert "a.tsv, line 2: a text in quotes" in said and said.count("\n") == 1


def test_hidden_directories_and_runs_are_not_classes():
    for name in ("pos/1.txt", "neg/1.txt", ".ipynb_checkpoints/1.txt",
                 "pos/.ipynb_checkpoints/1.txt", "runs/x/config.flags",
                 "runs/x/history.csv", "saved_models/x/1/saved_model.pb",
                 "empty/.keep"):  # fmt: skip
        write(f"reviews/{name}", name)
    assert pairs("reviews") == [("neg/1.txt", "neg"), ("pos/1.txt", "pos")]


def test_a_label_separator_may_be_a_tab_and_its_absence_warns(capsys):
    write("a.jsonl", json.dumps({"text": "x", "label": "a\tb"}))
    read = datasets.read_labelled_texts("a.jsonl", label_separator=r"\t")
    assert read.labels == [("a", "b")]
    assert capsys.readouterr().err == ""
    datasets.read_labelled_texts("a.jsonl", label_separator=";")
    said = capsys.readouterr().err
    assert "--label_separator=';' occurs in no label" in said


def test_fields_may_be_as_long_as_a_c_long_allows(monkeypatch):
    """On Windows it has 32 bits, and Python refuses larger limits."""
    limits = []
    monkeypatch.setattr("csv.field_size_limit", limits.append)
    write("a.csv", "text,label\nx,pos\n")
    assert pairs("a.csv") == [("x", "pos")]
    assert limits and max(limits) < 2**31


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match="--text=nowhere.tsv: no such file"):
        datasets.read_labelled_texts("nowhere.tsv", flag="text")


def test_imdb_comes_from_the_keras_cache(monkeypatch):
    """With files as Keras downloads them: ids of words, and the words."""
    monkeypatch.setenv("KERAS_HOME", str(pathlib.Path.cwd()))

    def load_data(index_from):
        reviews = np.array([[1, 4, 5], [1, 2, 6]], dtype=object)
        assert index_from == 3
        return (reviews, np.array([1, 0])), (reviews[1:], np.array([0]))

    imdb = labelled_texts.keras.datasets.imdb
    monkeypatch.setattr(imdb, "load_data", load_data)
    monkeypatch.setattr(
        imdb, "get_word_index", lambda: {"a": 1, "joy": 2, "bore": 3}
    )
    assert pairs("imdb") == [("a joy", "positive"), ("bore", "negative")]
    # What a classifier is scored on is what it has not seen.
    assert pairs("imdb", flag="text") == [("bore", "negative")]


# Batches ----------------------------------------------------------------------


def config(source, **options):
    return configs.TrainConfig(task="classifier", corpus=source, **options)


@pytest.fixture
def table():
    """100 texts of lengths 1 to 50, a quarter of them rare."""
    lines = ["text\tlabel"]
    for number in range(100):
        name = "rare" if number % 4 == 0 else "common"
        lines.append("ab"[number % 2] * (1 + number // 2) + "\t" + name)
    return write("a.tsv", "\n".join(lines))


def test_each_epoch_has_every_text_once_in_a_new_order(table):
    data = datasets.load_classification_data(
        config(table, batch_size=4, validation_fraction=0.2, sequence_length=60)
    )
    orders = []
    for epoch in range(2):
        rows = []
        for step in range(data.training.steps_per_epoch):
            page = data.training.page(
                epoch * data.training.steps_per_epoch + step
            )
            inputs, targets = data.training.batch(step, page, range(4))
            assert inputs["mask"].shape[1] % 8 == 0
            for ids, mask, (target,) in zip(
                inputs["token_ids"].numpy(), inputs["mask"].numpy(), targets
            ):
                assert not ids[~mask].any()
                if target >= 0:
                    rows.append((*ids[mask].tolist(), int(target)))
        assert len(rows) == 80
        orders.append(rows)
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_the_split_has_the_same_part_of_each_class(table):
    data = datasets.load_classification_data(
        config(table, validation_fraction=0.2)
    )
    assert data.validation_texts.counts == {"common": 15, "rare": 5}
    assert list(data.labels) == ["common", "rare"]


def split_of(lines, **options):
    """Returns the texts to train on and those that validate."""
    write("split.tsv", "\n".join(["text\tlabel", *lines]))
    data = datasets.load_classification_data(
        config("split.tsv", tokenizer="char", **options)
    )
    characters = data.tokenizer.to_dict()["vocabulary"]
    training = [
        "".join(characters[number] for number in ids)
        for ids in data.training.token_ids
    ]
    return training, data.validation_texts and data.validation_texts.texts


@pytest.mark.parametrize("seed", range(4))
def test_equal_texts_are_on_one_side_of_the_split(seed):
    """Even if their labels differ."""
    rng = np.random.default_rng(seed)
    lines = [
        f"{' ' * (copy % 2)}text {number}\t{'xy'[rng.integers(2)]}"
        for number in range(40)
        for copy in range(1 + number % 9)
    ]
    training, validation = split_of(lines, seed=seed)
    assert not {text.strip() for text in training} & {
        text.strip() for text in validation
    }
    assert 0.06 < len(validation) / len(lines) < 0.14
    assert len(training) + len(validation) == len(lines)


def test_the_split_of_distinct_texts_never_changes():
    """Published figures were measured on such splits."""
    lines = [f"text {number}\t{'xyy'[number % 3]}" for number in range(100)]
    _, validation = split_of(lines, seed=5)
    rng, expected = np.random.default_rng(5), set()
    for rows in (range(0, 100, 3), [n for n in range(100) if n % 3]):
        expected |= set(rng.permutation(rows)[: len(rows) // 10].tolist())
    assert validation == [f"text {number}" for number in sorted(expected)]


@pytest.mark.parametrize(
    "lines",
    [
        [f"a {number}\t{number % 2}" for number in range(12)],
        [f"{'ab'[number % 2]}\t{number % 2}" for number in range(99)],
    ],
)
def test_a_missing_validation_part_is_reported_or_refused(lines, capsys):
    assert split_of(lines)[1] is None
    said = capsys.readouterr().err
    assert "text(s) has the 10 different texts needed to hold out 10%" in said
    assert said.count("\n") == 1
    split_of(lines, validation_fraction=0.0)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="--early_stopping=3: no text to valid"):
        split_of(lines, early_stopping=3)


def test_a_class_that_does_not_validate_is_named(capsys):
    lines = [f"a {number}\tcommon" for number in range(20)]
    lines += [f"b {number}\trare" for number in range(9)]
    assert len(split_of(lines)[1]) == 2
    said = capsys.readouterr().err
    assert "the validation set has no text of the class 'rare'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_text_of_each_class_is_left_to_train_on(seed):
    lines = [f"{'abcd'[number % 4]}\t{number % 2}" for number in range(80)]
    training, validation = split_of(lines, validation_fraction=0.9, seed=seed)
    assert len(training) == 40 and len(validation) == 40
    assert len(set(training)) == 2


def test_long_texts_are_cut_and_counted(table):
    data = datasets.load_classification_data(
        config(table, sequence_length=45, validation_fraction=0.0)
    )
    assert data.num_truncated == 10
    assert data.training.sequence_length == 48  # 45, and a multiple of 8
    assert data.validation is None


def test_class_weights_are_balanced(table):
    data = datasets.load_classification_data(
        config(table, class_weights=True, validation_fraction=0.0)
    )
    np.testing.assert_allclose(data.class_weights, [100 / 150, 100 / 50])


def test_the_vocabulary_does_not_depend_on_the_order_of_classes():
    """A full vocabulary must not keep the words of one class alone."""
    lines = [f"n{number}\tneg\n" for number in range(50)]
    lines += [f"p{number}\tpos\n" for number in range(50)]
    write("a.tsv", "text\tlabel\n" + "".join(lines))
    data = datasets.load_classification_data(
        config("a.tsv", tokenizer="word"), vocabulary_size=40
    )
    words = data.tokenizer.to_dict()["vocabulary"]
    assert 10 < sum(word.strip().startswith("p") for word in words) < 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tx\nb\tx\n", "all 2 .* have the label 'x', but at least 2 labels"),
        (
            "".join(f"a\t{n}\n" for n in range(9)),
            "9 labels need at least 18 texts, and there are 9",
        ),
    ],
)
def test_bad_labels_are_refused(content, message):
    write("a.tsv", "text\tlabel\n" + content)
    with pytest.raises(UserError, match=message):
        datasets.load_classification_data(config("a.tsv"))
