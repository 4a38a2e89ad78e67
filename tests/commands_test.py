"""The commands as a person runs them, in a directory with flags."""

import contextlib
import functools
import gzip
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from stacked_rnn import configs, datasets, pipeline, saved_models
from stacked_rnn.cli import generate
from stacked_rnn.training import runs
from tests.helpers import ROOT, pages
from tests.helpers.processes import IN_MEMORY, Script, run, run_anew
from tests.helpers.waiting import read_until

TEXT = "The cat sat on the mat. The dog lay on the log.\n" * 40
SMALL = (
    "--corpus=cats.txt", "--units=16", "--embedding_dim=8", "--epochs=2",
    "--batch_size=8", "--sequence_length=20", "--num_layers=1",
    "--nojit_compile",
)  # fmt: skip


def assert_fails(ran, *words):
    """Checks for one error line, no traceback, and no output."""
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    lines = [
        line for line in ran.stderr.splitlines() if "error" in line.lower()
    ]
    assert len(lines) == 1, ran.stderr
    for word in words:
        assert word in ran.stderr
    assert ran.stdout == ""


@contextlib.contextmanager
def pipe(directory, content):
    """Makes a named pipe from which `content` can be read once."""
    path = directory / "pipe"
    os.mkfifo(path)
    threading.Thread(
        target=path.write_bytes, args=(content,), daemon=True
    ).start()
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory where train.py has run once; no test changes it.

    Keras is configured for other floats, which has to make no difference.
    """
    directory = tmp_path_factory.mktemp("work") / "finished"
    (directory / "keras").mkdir(parents=True)
    (directory / "keras/keras.json").write_text('{"floatx": "float16"}')
    (directory / "cats.txt").write_text(TEXT)
    ran = run_anew(directory, "train.py", *SMALL)
    assert ran.returncode == 0, ran.stderr
    (directory / "train.log").write_text(ran.stdout)
    (directory / "errors.log").write_text(ran.stderr)
    return directory


@pytest.fixture(scope="module")
def trained(finished):
    """A copy of `finished` that the tests work in one after the other."""
    return shutil.copytree(finished, finished.with_name("trained"))


@pytest.fixture
def finished_copy(finished, tmp_path):
    """A copy of `finished` for one test."""
    directory = shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    noted = (
        directory / "runs/cats/checkpoints/exported.json"
    )  # it has the full path
    noted.write_text(noted.read_text().replace(str(finished), str(tmp_path)))
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


def test_train_prints_its_progress_and_the_next_commands(trained):
    log = (trained / "train.log").read_text()
    for words in (
        "parameters", "Epoch 2/2  loss ", "  val_loss ", " bits/char  ",
        " tokens/s  ", "sample:", "Exported saved_models/cats/1",
        "generate.py --saved_model=saved_models/cats/1 --prompt='",
    ):  # fmt: skip
        assert words in log
    assert max(map(len, re.findall("^Epoch.*", log, re.MULTILINE))) < 80
    assert "WARNING" not in log and "I0000" not in log
    assert (trained / "errors.log").read_text() == ""


def test_other_floats_in_keras_json_make_no_difference(trained):
    assert ", float32, " in (trained / "train.log").read_text()


def test_config_flags_repeat_a_run_which_goes_on(finished_copy):
    more = run(
        finished_copy, "train.py", "--flagfile=runs/cats/config.flags",
        "--epochs=3", in_memory=True,
    )  # fmt: skip
    assert more.returncode == 0, more.stderr
    assert "resuming at step" in more.stdout
    assert "Epoch 3/3" in more.stdout and "Epoch 2" not in more.stdout


def test_a_finished_run_exports_nothing_new(finished_copy):
    again = run(finished_copy, "train.py", *SMALL, "--max_minutes=5")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    for words in (
        "Nothing is left to do", "saved_models/cats/1",
        "--epochs=4 continues it", "--noresume starts over",
    ):  # fmt: skip
        assert words in again.stdout
    versions = finished_copy / "saved_models/cats"
    assert [path.name for path in versions.iterdir()] == ["1"]
    # Where the export is gone, or asked for elsewhere, it is made again.
    shutil.rmtree(versions)
    elsewhere = run(
        finished_copy, "train.py", *SMALL, "--export_dir=elsewhere",
        in_memory=True,
    )  # fmt: skip
    assert "Exported elsewhere/1" in elsewhere.stdout


def test_another_learning_rate_begins_another_run(finished_copy):
    """A warning says that the new one is worse."""
    other = run(
        finished_copy, "train.py", *SMALL, "--learning_rate=1e-06",
        in_memory=True,
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    assert (
        "moved the run in runs/cats to runs/cats.1 "
        "(learning_rate: 0.004, not 1e-06)"
    ) in other.stdout
    assert "Exported saved_models/cats/2" in other.stdout
    assert re.fullmatch(
        r"warning: saved_models/cats/2 takes the place of version 1 .* it "
        r"validates worse .* bits/char, not .*"
        r"delete saved_models/cats/2; .*\n",
        other.stderr,
    )


def test_a_chat_template_becomes_part_of_the_model(finished_copy):
    """Of a new version, if the run has ended; once more changes nothing."""
    (finished_copy / "chat.jinja").write_bytes(b"{{ messages }}\r\nA: ")
    flags = (*SMALL, "--chat_template=chat.jinja")
    ran = run(finished_copy, "train.py", *flags, in_memory=True)
    assert ran.returncode == 0, ran.stderr
    assert "Exported saved_models/cats/2" in ran.stdout
    version = finished_copy / "saved_models/cats/2"
    assert saved_models.chat_template(version) == "{{ messages }}\nA: "
    again = run(finished_copy, "train.py", *flags)
    assert "Nothing is left to do" in again.stdout
    without = run(finished_copy, "train.py", *SMALL, in_memory=True)
    assert "Exported saved_models/cats/3" in without.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--chat_template=no.jinja",), "--chat_template=no.jinja: No such"),
        (("--chat_template=latin1",), "--chat_template=latin1: not UTF-8"),
        (
            ("--chat_template=cats.txt", "--task=classifier"),
            "only language models have chats",
        ),
    ],
)
def test_a_wrong_chat_template_is_refused(flags, words, tmp_path):
    (tmp_path / "cats.txt").write_text("a\tb\n" * 40)
    (tmp_path / "latin1").write_bytes(b"\xe9")
    assert_fails(run(tmp_path, "train.py", *SMALL, *flags), words)


def test_a_second_process_in_the_same_directory_is_refused(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (*SMALL, "--epochs=1000")
    first = Script(tmp_path, "train.py", *flags)
    first.wait_for("Epoch")
    second = run(tmp_path, "train.py", *flags, "--units=17")
    assert_fails(second, "--model_dir=runs/cats: another process")
    first.kill()
    # The lock has gone with the killed process.
    with runs.lock_run(tmp_path / "runs/cats"):
        pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cats"]


def test_a_hostile_environment_stops_no_command(letters, tmp_path):
    """Output in cp1252, arguments in ASCII, another Keras backend."""
    text = "\u043a\u043e\u0442 \u0441\u043f\u0438\u0442\u3002" * 80
    (tmp_path / "cats.txt").write_text(text, encoding="utf-8")
    shutil.copytree(letters, tmp_path / "saved_models/letters/1")
    environment = os.environ | {
        "PYTHONIOENCODING": "cp1252", "LC_ALL": "POSIX", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0", "KERAS_BACKEND": "jax",
        "TF_USE_LEGACY_KERAS": "1",
    }  # fmt: skip
    for words, expected in (
        (
            [
                IN_MEMORY, ROOT / "train.py", *SMALL, "--epochs=1",
                "--document_separator=\u3002",
            ],
            b"Exported",
        ),
        (
            [
                ROOT / "generate.py", "--saved_model=saved_models/letters",
                "--prompt=\u043a\u043e",
            ],
            rb"\u043a\u043e",
        ),
    ):  # fmt: skip
        ran = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, capture_output=True, check=False, env=environment,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert expected in ran.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there is no nohup")
def test_a_training_goes_on_under_nohup_and_without_a_reader(tmp_path):
    """Neither SIGHUP nor a closed standard output stops it."""
    (tmp_path / "cats.txt").write_text(TEXT)
    process = subprocess.Popen(
        [
            "nohup", sys.executable, IN_MEMORY, ROOT / "train.py", *SMALL,
            "--epochs=6",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        read_until(process, "sample:")
        process.send_signal(signal.SIGHUP)
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors.splitlines() == [
        "note: cannot write the output (Broken pipe); the program continues"
    ]
    history = (tmp_path / "runs/cats/history.csv").read_text()
    assert history.count("\n") == 1 + 6
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
def test_runs_are_named_after_the_corpus(corpus, name):
    assert pipeline.name_of(corpus) == name


def test_suggested_commands_run_as_printed(letters, tmp_path):
    corpus = tmp_path / "it's (my) novel.txt"
    corpus.write_text(TEXT)
    ran = run(
        tmp_path, "train.py", *SMALL, f"--corpus={corpus.name}", "--epochs=1",
        in_memory=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if "generate.py" in line]
    _, script, flag, prompt = shlex.split(lines[0])
    assert flag == "--saved_model=saved_models/it's (my) novel/1"
    begin = prompt.removeprefix("--prompt=")
    assert begin in TEXT and not begin.endswith(" ")
    version = tmp_path / flag.removeprefix("--saved_model=")
    shutil.rmtree(version)
    shutil.copytree(letters, version)  # another process can read it
    generated = run(tmp_path, script, flag, prompt)
    assert generated.returncode == 0
    assert generated.stdout.startswith(begin)


def test_config_flags_repeat_a_run_of_words_and_documents(tmp_path):
    """The token that ends a document is not among those asked for, and the
    separator is what a line of a flag file loses."""
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (
        *SMALL, "--epochs=1", "--tokenizer=word", "--document_separator= ",
        "--vocabulary_size=40",
    )  # fmt: skip
    first = run(tmp_path, "train.py", *flags, in_memory=True)
    assert first.returncode == 0, first.stderr
    assert "--prompt" not in first.stdout  # a document begins without a prompt
    again = run(tmp_path, "train.py", "--flagfile=runs/cats/config.flags")
    assert "Nothing is left to do" in again.stdout, again.stdout + again.stderr


def test_generate_needs_no_further_flags(trained):
    ran = run(trained, "generate.py", "--prompt=The ", "--max_new_tokens=40")
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
    assert ran.stderr.count("\n") == 2  # the other line names the model
    assert "--stop='\u4e2d' never occurs: the model's vocab" in ran.stderr


def test_prompts_come_from_a_pipe(trained):
    """text_files_test.py reads from the other sources."""
    packed = gzip.compress(b"\xef\xbb\xbfThe \r\nthe dog")
    with pipe(trained, packed) as named:
        ran = run(
            trained, "generate.py", f"--prompts_file={named}",
            "--saved_model=saved_models/cats", "--output=jsonl",
            "--max_new_tokens=5",
        )  # fmt: skip
    assert ran.returncode == 0 and ran.stderr == ""
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["prompt"] for one in found] == ["The ", "the dog"]


def test_interactive_lines_are_read_as_text(trained, monkeypatch):
    ran = run(
        trained, "generate.py", "--interactive", "--stop=\n",
        "--saved_model=saved_models/cats", "--max_new_tokens=1",
        stdin=b"\xef\xbb\xbfThe \r\nthe dog\n",
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stderr == ""
    assert ran.stdout.count("\n") == 2
    entered = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8")
    monkeypatch.setattr("sys.stdin", entered)
    with pytest.raises(
        configs.UserError, match="--interactive: a line is not UTF-8 text$"
    ):
        generate.interact(conversation=None, tokenizer=None)


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


def test_options_that_beam_search_lacks_are_refused():
    for changes, message in (
        ({"num_samples": 5}, "--num_samples=5.*--num_beams=4"),
        ({"interactive": True}, "--interactive.*--num_beams=4"),
        ({"stream": True}, "--stream.*--num_beams=4"),
    ):
        with pytest.raises(configs.UserError, match=message):
            configs.GenerateConfig(num_beams=4, **changes)
        configs.GenerateConfig(**changes)


def test_evaluate_prints_one_json_object(trained):
    (trained / "new.txt").write_text(TEXT + "\u00e9", encoding="utf-8")
    ran = run(trained, "evaluate.py", "--text=new.txt")
    assert ran.returncode == 0, ran.stderr
    assert f"warning: 1 of {len(TEXT):,} tokens are not in the" in ran.stderr
    result = json.loads(ran.stdout)
    assert set(result) == {
        "nats_per_token", "perplexity", "bits_per_character", "tokens",
        "characters", "unknown_tokens",
    }  # fmt: skip
    assert result["tokens"] == len(TEXT) and result["unknown_tokens"] == 1


def test_evaluate_reads_a_text_as_train_does(trained, monkeypatch):
    """In any packing, with any line ends; other encodings are refused."""
    monkeypatch.chdir(trained)
    marked = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    (trained / "marked.txt").write_bytes(marked)
    (trained / "packed.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (trained / "texts").mkdir()
    half = TEXT[: len(TEXT) // 2]
    for name in "ab":
        (trained / "texts" / name).write_text(half.removesuffix("\n"))
    description = saved_models.find_description("saved_models/cats")
    read = functools.partial(
        datasets.read_text, tokenizer=description.tokenizer
    )
    for name in ("marked.txt", "packed.txt.gz"):
        assert read(name) == TEXT.encode()
    assert read("texts") == TEXT.removesuffix("\n").encode()
    (trained / "wide.txt").write_bytes(TEXT.encode("utf-16"))
    (trained / "old.txt").write_bytes("caf\u00e9".encode("cp1252"))
    wide = run(trained, "evaluate.py", "--text=wide.txt")
    assert_fails(wide, "--text: wide.txt is UTF-16 text", "iconv")
    old = run(trained, "export.py", "--text=old.txt")
    assert_fails(old, "--text: old.txt is not UTF-8 text (byte 3, line 1)")


def test_evaluate_reads_standard_input(trained):
    ran = run(trained, "evaluate.py", "--text=-", stdin=TEXT.encode())
    assert json.loads(ran.stdout)["tokens"] == len(TEXT) - 1


@pytest.fixture(scope="module")
def greedy_text(trained):
    """What generate.py prints where nothing is drawn."""
    return run(
        trained, "generate.py", "--prompt=The ", "--temperature=0",
        "--max_new_tokens=60",
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("format", "file"), [("onnx", "cats.onnx"), ("litert", "cats.tflite")]
)
def test_export_writes_what_the_page_generates_with(
    format, file, trained, greedy_text
):
    """Runs the program of docs/runtimes.md, as printed, without TensorFlow.

    It prints the same text as generate.py.
    """
    ran = run(trained, "export.py", f"--format={format}", "--text=cats.txt")
    if "is missing: pip install" in ran.stderr:
        pytest.skip(ran.stderr)
    assert ran.returncode == 0, ran.stderr
    assert f"Wrote {file} (" in ran.stdout and "Next: " in ran.stdout
    nats = re.search(r"cats.txt: (.*) nats .* SavedModel (.*): ", ran.stdout)
    assert nats[1] == nats[2]
    assert ran.stderr.count("the newest model: ") == 1

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
    assert len(generated.stdout) == 65
    assert generated.stdout == greedy_text


def test_export_writes_a_page_that_loses_little(trained):
    """In int8, unless other weights are asked for."""
    before = set(trained.iterdir())
    ran = run(trained, "export.py", "--format=html", "--text=cats.txt")
    assert ran.returncode == 0, ran.stderr
    assert set(trained.iterdir()) - before == {trained / "cats.html"}
    assert re.search(r"Wrote cats\.html \([\d,]+ bytes\) from", ran.stdout)
    assert "Next: open cats.html in a browser" in ran.stdout
    loss = re.search(r"SavedModel .*: ([+-][\d.]+)", ran.stdout)
    assert abs(float(loss[1])) < 0.01
    large = run(trained, "export.py", "--format=html", "--weights=float32")
    assert "Wrote cats-float32.html (" in large.stdout
    sizes = [
        (trained / name).stat().st_size
        for name in ("cats.html", "cats-float32.html")
    ]
    assert sizes[0] < sizes[1]


def test_generate_and_evaluate_load_neither_models_nor_training(
    trained, tmp_path
):
    program = """
import sys
for name in [name for name in sys.modules if name.startswith("stacked_rnn")]:
    del sys.modules[name]
import generate, evaluate
from stacked_rnn import inference
inference.load("saved_models/cats")
loaded = set(sys.modules)
assert not loaded & {"stacked_rnn.models", "stacked_rnn.training"}, loaded
"""
    (tmp_path / "program.py").write_text(program)
    ran = run(trained, tmp_path / "program.py")
    assert ran.returncode == 0, ran.stderr


def test_help_does_not_load_tensorflow(tmp_path):
    for script in ("train.py", "generate.py", "evaluate.py", "export.py"):
        ran = run_anew(tmp_path, script, "--help", timeout=4)
        assert ran.returncode == 0
        assert f"python {script}" in ran.stdout
        assert "--flagfile=FILE" in ran.stdout
        assert "end_of_text" not in ran.stdout  # not set by users


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
def test_recipes_use_known_flags(recipe, tmp_path):
    ran = run(
        tmp_path, "train.py", f"--flagfile={recipe}", "--corpus=nowhere.txt"
    )
    assert_fails(ran, "--corpus=nowhere.txt: no such file")


def test_each_oddity_of_a_corpus_is_one_warning(tmp_path):
    (tmp_path / "words.txt").write_text(
        "".join(f"a word{number} " for number in range(999))
    )
    training = Script(
        tmp_path, "train.py", "--corpus=words.txt", "--tokenizer=word",
        r"--document_separator=<end>\n", *SMALL[1:],
    )  # fmt: skip
    training.wait_for("Epoch 1")
    training.kill()
    unknown, separator = training.errors.splitlines()
    assert "50% of the tokens are not in the vocabulary" in unknown
    assert r"--document_separator='<end>\n' is nowhere in the te" in separator


def test_a_changed_architecture_is_named(trained):
    ran = run(
        trained, "train.py", *SMALL, "--resume", "--units=17", "--cell=gru"
    )
    assert_fails(ran, "units: 16, not 17", "cell: lstm, not gru")


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
        (
            "generate.py",
            ["--interactive", "--prompt=The", "--prompts_file=-"],
            ["--prompt, --prompts_file: no effect with --interactive"],
        ),
        (
            "generate.py",
            ["--stream", "--output=jsonl"],
            ["--stream: only a single text"],
        ),
        ("generate.py", ["--stream", "--num_samples=2"], ["--stream: only"]),
        ("generate.py", ["--stop="], ["--stop=", "empty"]),
        ("generate.py", ["--prompts_file=empty"], ["file=empty", "no line"]),
        ("generate.py", ["--prompts_file=wide"], ["wide is UTF-16", "iconv"]),
        ("evaluate.py", [], ["--text"]),
        ("evaluate.py", ["--text=nowhere"], ["--text=nowhere"]),
        (
            "evaluate.py",
            ["--text=cats.txt", "--cache_weight=0.2"],
            ["--cache_weight: no effect without --cache_size"],
        ),
        (
            "evaluate.py",
            ["--text=cats.txt", "--source_field=a"],
            ["--source_field: no effect on a language model"],
        ),
        ("export.py", ["--weights=int4"], ["weights", "int8"]),
        ("export.py", ["--text=nowhere"], ["--text=nowhere"]),
        ("export.py", ["--saved_model=nowhere"], ["nowhere"]),
        ("export.py", ["--output=a.tflite"], ["a.tflite", ".onnx"]),
        (
            "export.py",
            ["--format=html", "--output=a.htm"],
            ["a.htm", "--format=html", ".html"],
        ),
        (
            "export.py",
            ["--format=html", "--output=cats.txt/a.html"],
            ["--output=cats.txt", "cannot write"],
        ),
        (
            "export.py",
            ["--format=html", "--text=nowhere", "--output=cats.txt/a.html"],
            ["--output=cats.txt", "cannot write"],
        ),
    ],
)
def test_bad_input_to_other_commands_is_one_line(trained, script, flags, words):
    (trained / "empty").write_text("")
    (trained / "wide").write_text("The ", encoding="utf-16")
    assert_fails(run(trained, script, *flags), *words)


def test_init_from_begins_with_the_weights_of_a_trained_model(finished_copy):
    (finished_copy / "birds.txt").write_text(TEXT.replace("cat", "j\u00e4y"))
    flags = ("--corpus=birds.txt", "--init_from=saved_models/cats")
    refused = run(
        finished_copy, "train.py", *flags, "--units=192", "--cell=lstm"
    )
    assert_fails(refused, "--init_from", "leave out --units=192 (it has 16)")
    assert not (finished_copy / "runs/birds").exists()
    assert not (finished_copy / "saved_models/birds").exists()
    ran = run(
        finished_copy, "train.py", *flags, *SMALL[4:], "--epochs=1",
        in_memory=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Starting with the weights of saved_models/cats/" in ran.stdout
    assert ran.stderr.count("\n") == 1
    assert "2 new characters join the vocabulary of saved_models/cats: " in (
        ran.stderr
    )
    written = (finished_copy / "runs/birds/config.flags").read_text()
    assert "--init_from=saved_models/cats\n" in written
    assert "--units=16\n" in written
    assert (finished_copy / "saved_models/birds/1/saved_model.pb").exists()


def test_windows_of_a_given_number_leave_no_text_to_learn(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    ran = run(tmp_path, "train.py", *SMALL, "--learn_all", "--train_windows=9")
    assert_fails(ran, "--learn_all", "--train_windows")


def test_the_held_out_text_can_be_learned_at_the_end(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    flags = (*SMALL, "--learn_all", "--validation_fraction=0.5")
    ran = run(tmp_path, "train.py", *flags, in_memory=True)
    assert ran.returncode == 0, ran.stderr
    before, after = ran.stdout.split("Learning the held-out text too:")
    assert "Epoch 2/2" in before and "val_loss" in before
    assert "Epoch 1/1" in after and "val_loss" not in after.splitlines()[1]
    config = json.loads(
        (tmp_path / "saved_models/cats/1/assets.extra/config.json").read_text()
    )
    assert config["training"]["learned_all"]
    assert f"{config['training']['validation']['loss']:.4f}" in before
    again = run(tmp_path, "train.py", *flags)
    assert "Nothing is left to do" in again.stdout
    # A longer run learns it from its own best weights.
    longer = run(
        tmp_path, "train.py", *flags, "--epochs=3", "--resume", in_memory=True
    )
    _, after = longer.stdout.split("Learning the held-out text too:")
    assert "Epoch 1/1" in after and "Exported saved_models/cats/2" in after


def test_ctrl_c_saves_and_exports(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    training = Script(
        tmp_path, "train.py", *SMALL, "--epochs=10000", in_memory=True
    )
    training.wait_for("sample:")
    training.send_signal(signal.SIGINT)
    ended = training.finish()
    assert ended.returncode == 0, ended.stderr
    assert "stopping after this step" in ended.stdout
    assert "same command resumes" in ended.stdout.replace("\n", " ")
    assert "Exported saved_models/cats/1" in ended.stdout
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


def test_predict_labels_texts_one_per_line(labelled):
    """Three fields per line, with tabs and line breaks escaped."""
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


def test_predict_counts_unknown_and_empty_texts(labelled):
    ran = run(
        labelled, "predict.py", "--text=zzz qqq", "--text=\U0001f600",
        "--text=so sad", "--text=", "--output=jsonl",
    )  # fmt: skip
    assert ran.returncode == 0
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    texts = [answer["text"] for answer in answers]
    assert texts == ["zzz qqq", "\U0001f600", "so sad", ""]
    assert answers[2]["label"] == "bad"
    assert set(answers[2]["scores"]) == {"good", "bad"}
    _, unknown, empty = ran.stderr.splitlines()
    assert "2 text(s) have no token that the model knows" in unknown
    assert "1 text(s) are empty" in empty


def test_predict_reads_a_pipe(labelled):
    with pipe(labelled, b"so sad\r\n\r\na fine thing") as named:
        ran = run(labelled, "predict.py", f"--texts_file={named}")
    assert ran.returncode == 0, ran.stderr
    texts = [line.split("\t")[2] for line in ran.stdout.splitlines()]
    assert texts == ["so sad", "", "a fine thing"]


def test_evaluate_scores_a_classifier(labelled):
    ran = run(labelled, "evaluate.py", "--text=days.tsv")
    result = json.loads(ran.stdout)
    assert result["examples"] == 81 and result["accuracy"] > 0.98
    assert {"macro_f1", "auc", "confusion", "calibration"} <= set(result)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate.py"], ["saved_models/ does not contain a", "train.py"]),
        (["predict.py"], ["--text or --texts_file"]),
        (["predict.py", "--texts_file=no.txt"], ["--texts_file=no.txt"]),
        (["predict.py", "--texts_file=none.txt"], ["file=none.txt: the file"]),
        (["evaluate.py", "--text=gap.csv"], ["gap.csv, line 3: no label"]),
        (["evaluate.py", "--text=new.tsv"], ["does not know: 'odd'"]),
        (
            ["evaluate.py", "--text=new.tsv", "--label_separator=|"],
            ["--label_separator: for multi-label classifiers only"],
        ),
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
def test_bad_input_to_a_classifier_is_one_line(labelled, command, words):
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


def test_predict_rewrites_texts_with_a_seq2seq_model(paired):
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


def test_evaluate_scores_a_seq2seq_model(paired):
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
        (["generate.py"], ["saved_models/ does not contain a", "train.py"]),
        (["evaluate.py", "--text=one.tsv"], ["one.tsv, line 1", "target_fiel"]),
        (["predict.py", "--text=a", "--num_beams=0"], ["--num_beams=0"]),
        (["predict.py", "--texts_file=none.txt"], ["file=none.txt: the file"]),
        (
            ["predict.py", "--text=a", "--attention=."],
            ["--attention=.: cannot write it, a directory"],
        ),
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
def test_bad_input_to_a_seq2seq_model_is_one_line(paired, command, words):
    (paired / "none.txt").write_text("")
    (paired / "one.tsv").write_text("a\nb\n")
    before = set(paired.rglob("*"))
    assert_fails(run(paired, *command), *words)
    assert set(paired.rglob("*")) <= before | {paired / "keras"}


def test_beam_flags_are_refused_for_a_classifier(labelled):
    ran = run(labelled, "predict.py", "--text=a", "--num_beams=2")
    assert_fails(ran, "--num_beams: for seq2seq models only")
    ran = run(labelled, "evaluate.py", "--text=days.tsv", "--length_penalty=1")
    assert_fails(ran, "--length_penalty: for seq2seq models only")
