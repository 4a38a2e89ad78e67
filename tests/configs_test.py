"""Every setting is checked, is a flag, and is used."""

import ast
import dataclasses
import errno
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from stacked_rnn import configs, tokenizers
from stacked_rnn.cli import flags
from stacked_rnn.utils import files, terminal
from tests.helpers import ROOT

CONFIGS = [configs.ModelConfig, configs.TrainConfig, configs.SamplingConfig]


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_survive_json(kind):
    config = kind()
    assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (configs.ModelConfig, {"cell": "gruu"}, "--cell='gruu'.*gru, lstm"),
        (configs.ModelConfig, {"num_layers": 9}, "--num_layers=9.*<= 8"),
        (configs.ModelConfig, {"units": 2.5}, "--units=2.5.*int"),
        (configs.ModelConfig, {"units": True}, "--units=True.*int"),
        (configs.ModelConfig, {"dropout": 1.0}, "--dropout=1.0.*< 1"),
        (configs.ModelConfig, {"dropout": math.nan}, "--dropout=nan"),
        (configs.TrainConfig, {"learning_rate": -1.0}, "learning_rate=-1"),
        (configs.TrainConfig, {"learning_rate": math.inf}, "learning_rate=inf"),
        (configs.TrainConfig, {"epochs": 0}, "--epochs=0.*--max_minutes"),
        (configs.TrainConfig, {"epochs": -1}, "expected 0 <= epochs"),
        (configs.TrainConfig, {"optimizer": "adm"}, "adam, adamw"),
        (configs.TrainConfig, {"carry_state": "no"}, "='no': expected True or"),
        (configs.TrainConfig, {"resume": 1}, "--resume=1: expected True or"),
        (configs.TrainConfig, {"document_separator": None}, "=None.*a string"),
        (configs.SamplingConfig, {"temperature": math.inf}, "temperature=inf"),
        (configs.SamplingConfig, {"top_p": 1.5}, "--top_p=1.5"),
        (configs.SamplingConfig, {"seed": -1}, "--seed=-1"),
        (configs.ServeConfig, {"max_tokens": 2_000_000}, "<= 1000000"),
    ],
)
def test_bad_values_are_quoted_with_the_range(kind, values, message):
    with pytest.raises(configs.UserError, match=message):
        kind(**values)


def test_a_path_is_a_string_without_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = [
        (kind, field.name)
        for kind in vars(configs).values()
        if isinstance(kind, type) and issubclass(kind, configs.Config)
        for field in dataclasses.fields(kind)
        if field.metadata["is_path"]
    ]
    assert {name for _, name in paths} == {
        "api_keys_file", "attention", "cache_dir", "chat_template",
        "export_dir", "init_from", "model_dir", "output", "saved_model",
        "tune_dir",
    }  # fmt: skip
    for kind, name in paths:
        for path in ("~/a.html", pathlib.Path("~/a.html")):
            assert getattr(kind(**{name: path}), name) == "/home/me/a.html"
    # Of several paths, each is expanded as it is read.
    assert configs.TrainConfig(corpus=pathlib.Path("~/a")).corpus == "~/a"
    for value in (pathlib.Path("a"), b"a"):
        with pytest.raises(configs.UserError, match="expected"):
            configs.ModelConfig(units=value)


def test_whole_numbers_are_floats_where_a_setting_is_one():
    config = configs.BeamConfig(length_penalty=1, num_beams=2)
    assert [type(value) for value in config.to_dict().values()] == [
        int, float, int,
    ]  # fmt: skip


def test_early_stopping_needs_validation():
    for without in (
        {"validation_fraction": 0.0},
        {"train_windows": 10, "validation_windows": 0},
    ):
        with pytest.raises(configs.UserError, match="--early_stopping"):
            configs.TrainConfig(early_stopping=1, **without)
        configs.TrainConfig(**without)


def test_an_average_begins_before_early_stopping_ends_the_run():
    averaged = {"average_decay": 0.9, "average_patience": 2}
    with pytest.raises(configs.UserError, match="--early_stopping=2 ends"):
        configs.TrainConfig(early_stopping=2, **averaged)
    for stops in (0, 3):
        configs.TrainConfig(early_stopping=stops, **averaged)
    configs.TrainConfig(early_stopping=2, average_patience=2)


def test_an_unknown_setting_in_a_file_is_named():
    with pytest.raises(configs.UserError, match="no setting named widht"):
        configs.ModelConfig.from_dict({"widht": 3})


def test_differences_name_the_fields():
    old, new = configs.ModelConfig(units=32), configs.ModelConfig(units=64)
    assert new.differences(old) == ["units: 32, not 64"]
    assert new.differences(new) == []


def test_flags_file_holds_every_setting():
    text = configs.to_flags(configs.ModelConfig(residual=True))
    assert "--residual\n" in text and "--nobidirectional\n" in text
    assert "--cell=gru\n" in text
    fields = dataclasses.fields(configs.ModelConfig)
    assert len(text.splitlines()) == len(fields) - 1
    assert "end_of_text" not in text  # which --document_separator sets
    assert "resume" not in configs.to_flags(configs.TrainConfig())


def attributes_read(path):
    """Owner and name of what a source reads: self._config.port is a read of
    "port" from "_config", and options["top_k"] one of "top_k" from "options".
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(ctx=ast.Load()):
                yield ast.unparse(node.value).split(".")[-1], node.attr
            case ast.Subscript(slice=ast.Constant(str(name))) | ast.Call(
                ast.Attribute(attr="get"), [ast.Constant(str(name))]
            ):
                owner = getattr(node, "func", node).value
                yield ast.unparse(owner).split(".")[-1], name


def test_no_knob_is_dead():
    """Every setting is read from a configuration somewhere.

    Copying, comparing and writing settings by name does not count.
    """
    kinds = {
        kind
        for kind in vars(configs).values()
        if isinstance(kind, type) and issubclass(kind, configs.Config)
    }
    sources = (ROOT / "stacked_rnn").rglob("*.py")
    read = {
        (owner == "self", name)
        for path in sources
        if path.parent.name != "configs" or path.name == "commands.py"
        for owner, name in attributes_read(path)
        if re.search("config$|sampling$|^defaults$|^options$|^self$", owner)
    }
    dead = [
        f"{kind.__name__}.{field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if (False, field.name) not in read
        # Settings of a command may be read in its own properties.
        and (kind.__module__ != "stacked_rnn.configs.commands"
             or (True, field.name) not in read)
    ]  # fmt: skip
    assert {configs.TrainConfig, configs.PredictConfig} < kinds
    assert dead == []


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_help_is_a_sentence(kind):
    for field in dataclasses.fields(kind):
        assert len(field.metadata["help"]) > 15, field.name
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--units=64,64", "--units=64,64: not a whole number"),
        ("--dropout=hot", "--dropout=hot: not a number"),
        ("--cell=gruu", "--cell=gruu: choose from gru|lstm|simple_rnn"),
        ("--residual=maybe", "--residual=maybe: neither true nor false"),
        ("--noresidual=3", "--noresidual=3 does not take an argument"),
        ("--unit=3", "--unit: there is no such flag. Did you mean --units?"),
        ("--flagfile=no.flags", "--flagfile=no.flags: No such file or"),
        ("--num_layers=9", "--num_layers=9: expected 1 <= num_layers <= 8"),
        ("--vocabulary_size=-1", "-1: expected 0 <= vocabulary_size\n"),
    ],
)
def test_invalid_arguments_are_one_line(argument, words):
    program = (
        "from stacked_rnn import configs\n"
        "from stacked_rnn.cli import flags\n"
        "flags.run(lambda model_config: None, configs.ModelConfig)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, argument], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stdout == ""
    assert words in ran.stderr and ran.stderr.count("\n") == 1


def test_directories_are_created_and_checked_for_writing(tmp_path):
    assert terminal.writable_directory("x", tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(configs.UserError, match="--model_dir=.*file"):
        terminal.writable_directory("model_dir", tmp_path / "file" / "run")


def test_a_flag_of_earlier_versions_is_ignored():
    """It is as if nobody had given it: config.flags of old runs have it."""
    program = (
        "from stacked_rnn import configs\n"
        "from stacked_rnn.cli import flags\n"
        "flags.run(lambda _: print(sorted(flags.given_flags())),"
        " configs.ModelConfig)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "--end_of_text", "--units=3"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout == "['units']\n"


def test_a_full_disk_is_one_line_that_names_the_file(
    tmp_path, monkeypatch, capsys
):
    def main():
        with files.whole_file(tmp_path / "curves.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(flags.app, "run", lambda run, **_: run(["train.py"]))
    with pytest.raises(SystemExit, match="2"):
        flags.run(main)
    said = capsys.readouterr().err
    assert f"error: cannot write {tmp_path / 'curves.png'}: No space" in said
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_lack_of_memory_is_one_line(capsys):
    with (
        pytest.raises(SystemExit, match="2"),
        flags._errors_in_a_line("evaluate.py"),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")
    said = capsys.readouterr().err
    assert said.startswith("evaluate.py: error: out of memory: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("size", [9, 99_999])
def test_a_full_disk_is_one_line_for_the_output(size):
    """Also where it is so short that it is written at the end."""
    program = (
        "from stacked_rnn.cli import flags\n"
        "flags.quiet_import.import_tensorflow = lambda **_: None\n"
        f"flags.run(lambda: print('x' * {size}))"
    )
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", program], stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("-c: error: cannot write the output: No space")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("count", "end"), [(1, "unknown: '0'\n"), (20, "'19'\n"), (1025, "more\n")]
)
def test_unknown_parts_are_one_warning(count, end, capsys):
    terminal.warn_of_unknown_parts([str(part) for part in range(count)])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("warning: ") and captured.err.endswith(end)
    assert captured.err.count("' '") == min(count, 20) - 1
    assert ("'19' and 1,005 more" in captured.err) == (count > 20)
    terminal.warn_of_unknown_parts([])
    assert capsys.readouterr().err == ""


def test_given_flags_override_the_defaults_of_a_task():
    model_config, train_config = configs.with_task_defaults(
        configs.ModelConfig(units=100),
        configs.TrainConfig(task="classifier"),
        {"units", "task"},
    )
    assert model_config.units == 100 and model_config.pooling == "max"
    assert train_config.tokenizer == "word"


@pytest.mark.parametrize(
    ("task", "settings", "epochs"),
    [
        ("language_model", {}, 4),
        ("language_model", {"max_minutes": 3.0}, 0),
        ("classifier", {}, 8),
        ("classifier", {"max_minutes": 3.0}, 0),
        ("seq2seq", {"max_minutes": 3.0, "epochs": 7}, 7),
    ],
)
def test_max_minutes_without_epochs_leaves_their_number_open(
    task, settings, epochs
):
    asked = configs.TrainConfig(task=task, **settings)
    _, config = configs.with_task_defaults(
        configs.ModelConfig(), asked, {"task", *settings}
    )
    assert config.epochs == epochs


@pytest.mark.parametrize(
    ("started", "python", "path", "expected"),
    [
        ("train.py", "venv/bin/python", "venv/bin", "python generate.py"),
        ("train.py", "venv/bin/python", "", "venv/bin/python generate.py"),
        ("a b/train.py", "venv/bin/python", "other/bin",
         "venv/bin/python 'a b/generate.py'"),
        ("venv/bin/stacked-rnn train", "venv/bin/python", "venv/bin",
         "stacked-rnn generate"),
        ("venv/bin/stacked-rnn train", "venv/bin/python", "other/bin",
         "venv/bin/stacked-rnn generate"),
    ],
)  # fmt: skip
def test_suggested_commands_are_called_as_this_one_was(
    started, python, path, expected, tmp_path, monkeypatch
):
    for name in ("venv/bin", "other/bin"):
        for program in ("python", "stacked-rnn"):
            file = tmp_path / name / program
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(sys, "executable", str(tmp_path / python))
    monkeypatch.setenv("PATH", str(tmp_path / path))
    assert terminal.script("generate") == expected


def test_every_default_of_a_task_is_a_setting():
    names = {
        field.name
        for kind in (configs.ModelConfig, configs.TrainConfig)
        for field in dataclasses.fields(kind)
    }
    for info in configs.TASKS.values():
        assert {*info.defaults, *info.ignored, *info.free_settings} <= names
        assert info.reset_settings.keys() <= names


def test_a_large_share_of_unknown_tokens_is_one_warning(capsys):
    for kind in ("word", "char"):
        tokenizer = tokenizers.build(kind, b"a b c")
        terminal.warn_of_unknown_share(0.08, tokenizer)
        assert capsys.readouterr().err == ""
        terminal.warn_of_unknown_share(1 / 3, tokenizer)
        said = capsys.readouterr().err
        assert "33% of the tokens are not in" in said
        assert said.count("\n") == 1
        assert ("--vocabulary_size" in said) == (kind == "word")


def test_flags_of_text_accept_escapes():
    assert configs.unescaped(r"a\n\t\r\\n\x\\\n") == "a\n\t\r\\n\\x\\\n"
    config = configs.GenerateConfig(stop=(r"\n", "\n", "a", r"\\n"))
    assert config.stop_strings == ("\n", "\n", "a", r"\n")


def test_invalid_strings_are_refused():
    for make in (
        lambda: configs.GenerateConfig(stop=("a", "")),
        lambda: configs.GenerateConfig(stop=("\udcff",)),
        lambda: configs.TrainConfig(document_separator="\udcff"),
        lambda: configs.TrainConfig(label_separator="\udcff"),
    ):
        with pytest.raises(configs.UserError, match="--.*: .*") as error:
            make()
        assert str(error.value).isprintable()


@given(st.text())
@example(" \n ")
@example("\\n")
@example("  ")
@example("a # b")
def test_separators_are_normalized_to_one_line(text):
    """Flag files lose line breaks, and blanks at the ends."""
    config = configs.TrainConfig(document_separator=text, label_separator=text)
    written = config.document_separator
    assert written == config.label_separator
    assert configs.unescaped(written) == configs.unescaped(text)
    assert not set("\n\r\t") & set(written)
    assert written == written.strip(" ")
    again = configs.TrainConfig(document_separator=written)
    assert again.document_separator == written
