"""The commands as a person runs them: in a directory, with flags."""

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from stacked_rnn import configs
from stacked_rnn.cli import train
from tests.helpers import ROOT, pages
from tests.helpers.processes import run, run_anew
from tests.helpers.waiting import read_until

TEXT = "The cat sat on the mat. The dog lay on the log.\n" * 40
SMALL = (
    "--corpus=cats.txt", "--units=16", "--embedding_dim=8", "--epochs=2",
    "--batch_size=8", "--sequence_length=20", "--nojit_compile",
)  # fmt: skip


def assert_fails(ran, *words):
    """One clear line on standard error, no traceback, nothing on the other."""
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    lines = [
        line for line in ran.stderr.splitlines() if "error" in line.lower()
    ]
    assert len(lines) == 1, ran.stderr
    for word in words:
        assert word in ran.stderr
    assert ran.stdout == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory where train.py has run once."""
    directory = tmp_path_factory.mktemp("work")
    (directory / "cats.txt").write_text(TEXT)
    ran = run_anew(directory, "train.py", *SMALL)
    assert ran.returncode == 0, ran.stderr
    (directory / "train.log").write_text(ran.stdout)
    return directory


def test_train_leaves_a_run_and_a_saved_model(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*")}
    assert {
        "runs/cats/config.flags",
        "runs/cats/history.csv",
        "runs/cats/curves.png",
        "runs/cats/checkpoints/last/checkpoint",
        "runs/cats/checkpoints/best/checkpoint",
        "runs/cats/tensorboard/train",
        "runs/cats/tensorboard/validation",
        "saved_models/cats/1/saved_model.pb",
        "saved_models/cats/1/assets/tokenizer.json",
        "saved_models/cats/1/assets.extra/config.json",
    } <= files
    assert not [name for name in files if "partial" in name]


def test_tensorboard_has_curves_samples_and_settings(trained):
    tags = {
        value.tag
        for path in (trained / "runs/cats/tensorboard/train").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert {
        "epoch_loss", "epoch_perplexity", "epoch_bits_per_character",
        "epoch_gradient_norm", "epoch_learning_rate",
        "epoch_tokens_per_second", "sample",
        "_hparams_/session_start_info",
    } <= tags  # fmt: skip


def test_train_says_what_it_does_and_what_comes_next(trained):
    log = (trained / "train.log").read_text()
    for words in (
        "parameters", "Epoch 2/2  loss ", "  val_loss ", " bits/char  ",
        " tokens/s  ", "sample:", "Exported saved_models/cats/1",
        "generate.py --saved_model=saved_models/cats/1 --prompt='",
    ):  # fmt: skip
        assert words in log
    assert max(map(len, re.findall("^Epoch.*", log, re.MULTILINE))) < 80
    assert "WARNING" not in log and "I0000" not in log


def test_the_same_command_goes_on_and_config_flags_repeat_the_run(trained):
    more = run(
        trained, "train.py", "--flagfile=runs/cats/config.flags", "--epochs=3"
    )
    assert more.returncode == 0, more.stderr
    assert "resuming at step" in more.stdout
    assert "Epoch 3/3" in more.stdout and "Epoch 2" not in more.stdout


def test_a_finished_run_says_so_and_exports_nothing_new(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (*SMALL, "--epochs=1")
    first = run(tmp_path, "train.py", *flags)
    assert first.returncode == 0, first.stderr
    again = run(tmp_path, "train.py", *flags, "--max_minutes=5")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    for words in (
        "Nothing is left to do", "saved_models/cats/1",
        "--epochs=2 continues it", "--noresume starts over",
    ):  # fmt: skip
        assert words in again.stdout
    versions = tmp_path / "saved_models/cats"
    assert [path.name for path in versions.iterdir()] == ["1"]
    # Where the export is gone, or asked for elsewhere, it is made again.
    shutil.rmtree(versions)
    elsewhere = run(tmp_path, "train.py", *flags, "--export_dir=elsewhere")
    assert "Exported elsewhere/1" in elsewhere.stdout


def test_another_learning_rate_is_another_run_and_a_worse_one(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (*SMALL, "--epochs=1")
    assert run(tmp_path, "train.py", *flags).returncode == 0
    other = run(tmp_path, "train.py", *flags, "--learning_rate=1e-06")
    assert other.returncode == 0, other.stderr
    assert (
        "moved the run that was in runs/cats to runs/cats.1 "
        "(learning_rate: 0.004, not 1e-06)"
    ) in other.stdout
    assert "Exported saved_models/cats/2" in other.stdout
    assert re.fullmatch(
        r"warning: saved_models/cats/2 takes the place of version 1 .* it "
        r"validates worse .* bits/char, not .*"
        r"delete saved_models/cats/2; .*\n",
        other.stderr,
    )


def test_a_second_process_in_the_same_directory_is_refused(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (*SMALL, "--epochs=1000")
    first = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *flags], cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        read_until(first, "Epoch")
        second = run(tmp_path, "train.py", *flags, "--units=17")
        assert_fails(second, "--model_dir=runs/cats: another process")
    finally:
        first.kill()
        first.communicate()
    # The system has taken the lock of the killed one back.
    more = run(tmp_path, "train.py", *SMALL, "--epochs=1", "--max_minutes=0.01")
    assert more.returncode == 0, more.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cats"]


def test_no_environment_stops_a_training(tmp_path):
    """Output that lacks the letters, arguments in ASCII, another Keras."""
    text = "\u043a\u043e\u0442 \u0441\u043f\u0438\u0442\u3002" * 80
    (tmp_path / "cats.txt").write_text(text, encoding="utf-8")
    environment = os.environ | {
        "PYTHONIOENCODING": "cp1252", "LC_ALL": "POSIX", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0", "KERAS_BACKEND": "jax",
        "TF_USE_LEGACY_KERAS": "1",
    }  # fmt: skip
    for words, expected in (
        (["train.py", *SMALL, "--epochs=1", "--document_separator=\u3002"],
         b"Exported"),
        (["generate.py", "--prompt=\u043a\u043e"], rb"\u043a\u043e"),
    ):  # fmt: skip
        ran = subprocess.run(
            [sys.executable, ROOT / words[0], *words[1:]],
            cwd=tmp_path, capture_output=True, check=False, env=environment,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert expected in ran.stdout


def test_other_floats_in_keras_json_change_nothing(tmp_path):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras/keras.json").write_text('{"floatx": "float16"}')
    (tmp_path / "cats.txt").write_text(TEXT)
    ran = run_anew(tmp_path, "train.py", *SMALL)
    assert ran.returncode == 0 and ran.stderr == ""
    assert ", float32, " in ran.stdout


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_signals_stop_a_training_with_an_export(name, tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    # Where nohup runs the tests, a process that they start would ignore it.
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *SMALL, "--epochs=9999"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(getattr(signal, name), before)
    read_until(process, "sample:")
    process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopping after this step" in output
    assert "the same command resumes from there" in output
    assert "Exported" in output


@pytest.mark.skipif(sys.platform == "win32", reason="there is no nohup")
def test_a_training_under_nohup_goes_on(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    process = subprocess.Popen(
        ["nohup", sys.executable, ROOT / "train.py", *SMALL],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    read_until(process, "sample:")
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Epoch 2/2" in output and "stopping" not in output


def test_a_training_whose_output_nobody_reads_goes_on(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *SMALL], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()  # as head -1 does
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 0, errors
    assert errors.splitlines() == [
        "note: cannot write the output (Broken pipe); the program continues"
    ]
    assert (tmp_path / "saved_models/cats/1/saved_model.pb").exists()


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("Dr. Seuss.txt", "Dr. Seuss"),
        ("v1.2 final.txt.gz", "v1.2 final"),
        ("rt-polarity.*", "rt-polarity"),
        ("texts/poems", "poems"),
        ("a.txt,b.txt", "a"),
        ("-", "corpus"),
        (".", "corpus"),
        ("pydoc", "pydoc"),
    ],
)
def test_names_of_runs(corpus, name):
    assert train._name_of(corpus) == name


def test_the_next_commands_run_as_they_stand(tmp_path):
    corpus = tmp_path / "it's (my) novel.txt"
    corpus.write_text(TEXT)
    ran = run(tmp_path, "train.py", *SMALL, f"--corpus={corpus.name}",
              "--epochs=1")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if "generate.py" in line]
    _, script, flag, prompt = shlex.split(lines[0])
    assert flag == "--saved_model=saved_models/it's (my) novel/1"
    begin = prompt.removeprefix("--prompt=")
    assert begin in TEXT and not begin.endswith(" ")
    generated = run(tmp_path, script, flag, prompt)
    assert generated.returncode == 0
    assert generated.stdout.startswith(begin)


@pytest.mark.parametrize(("size", "separator"), [(40, "\n"), (0, " ")])
def test_config_flags_repeat_a_run_of_words_with_ends(
    size, separator, tmp_path
):
    """The token that ends a document is not among those asked for, and the
    separator may be what a line of a flag file loses."""
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (
        *SMALL, "--epochs=1", "--tokenizer=word",
        f"--document_separator={separator}", f"--vocabulary_size={size}",
    )  # fmt: skip
    first = run(tmp_path, "train.py", *flags)
    assert first.returncode == 0, first.stderr
    assert "--prompt" not in first.stdout  # a text begins with its document
    again = run(tmp_path, "train.py", "--flagfile=runs/cats/config.flags")
    assert "Nothing is left to do" in again.stdout, again.stdout + again.stderr


def test_generate_needs_no_further_flags(trained):
    ran = run_anew(
        trained, "generate.py", "--prompt=The ", "--max_new_tokens=40"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("The ") and len(ran.stdout) == 45
    named = r"the newest model: --saved_model=saved_models/cats/\d\n"
    assert re.fullmatch(named, ran.stderr)


def test_generate_warns_once_of_unknown_characters(trained):
    ran = run(
        trained, "generate.py", "--prompt=caf\u00e9", "--prompt=\u00e9\u00e9",
        "--num_samples=2", "--max_new_tokens=5",
    )  # fmt: skip
    assert ran.returncode == 0
    assert ran.stderr.count("warning") == 1 and "\u00e9" in ran.stderr
    assert ran.stdout.count("caf\u00e9") == 2


def test_generate_writes_json_lines(trained):
    (trained / "prompts.txt").write_text("The \nA dog\n")
    ran = run(
        trained, "generate.py", "--prompts_file=prompts.txt", "--output=jsonl",
        "--seed=7", "--stop=.", "--max_new_tokens=80", "--temperature=0",
    )  # fmt: skip
    first, second = map(json.loads, ran.stdout.splitlines())
    assert (first["prompt"], second["prompt"]) == ("The ", "A dog")
    assert first["seed"] == 7
    assert set(first) == {
        "prompt", "text", "seed", "finish_reason", "mean_log_prob",
    }  # fmt: skip
    assert "." not in first["text"] + second["text"]


def test_stop_strings_are_written_with_escapes(trained):
    ran = run(
        trained, "generate.py", "--prompt=The cat", r"--stop=\n",
        "--output=jsonl", "--temperature=1", "--max_new_tokens=5000",
        "--stop=\u4e2d",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["finish_reason"] == "stop" and "\n" not in found["text"]
    assert ran.stderr.count("\n") == 2  # and which model was taken
    assert "--stop='\u4e2d' never occurs: the model's vocab" in ran.stderr


def test_prompts_come_from_files_of_all_kinds(trained):
    (trained / "prompts.txt.gz").write_bytes(
        gzip.compress(b"\xef\xbb\xbfThe \r\nthe dog")
    )
    flags = "--saved_model=saved_models/cats --output=jsonl --max_new_tokens=5"
    command = f"{sys.executable} {ROOT}/generate.py {flags} --prompts_file="
    for source in ("prompts.txt.gz", "<(cat prompts.txt.gz)",
                   "- < prompts.txt.gz"):  # fmt: skip
        ran = subprocess.run(
            ["bash", "-c", command + source], cwd=trained, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        found = [json.loads(line) for line in ran.stdout.splitlines()]
        assert [one["prompt"] for one in found] == ["The ", "the dog"]
        assert ran.stderr == ""


def test_lines_that_are_entered_are_read_as_text(trained):
    command = [
        sys.executable, ROOT / "generate.py", "--interactive",
        "--saved_model=saved_models/cats", "--max_new_tokens=1", "--stop=\n",
    ]  # fmt: skip
    for entered, code, words in (
        (b"\xef\xbb\xbfThe \r\nthe dog\n", 0, ""),
        (b"caf\xe9\n", 2, "--interactive: a line is not UTF-8 text\n"),
    ):
        ran = subprocess.run(
            command, cwd=trained, input=entered, capture_output=True,
            check=False,
        )  # fmt: skip
        assert ran.returncode == code
        assert ran.stderr.decode().endswith(words)
        if not code:
            assert ran.stdout.count(b"\n") == 2 and ran.stderr == b""


def test_generate_searches_with_beams(trained):
    (trained / "prompts.txt").write_text("The \nA dog\n")
    ran = run(
        trained, "generate.py", "--prompts_file=prompts.txt", "--num_beams=4",
        "--num_samples=2", "--length_penalty=0.5", "--stop=.", "--seed=7",
        "--output=jsonl", "--max_new_tokens=40",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    prompts = [text["prompt"] for text in found]
    assert prompts == ["The ", "The ", "A dog", "A dog"]
    assert {text["seed"] for text in found} == {7}
    assert all("." not in text["text"] for text in found)
    assert len({(text["prompt"], text["text"]) for text in found}) == 4


def test_what_beam_search_cannot_do_is_one_line():
    for changes, message in (
        ({"num_samples": 5}, "--num_samples=5.*--num_beams=4"),
        ({"interactive": True}, "--interactive.*--num_beams=4"),
        ({"stream": True}, "--stream.*--num_beams=4"),
    ):
        with pytest.raises(configs.UserError, match=message):
            configs.GenerateConfig(num_beams=4, **changes)
        configs.GenerateConfig(**changes)


def test_evaluate_prints_one_json_object(trained):
    ran = run(trained, "evaluate.py", "--text=cats.txt")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert set(result) == {
        "nats_per_token", "perplexity", "bits_per_character", "tokens",
        "characters", "unknown_tokens",
    }  # fmt: skip
    assert result["tokens"] == len(TEXT) - 1 and result["unknown_tokens"] == 0


def test_evaluate_reads_a_text_as_train_does(trained):
    """However it is packed, marked and ended; and what is none is refused."""
    expected = json.loads(run(trained, "evaluate.py", "--text=cats.txt").stdout)
    marked = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    (trained / "marked.txt").write_bytes(marked)
    (trained / "packed.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (trained / "texts").mkdir()
    half = TEXT[: len(TEXT) // 2]
    for name in "ab":
        (trained / "texts" / name).write_text(half.removesuffix("\n"))
    for name in ("marked.txt", "packed.txt.gz", "texts"):
        ran = run(trained, "evaluate.py", f"--text={name}")
        result = json.loads(ran.stdout)
        assert result["unknown_tokens"] == 0
        if name != "texts":  # the last line break is not there
            assert result == expected
        assert result["tokens"] == expected["tokens"] - (name == "texts")
    (trained / "wide.txt").write_bytes(TEXT.encode("utf-16"))
    (trained / "old.txt").write_bytes("caf\u00e9".encode("cp1252"))
    for script in ("evaluate.py", "export.py"):
        ran = run(trained, script, "--text=wide.txt")
        assert_fails(ran, "--text: wide.txt is UTF-16 text", "iconv")
        ran = run(trained, script, "--text=old.txt")
        assert_fails(ran, "--text: old.txt is not UTF-8 text (byte 3, line 1)")


def test_texts_come_through_pipes(trained):
    command = f"{sys.executable} {ROOT}"
    for script in (
        f"{command}/evaluate.py --text=- < cats.txt",
        f"{command}/evaluate.py --text=<(gzip -c cats.txt)",
    ):
        ran = subprocess.run(
            ["bash", "-c", script], cwd=trained, capture_output=True, check=True
        )
        assert json.loads(ran.stdout)["tokens"] == len(TEXT) - 1


@pytest.mark.parametrize(
    ("format", "file"), [("onnx", "cats.onnx"), ("litert", "cats.tflite")]
)
def test_export_writes_what_the_page_generates_with(trained, format, file):
    """The program on docs/runtimes.md, as it stands there, without TensorFlow.

    Its text is that of generate.py.
    """
    ran = run(trained, "export.py", f"--format={format}", "--text=cats.txt")
    if "is missing: pip install" in ran.stderr:
        pytest.skip(ran.stderr)
    assert ran.returncode == 0, ran.stderr
    assert f"Wrote {file} (" in ran.stdout and "Next: " in ran.stdout
    nats = re.search(r"cats.txt: (.*) nats .* SavedModel (.*): ", ran.stdout)
    assert nats[1] == nats[2]

    example = f"generate_{format}.py"
    [code] = [
        block.code
        for block in pages.blocks("docs/runtimes.md")
        if block.name == example
    ]
    (trained / example).write_text(code, encoding="utf-8")
    guarded = f"""
import runpy, sys
sys.modules.update(dict.fromkeys(("tensorflow", "keras", "stacked_rnn")))
sys.argv[:] = ["{example}", "{file}", "The ", "60"]
runpy.run_path("{example}", run_name="__main__")
"""
    generated = subprocess.run(
        [sys.executable, "-I", "-c", guarded], cwd=trained, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert generated.returncode == 0, generated.stderr
    expected = run(
        trained, "generate.py", "--prompt=The ", "--temperature=0",
        "--max_new_tokens=60",
    )  # fmt: skip
    assert len(generated.stdout) == 65
    assert generated.stdout == expected.stdout


def test_the_running_commands_load_neither_models_nor_training(trained):
    program = """
import sys
from stacked_rnn import inference
from stacked_rnn.cli import evaluate, generate
inference.load("saved_models/cats")
loaded = set(sys.modules)
assert not loaded & {"stacked_rnn.models", "stacked_rnn.training"}, loaded
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=trained, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_help_teaches_without_loading_tensorflow(tmp_path):
    for script in ("train.py", "generate.py", "evaluate.py", "export.py"):
        ran = run_anew(tmp_path, script, "--help", timeout=4)
        assert ran.returncode == 0
        assert f"python {script}" in ran.stdout
        assert "--flagfile=FILE" in ran.stdout
        assert "end_of_text" not in ran.stdout  # nobody's to give


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cell=gruu"], ["cell", "gru"]),
        (["--unitz=3"], ["unitz"]),
        (["--num_layers=9"], ["--num_layers=9", "<= 8"]),
        (["cats.txt"], ["cats.txt", "is not a flag"]),
        (["--corpus=nowhere.txt"], ["nowhere.txt"]),
        (["--corpus=empty.txt"], ["empty.txt", "empty"]),
        (["--corpus=binary.txt"], ["binary.txt", "--tokenizer=byte"]),
        (["--corpus=letter.txt"], ["letter.txt", "1 ", "2 are needed"]),
        (["--model_dir=cats.txt/run"], ["--model_dir", "cats.txt/run"]),
        (["--export_dir=cats.txt/out"], ["--export_dir", "cats.txt/out"]),
        (["--bidirectional"], ["--bidirectional", "classifier"]),
        (["--resume"], ["--resume", "no checkpoint"]),
    ],
)
def test_bad_input_to_train_is_one_line(tmp_path, flags, words):
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "letter.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0\xff")
    assert_fails(run(tmp_path, "train.py", *SMALL, *flags), *words)
    assert not list(tmp_path.rglob("saved_model.pb"))


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.flags")))
def test_recipes_have_flags_that_train_knows(recipe, tmp_path):
    ran = run(
        tmp_path, "train.py", f"--flagfile={recipe}", "--corpus=nowhere.txt"
    )
    assert_fails(ran, "--corpus=nowhere.txt: no such file")


def test_what_surprises_about_a_text_is_one_line_each(tmp_path):
    (tmp_path / "words.txt").write_text(
        "".join(f"a word{number} " for number in range(999))
    )
    ran = run(
        tmp_path, "train.py", "--corpus=words.txt", "--tokenizer=word",
        r"--document_separator=<end>\n", *SMALL[1:], "--epochs=1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    unknown, separator = ran.stderr.splitlines()
    assert "50% of the tokens are not in the vocabulary" in unknown
    assert r"--document_separator='<end>\n' is nowhere in the te" in separator


def test_a_changed_architecture_is_named(trained):
    ran = run(
        trained, "train.py", *SMALL, "--resume", "--units=17", "--cell=lstm"
    )
    assert_fails(ran, "units: 16, not 17", "cell: gru, not lstm")


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("generate.py", ["--saved_model=nowhere"], ["nowhere"]),
        ("generate.py", ["--saved_model=runs"], ["saved_model.pb"]),
        ("generate.py", ["--temperature=-1"], ["--temperature=-1"]),
        ("generate.py", ["--prompts_file=nowhere"], ["--prompts_file=nowhere"]),
        (
            "generate.py",
            ["--num_beams=2", "--top_k=3", "--temperature=0.8"],
            ["--temperature, --top_k", "--num_beams=2"],
        ),
        ("generate.py", ["--length_penalty=1"], ["--length_penalty"]),
        ("generate.py", ["--stop="], ["--stop=", "empty"]),
        ("generate.py", ["--prompts_file=empty"], ["file=empty", "no line"]),
        ("generate.py", ["--prompts_file=wide"], ["wide is UTF-16", "iconv"]),
        ("evaluate.py", [], ["--text"]),
        ("evaluate.py", ["--text=nowhere"], ["--text=nowhere"]),
        ("export.py", ["--weights=int4"], ["weights", "int8"]),
        ("export.py", ["--text=nowhere"], ["--text=nowhere"]),
        ("export.py", ["--saved_model=nowhere"], ["nowhere"]),
        ("export.py", ["--output=a.tflite"], ["a.tflite", ".onnx"]),
    ],
)
def test_bad_input_to_the_others_is_one_line(trained, script, flags, words):
    (trained / "empty").write_text("")
    (trained / "wide").write_text("The ", encoding="utf-16")
    assert_fails(run(trained, script, *flags), *words)


def test_a_run_goes_on_from_a_trained_model(trained):
    (trained / "birds.txt").write_text(TEXT.replace("cat", "j\u00e4y"))
    flags = ("--corpus=birds.txt", "--init_from=saved_models/cats")
    refused = run(trained, "train.py", *flags, "--units=192", "--cell=gru")
    assert_fails(refused, "--init_from", "leave out --units=192 (it has 16)")
    assert not (trained / "runs/birds").exists()
    assert not (trained / "saved_models/birds").exists()
    ran = run(trained, "train.py", *flags, *SMALL[4:], "--epochs=1")
    assert ran.returncode == 0, ran.stderr
    assert "Starting with the weights of saved_models/cats/" in ran.stdout
    assert ran.stderr.count("\n") == 1
    assert "read as unknown: 'j' '\u00e4'\n" in ran.stderr
    written = (trained / "runs/birds/config.flags").read_text()
    assert "--init_from=saved_models/cats\n" in written
    assert "--units=16\n" in written
    assert (trained / "saved_models/birds/1/saved_model.pb").exists()


def test_ctrl_c_saves_exports_and_says_so(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *SMALL, "--epochs=10000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    read_until(process, "sample:")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopping after this step" in output
    assert "same command resumes" in output.replace("\n", " ")
    assert "Exported saved_models/cats/1" in output
    assert (tmp_path / "runs/cats/checkpoints/last/checkpoint").exists()


# A classifier -----------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A directory where train.py has made a classifier."""
    directory = tmp_path_factory.mktemp("labelled")
    rows = [(f"a {word} day {number % 7}", label) for number in range(40)
            for word, label in (("fine", "good"), ("sad", "bad"))]  # fmt: skip
    table = [
        "text\tlabel",
        *map("\t".join, rows),
        " \tgood",
        "x " * 30 + "\tbad",
    ]
    (directory / "days.tsv").write_text("\n".join(table))
    ran = run(
        directory, "train.py", "--task=classifier", "--corpus=days.tsv",
        "--units=8", "--embedding_dim=8", "--embedding_dropout=0", "--epochs=4",
        "--batch_size=8", "--learning_rate=0.02", "--sequence_length=20",
        "--nojit_compile",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "warning: 1 text(s) are empty: left out" in ran.stderr
    assert (
        "warning: 1 text(s) have more than --sequence_length=20" in ran.stderr
    )
    assert "On the validation texts: accuracy 1.000" in ran.stdout
    assert "bad" in ran.stdout and "  accuracy 1.000  " in ran.stdout
    assert re.search(r"predict.py .*/days/1 --text='a \w+ day \d'", ran.stdout)
    for name in ("classification.png", "curves.png", "history.csv"):
        assert (directory / "runs/days" / name).exists()
    return directory


def test_predict(labelled):
    """A line for each text, of three fields, whatever stands in it."""
    (labelled / "more.txt").write_text("so sad\n\n")
    ran = run(
        labelled, "predict.py", "--text=a fine\tthing\r\n",
        "--texts_file=more.txt",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows[:2]] == [
        ("good", r"a fine\tthing\r\n"), ("bad", "so sad"),
    ]  # fmt: skip
    assert [len(row) for row in rows] == [3] * 3
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)
    assert "1 text(s) are empty" in ran.stderr
    ran = run(labelled, "predict.py", "--text=so sad", "--output=jsonl")
    answer = json.loads(ran.stdout)
    assert (answer["text"], answer["label"]) == ("so sad", "bad")
    assert set(answer["scores"]) == {"good", "bad"}


def test_texts_of_which_nothing_is_known_are_counted(labelled):
    ran = run(
        labelled, "predict.py", "--text=zzz qqq", "--text=\U0001f600",
        "--text=a zzz", "--text=",
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.count("\n") == 4
    _, unknown, empty = ran.stderr.splitlines()
    assert "the model knows no token of 2 text(s)" in unknown
    assert "1 text(s) are empty" in empty


def test_texts_come_through_a_pipe(labelled, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"so sad\r\n\r\na fine thing")
    command = f"{sys.executable} {ROOT}/predict.py --texts_file=<(cat "
    ran = subprocess.run(
        ["bash", "-c", f"{command} {tmp_path}/texts.txt)"], cwd=labelled,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    texts = [line.split("\t")[2] for line in ran.stdout.splitlines()]
    assert texts == ["so sad", "", "a fine thing"]


def test_evaluate_a_classifier(labelled):
    ran = run(labelled, "evaluate.py", "--text=days.tsv")
    result = json.loads(ran.stdout)
    assert result["examples"] == 81 and result["accuracy"] > 0.98
    assert {"macro_f1", "auc", "confusion", "calibration"} <= set(result)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate.py"], ["saved_models/ is a language model", "train.py"]),
        (["predict.py"], ["--text or --texts_file"]),
        (["predict.py", "--texts_file=no.txt"], ["--texts_file=no.txt"]),
        (["predict.py", "--texts_file=none.txt"], ["file=none.txt: there is"]),
        (["evaluate.py", "--text=gap.csv"], ["gap.csv, line 3: no label"]),
        (["evaluate.py", "--text=new.tsv"], ["does not know: 'odd'"]),
        (["evaluate.py", "--text=days.tsv", "--text_field=t"], ["field 't'"]),
        (["train.py", "--task=classifier", "--corpus=one.tsv"], ["all 2"]),
        (
            ["train.py", "--task=classifier", "--corpus=more.tsv",
             "--tie_embeddings"], ["--tie_embeddings"],
        ),
        (["train.py", "--bidirectional"], ["--task=classifier"]),
        (["train.py", "--pooling=max"], ["--pooling", "language_model"]),
        (
            ["train.py", "--task=classifier", "--corpus=more.tsv",
             "--carry_state"], ["--carry_state: has no effect"],
        ),
    ],
)  # fmt: skip
def test_bad_input_to_a_classifier(labelled, command, words):
    (labelled / "none.txt").write_text("")
    (labelled / "gap.csv").write_text("text,label\na,good\nb,\n")
    (labelled / "new.tsv").write_text("text\tlabel\na\todd\n")
    (labelled / "one.tsv").write_text("text\tlabel\na\tx\nb\tx\n")
    (labelled / "more.tsv").write_text("text\tlabel\n" + "a\tx\nb\ty\n" * 99)
    before = set(labelled.rglob("*"))
    assert_fails(run(labelled, *command), *words)
    assert set(labelled.rglob("*")) <= before | {labelled / "keras"}


# A seq2seq model --------------------------------------------------------------


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """A directory where train.py has made a seq2seq model."""
    directory = tmp_path_factory.mktemp("paired")
    rows = [f"{a}{b}\t{b.upper()}" for a in "abcdef" for b in "abcdef"]
    (directory / "pairs.tsv").write_text(
        "\n".join([*rows, " \tA", "a" * 30 + "\tB"]) + "\n"
    )
    ran = run(
        directory, "train.py", "--task=seq2seq", "--corpus=pairs.tsv",
        "--units=16", "--embedding_dim=8", "--epochs=12", "--batch_size=4",
        "--learning_rate=0.02", "--sequence_length=20", "--cell=simple_rnn",
        "--validation_fraction=0", "--nobidirectional", "--nojit_compile",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "warning: 1 pair(s) have an empty text: left out" in ran.stderr
    assert "1 pair(s) have a text of more than --sequence_len" in ran.stderr
    assert re.search(r"predict.py .*/pairs/1 --text=\.\.\.\n", ran.stdout)
    return directory


def test_predict_with_a_seq2seq_model(paired):
    (paired / "more.txt").write_text("eb\n\n")
    ran = run(
        paired, "predict.py", "--text=fa", "--text=f\u00e9",
        "--texts_file=more.txt", "--attention=maps/a.png",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert (lines[0], lines[2], len(lines)) == ("A", "B", 4)
    assert "1 text(s) are empty" in ran.stderr
    assert "read as unknown: '\u00e9'" in ran.stderr
    assert (paired / "maps/a.png").read_bytes().startswith(b"\x89PNG")
    ran = run(
        paired, "predict.py", "--text=fa", "--output=jsonl", "--num_beams=1"
    )
    answer = json.loads(ran.stdout)
    assert (answer["text"], answer["output"]) == ("fa", "A")
    assert -1 < answer["score"] < 0


def test_evaluate_a_seq2seq_model(paired):
    (paired / "new.jsonl").write_text(
        '{"in": "fa", "out": "A"}\n{"in": "fc", "out": "XY"}\n'
    )
    ran = run(
        paired, "evaluate.py", "--text=new.jsonl", "--source_field=in",
        "--target_field=out", "--length_penalty=1",
    )  # fmt: skip
    result = json.loads(ran.stdout)
    assert (result["exact_match"], result["examples"]) == (0.5, 2)
    assert result["edit_distance"] == pytest.approx(2 / 3)
    assert 0 <= result["bleu"] <= 100


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate.py"], ["saved_models/ is a language model", "train.py"]),
        (["evaluate.py", "--text=one.tsv"], ["one.tsv, line 1", "target_fiel"]),
        (["predict.py", "--text=a", "--num_beams=0"], ["--num_beams=0"]),
        (["predict.py", "--texts_file=none.txt"], ["file=none.txt: there is"]),
        (
            ["predict.py", "--text=a", "--attention=pairs.tsv/a.png"],
            ["--attention=pairs.tsv"],
        ),
        (["train.py", "--task=seq2seq", "--corpus=pydoc"], ["--corpus=pydoc"]),
        (["train.py", "--task=seq2seq", "--corpus=one.tsv"], ["no field"]),
        (
            ["train.py", "--task=seq2seq", "--corpus=pairs.tsv",
             "--init_from=saved_models/pairs"], ["--init_from: has no effect"],
        ),
        (["train.py", "--decoder_layers=2"], ["--decoder_layers: has no"]),
        (
            ["train.py", "--corpus=one.tsv", "--init_from=saved_models/pairs"],
            ["--init_from=saved_models/pairs: a seq2seq model: a run"],
        ),
    ],
)  # fmt: skip
def test_bad_input_to_a_seq2seq_model(paired, command, words):
    (paired / "none.txt").write_text("")
    (paired / "one.tsv").write_text("a\nb\n")
    before = set(paired.rglob("*"))
    assert_fails(run(paired, *command), *words)
    assert set(paired.rglob("*")) <= before | {paired / "keras"}


def test_beams_are_of_no_use_to_a_classifier(labelled):
    ran = run(labelled, "predict.py", "--text=a", "--num_beams=2")
    assert_fails(ran, "--num_beams: of use with a seq2seq model only")
    ran = run(labelled, "evaluate.py", "--text=days.tsv", "--length_penalty=1")
    assert_fails(ran, "--length_penalty: of use with a seq2seq model only")
