"""`import stacked_rnn`: training, loading, and models with plain arguments."""

import dataclasses
import inspect
import os
import pathlib
import shutil
import subprocess
import sys
import types
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import stacked_rnn
from stacked_rnn import (
    configs,
    hub,
    inference,
    pipeline,
    saved_models,
    training,
)
from stacked_rnn.configs import UserError
from tests.helpers import ROOT, exports

SMALL = {
    "units": 8, "num_layers": 1, "embedding_dim": 4, "batch_size": 4,
    "sequence_length": 8, "jit_compile": False,
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a text, mine.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a bad cab, a deaf bee. " * 40)
    return tmp_path


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, stacked_rnn\n"
        "assert not {'tensorflow', 'numpy', 'absl'} & set(sys.modules)\n"
        "assert {'load', 'train'} <= set(stacked_rnn.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        stacked_rnn.trian  # noqa: B018


def test_commands_start_without_what_they_do_not_use():
    """It can be imported later."""
    code = (
        "import gc, sys\n"
        "from stacked_rnn.utils import quiet_import\n"
        "quiet_import.import_tensorflow(with_extras=False)\n"
        "assert 'keras' in sys.modules and gc.isenabled()\n"
        "assert not {'jax', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "import matplotlib.pyplot\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_another_backend_of_keras_is_named():
    code = (
        "import types, sys\n"
        "backend = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "sys.modules['keras'] = types.SimpleNamespace(backend=backend)\n"
        "import stacked_rnn\n"
        "stacked_rnn.load\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert "UserError: Keras runs on jax here" in ran.stderr.splitlines()[-1]


# Training ---------------------------------------------------------------------


@exports.in_memory()
def test_training_gives_a_model_that_generates(here, capsys):
    model = stacked_rnn.train(here / "mine.txt", epochs=1, **SMALL)
    assert model.path == here.joinpath("saved_models/mine/1").relative_to(here)
    assert len(model.generate("a ", max_new_tokens=20, seed=1)) == 20
    output = capsys.readouterr().out
    assert "Epoch 1/1" in output and "Exported saved_models/mine/1" in output
    assert "python" not in output.splitlines()[-1]  # no commands for a shell

    again = stacked_rnn.train("mine.txt", epochs=1, **SMALL)
    assert "Nothing is left to do" in capsys.readouterr().out
    assert again.path == model.path
    longer = stacked_rnn.train("mine.txt", epochs=2, **SMALL)
    output = capsys.readouterr().out
    assert "resuming" in output
    assert "of the run before: 1 LSTM layer(s) of 8 units, " in output
    stacked_rnn.train("mine.txt", epochs=2, verbose=False, **SMALL)
    assert capsys.readouterr().out == ""
    assert longer.path.name == "2"
    assert stacked_rnn.load("runs/mine").path.name == "2"

    # Also by a link to the run.
    (here / "elsewhere").mkdir()
    (here / "elsewhere/link").symlink_to(here / "runs/mine")
    assert stacked_rnn.load("elsewhere/link").path.name == "2"

    # A copy of the project has models of its own.
    for name in ("runs", "saved_models"):
        shutil.copytree(name, here / "copy" / name)
    copied = stacked_rnn.load(here / "copy/runs/mine")
    assert copied.path == here / "copy/saved_models/mine/2"


@exports.in_memory()
def test_minutes_are_the_time_limit(here, capsys):
    """So short a time is said to be too short. Scalars may be NumPy's."""
    small = SMALL | {"units": np.int64(8), "minutes": np.float64(0.01)}
    model = stacked_rnn.train("mine.txt", resume=False, **small)
    assert " steps fit into --max_minutes=0.01, in" in capsys.readouterr().err
    flags = (here / "runs/mine/config.flags").read_text()
    assert "--max_minutes=0.01\n" in flags and "--units=8\n" in flags
    assert "resume" not in flags  # they repeat the run, and continue it
    assert model.description.training["characters"] > 0
    text = model.generate("a", max_new_tokens=np.int64(3), seed=np.uint8(1))
    assert len(text) == 3


@exports.in_memory()
def test_the_time_limit_holds_for_the_held_out_text_too(here, monkeypatch):
    limits = []
    fit = training.Trainer.fit

    def noted_fit(trainer, *args, **limit):
        limits.append((trainer.config.max_minutes, limit["started"]))
        fit(trainer, *args, **limit)

    monkeypatch.setattr(training.Trainer, "fit", noted_fit)
    small = SMALL | {"minutes": 9, "epochs": 1}
    stacked_rnn.train("mine.txt", learn_all=True, **small)
    assert limits == [(9, limits[0][1])] * 2


@pytest.mark.parametrize(
    ("seconds", "processes", "expected"),
    [(1, 1, (1, 6)), (200, 1, (200, 18)), (200, 2, (0, 6))],
)
def test_a_slow_start_is_no_slow_end(
    seconds, processes, expected, here, monkeypatch
):
    """Several processes wait for each other before the time counts."""

    class Workers(training.Workers):
        def __init__(self, strategy):
            super().__init__(strategy)
            self.count = processes

        def largest(self, value):
            return value

    limits = {}

    def fit(trainer, *args, **limit):
        limits.update(limit)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "Workers", Workers)
    monkeypatch.setattr(training.Trainer, "fit", fit)
    clock = types.SimpleNamespace(monotonic=lambda: 1000)
    monkeypatch.setattr(pipeline, "time", clock)
    settings = SMALL | {"corpus": "mine.txt", "epochs": 1}
    model_and_train_config = configs.replace_settings(
        (configs.ModelConfig(), configs.TrainConfig()), settings
    )
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(
            *model_and_train_config, {*settings}, started=1000 - seconds
        )
    assert (1000 - limits["started"], limits["reserve"]) == expected


@exports.in_memory()
def test_a_second_run_in_a_process_is_like_the_first(here):
    """Also with the graph optimizer, which a loaded model switches off."""
    is_off, models = [], []

    def note(logs):
        options = tf.config.optimizer.get_experimental_options()
        is_off.append(options.get("disable_meta_optimizer", False))

    for name in "ab":
        models.append(
            stacked_rnn.train(
                "mine.txt",
                epochs=1,
                model_dir=f"runs/{name}",
                export_dir=f"saved_models/{name}",
                callbacks=[keras.callbacks.LambdaCallback(on_train_begin=note)],
                **SMALL,
            )
        )
    assert is_off == [False, False]
    for first, second in zip(*(model.functions.weights for model in models)):
        assert np.array_equal(first, second)


def test_what_is_not_given_fits_the_text(here, monkeypatch, capsys):
    monkeypatch.setattr(training.Trainer, "fit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stacked_rnn.train("mine.txt", minutes=0.01)
    assert "Flags override it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": 8}, "^unit: there is no such setting: did you mean units"),
        ({"units": -1}, "^--units=-1: expected 1 <= units"),
        ({"cell": "gnu"}, "^--cell='gnu': expected one of"),
        ({"task": "classifier", "carry_state": True}, "^--carry_state: has no"),
        ({"corpus": "no.txt"}, "^--corpus=no.txt"),
        ({"corpus": 5}, "^--corpus=5: expected the path of a text"),
        ({"minutes": "x"}, "^--max_minutes='x': expected type float"),
        ({"callbacks": [3]}, "^callbacks: 3 is no keras.callbacks.Callback"),
    ],
)
def test_wrong_settings_are_named_and_leave_nothing(here, settings, message):
    with pytest.raises(UserError, match=message):
        stacked_rnn.train(settings.pop("corpus", "mine.txt"), **settings)
    assert [path.name for path in here.iterdir()] == ["mine.txt"]


# A language model -------------------------------------------------------------


def test_a_string_gives_a_string_and_a_list_gives_a_list(loaded):
    options = {"max_new_tokens": 12, "temperature": 0.7, "seed": 1}
    alone = loaded.generate("abc", **options)
    both = loaded.generate(["abc", "de"], **options)
    samples = loaded.generate("abc", num_samples=2, **options)
    assert isinstance(alone, str) and len(alone) == 12
    assert both[0] == alone and len(both) == 2
    assert samples[0] == alone != samples[1]
    assert loaded.generate(["de"], num_samples=2, **options)[0][0] == both[1]
    (continuation,) = loaded.continuations(
        ["abc"], configs.SamplingConfig(**options)
    )
    assert continuation.text == alone
    stop = alone[5:7]
    for given in (stop, [stop]):  # a string is one stop, not one per character
        cut = loaded.generate("abc", stop=given, **options)
        assert cut == alone[: alone.index(stop)]


def test_what_an_option_leaves_out_is_the_default_of_the_model(loaded):
    expected = loaded.generate("a", **loaded.defaults.to_dict())
    assert loaded.generate("a") == expected
    assert len(expected) == loaded.defaults.max_new_tokens


def test_streamed_pieces_add_up_to_the_text(loaded):
    options = {"max_new_tokens": 40, "seed": 3}
    pieces = list(loaded.stream("abc", **options))
    assert "".join(pieces) == loaded.generate("abc", **options)
    assert len(pieces) > 1 and all(pieces)


def test_beam_search_finds_likelier_texts_than_the_greedy_one(loaded):
    found = loaded.beam_search(["abc", ""], num_beams=3, max_new_tokens=6)
    assert [len(text) for text in found] == [6, 6]
    assert loaded.beam_search("abc", num_beams=3, max_new_tokens=6) == found[0]
    greedy = loaded.generate("abc", temperature=0, max_new_tokens=6)
    costs = [loaded.score("abc" + text).nats for text in (found[0], greedy)]
    assert costs[0] <= costs[1] + 1e-5


def test_defaults_are_those_of_the_flags():
    """All but `num_beams`: for the command, 1 means to draw."""
    flags = {
        field.name: field.default
        for cls in (configs.GenerateConfig, configs.ExportConfig)
        for field in dataclasses.fields(cls)
    }
    methods = vars(inference.SavedLanguageModel)
    defaults = [
        (parameter.name, parameter.default)
        for name in ("generate", "stream", "beam_search", "chat", "export")
        for parameter in inspect.signature(methods[name]).parameters.values()
        if parameter.default is not parameter.empty
    ]
    assert len(defaults) == 8
    for name, default in defaults:
        assert name == "num_beams" or flags[name] == default, name


def test_score_and_surprisal_agree_with_evaluate(loaded):
    text = "abcabcdefgh"
    score, found = loaded.score(text), loaded.surprisal(text)
    evaluated = loaded.evaluate(text.encode())
    assert score.perplexity == pytest.approx(evaluated["perplexity"])
    assert (score.tokens, score.characters) == (10, 11)
    assert np.isnan(found.nats[0])
    assert found.nats[1:].sum() == pytest.approx(score.nats, rel=1e-5)
    assert str(found).splitlines()[0] == "       -  'a'"
    page = found._repr_html_()
    assert page.count("</span>") == 11 and "<html" not in page
    with pytest.raises(UserError, match="shorter than two tokens"):
        loaded.score("a")


NOT_A_TEXT = (None, 3, b"abc", {"a": 1}, [None], [["a"]], [b"abc"])


@pytest.mark.parametrize("texts", NOT_A_TEXT, ids=repr)
def test_what_is_no_text_is_refused(loaded, texts):
    for method in (
        loaded.generate, loaded.beam_search, loaded.embed, loaded.score,
        loaded.surprisal, loaded.stream, loaded.inspect,
    ):  # fmt: skip
        with pytest.raises(UserError, match="expected a string"):
            method(texts)


def test_a_list_has_no_score(loaded):
    """It is not joined to one text, whose characters would be its items."""
    for texts in (["abc", "de"], np.array(["abc", "de"])):
        with pytest.raises(UserError, match="expected a string"):
            loaded.score(texts)


def test_lone_surrogates_are_read_as_question_marks(loaded):
    options = {"max_new_tokens": 5, "seed": 1}
    assert loaded.generate("a\ud800", **options) == loaded.generate(
        "a?", **options
    )
    assert loaded.score("ab\ud800") == loaded.score("ab?")


@pytest.mark.parametrize(
    "call",
    [
        {"method": "generate", "num_samples": 0},
        {"method": "generate", "num_samples": "2"},
        {"method": "generate", "stop": [""]},
        {"method": "stream", "stop": [b"x"]},
        {"method": "beam_search", "num_beams": 0},
        {"method": "beam_search", "num_beams": 2.5},
        {"method": "beam_search", "length_penalty": float("nan")},
        {"method": "beam_search", "max_new_tokens": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(loaded, call):
    method = call.pop("method")
    with pytest.raises(UserError):
        getattr(loaded, method)("abc", **call)


def test_embeddings_are_arrays(loaded):
    units = loaded.model_config.units
    for texts in (np.array(["abc", "d"]), (text for text in ("abc", "d"))):
        assert loaded.embed(texts).shape == (2, units)
    assert loaded.embed([]).shape == (0, units)
    vectors = loaded.embed(["abc", "a longer text", ""])
    assert vectors.shape == (3, loaded.model_config.units)
    np.testing.assert_allclose(loaded.embed("abc"), vectors[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "^temprature: there is no such .* temperature?"),
        ({"temperature": -1.0}, "^--temperature=-1.0: expected 0.0 <="),
        ({"top_k": 2**31}, "^--top_k=2147483648: expected 0 <= top_k <= 21474"),
        ({"max_tokens": 3}, "^max_tokens: there is no such setting"),
        ({"seed": np.arange(2)}, "^--seed=array.*: expected type int"),
    ],
)
def test_wrong_options_are_named(loaded, options, message):
    for method in (loaded.generate, loaded.stream, loaded.beam_search):
        with pytest.raises(UserError, match=message):
            method("abc", **options)


def test_a_chat_needs_a_template(loaded, tmp_path):
    messages = [{"role": "user", "content": "ab"}]
    with pytest.raises(UserError, match="has no chat template"):
        loaded.chat(messages)
    pytest.importorskip("jinja2", reason="no jinja2, which templates need")
    copy = loaded.save(tmp_path / "chats")
    saved_models.write_chat_template(
        copy, "{% for m in messages %}{{ m.content }}c{% endfor %}"
    )
    model = stacked_rnn.load(copy)
    for wrong in ("hi", {}, [], ["hi"], [{}], [{"role": "user"}], None):
        with pytest.raises(UserError, match="expected a list of messages"):
            model.chat(wrong)
    saved_models.write_chat_template(copy, "{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="the chat template refuses it: no"):
        model.chat(messages)
    saved_models.write_chat_template(
        copy, "{% for m in messages %}{{ m.content }}c{% endfor %}"
    )
    answer = model.chat(messages, max_new_tokens=9, seed=2)
    assert answer == loaded.generate("abc", max_new_tokens=9, seed=2)


def test_a_summary_is_the_card_of_the_model(loaded):
    summary = loaded.summary()
    assert "GRU language model of" in summary and str(loaded.path) in summary


# Where models come from -------------------------------------------------------


@pytest.mark.parametrize("name", ["copies", "model.zip", "model.ZIP"])
def test_a_saved_model_loads_again(loaded, name, tmp_path):
    saved = loaded.save(tmp_path / name)
    model = stacked_rnn.load(saved)
    options = {"temperature": 0, "max_new_tokens": 20}
    assert model.generate("ab", **options) == loaded.generate("ab", **options)
    assert model.evaluate(b"abc") == loaded.evaluate(b"abc")
    assert model.name == name.partition(".")[0]
    if name == "copies":
        assert loaded.save(tmp_path / name).name == "2"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_archive_takes_files_of_any_date(letters, loaded, tmp_path):
    """As copies that leave the dates out have them: the first of 1970."""
    path = shutil.copytree(letters, tmp_path / "old/1")
    os.utime(path / "README.md", (0, 0))
    description = dataclasses.replace(loaded.description, path=path)
    old = dataclasses.replace(loaded, description=description)
    assert zipfile.is_zipfile(old.save(tmp_path / "old.zip"))


def test_a_run_finds_its_model_and_no_other(letters, tmp_path):
    """Of its number: it may be taken again, and another project has one."""
    run, versions = tmp_path / "runs/mine", tmp_path / "saved_models/mine"
    version = shutil.copytree(letters, versions / "1")
    training.note_export(run, 3, version)
    assert saved_models.find(run) == version
    (tmp_path / "old/runs").mkdir(parents=True)
    run = run.rename(tmp_path / "old/runs/mine")  # only the full path leads
    assert saved_models.find(run) == version
    other = letters.parents[1] / "others/1"
    project = shutil.copytree(run, tmp_path / "b/runs/mine")
    shutil.copytree(other, tmp_path / "b/saved_models/mine/1")
    assert saved_models.find(project) == version
    assert training.find_export(run, 3, versions) == version
    shutil.rmtree(version)
    shutil.copytree(other, version)
    assert training.find_export(run, 3, versions) is None
    with pytest.raises(UserError, match="exported as is gone: .*: to export"):
        saved_models.find(run)


def test_an_archive_may_hold_the_directory_of_a_model(letters, tmp_path):
    """As people make one by hand."""
    shutil.make_archive(
        tmp_path / "by_hand", "zip", letters.parents[1], "letters"
    )
    model = stacked_rnn.load(tmp_path / "by_hand.zip")
    assert model.name == "letters" and model.path.name == "1"


def test_what_is_not_an_archive_is_named(tmp_path):
    (tmp_path / "text.zip").write_text("not an archive")
    (tmp_path / "page.html").write_text("a page")
    with pytest.raises(UserError, match="page.html: a file: expected the dir"):
        stacked_rnn.load(tmp_path / "page.html")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.txt", "outside")
    for name, message in (
        ("text", "not an archive, or damaged"),
        ("other", "no saved_model.pb found"),
        ("evil", "no saved_model.pb found"),
    ):
        with pytest.raises(UserError, match=f"{name}.zip: .*{message}"):
            stacked_rnn.load(tmp_path / f"{name}.zip")


def test_nothing_is_left_where_a_copy_cannot_be_written(loaded, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/model.zip"):
        with pytest.raises(UserError, match="cannot write there"):
            loaded.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class FakeHub(types.ModuleType):
    """huggingface_hub with one directory in place of the network."""

    class errors:  # noqa: N801
        HfHubHTTPError = ConnectionError

        class HTTPError(Exception):
            pass

    def __init__(self, directory):
        super().__init__("huggingface_hub")
        self.directory, self.calls = directory, []

    def snapshot_download(self, repository, revision):
        self.calls.append((repository, revision))
        if repository != "ann/cats":
            raise ConnectionError("404: Repository Not Found\nmore")
        return str(self.directory)

    def create_repo(self, repository, exist_ok):
        assert exist_ok
        if repository == "ann/offline":
            raise self.errors.HTTPError("Name or service not known")
        return f"https://hub.example/{repository}"

    def upload_folder(self, repo_id, folder_path, **_):
        self.calls.append((repo_id, folder_path))


@pytest.fixture
def fake_hub(letters, tmp_path, monkeypatch):
    commit = tmp_path / "hub/models--ann--cats/snapshots/0a1b2c"  # as it caches
    fake = FakeHub(shutil.copytree(letters, commit))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_model_comes_from_the_hub_and_goes_there(fake_hub, loaded):
    model = stacked_rnn.load("hf://ann/cats@v2")
    assert model.generate("ab", seed=1) == loaded.generate("ab", seed=1)
    assert model.name == "cats"  # not the hash of a commit
    assert loaded.push("hf://ann/cats") == "https://hub.example/ann/cats"
    assert fake_hub.calls == [
        ("ann/cats", "v2"), ("ann/cats", str(loaded.path)),
    ]  # fmt: skip


def test_a_name_on_the_hub_may_be_a_path_object(fake_hub, loaded, monkeypatch):
    """Which has one slash in place of two, on Windows backslashes."""
    functions = types.SimpleNamespace(beam_search=None)  # that none calls
    monkeypatch.setattr(saved_models, "load_functions", lambda path: functions)
    for path in (
        pathlib.PurePosixPath("hf://ann/cats"),
        pathlib.PureWindowsPath("hf://ann/cats"),
    ):
        assert stacked_rnn.load(path).name == "cats"
        loaded.push(path)
        with pytest.raises(UserError, match="^save: hf.* push uploads there"):
            loaded.save(path)
    assert {name for name, _ in fake_hub.calls} == {"ann/cats"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://ann/dogs", "^hf://ann/dogs: 404: Repository Not Found$"),
        ("hf://cats", "^hf://cats: expected hf://USER/NAME$"),
    ],
)
def test_what_the_hub_lacks_is_one_line(fake_hub, name, message):
    with pytest.raises(UserError, match=message):
        stacked_rnn.load(name)


def test_a_version_from_the_hub_has_the_name_of_its_repository(tmp_path):
    for version in ("0a1b2c", "0a1b2c/1"):
        path = tmp_path / "models--ann--cats/snapshots" / version
        assert saved_models.model_name(path) == "cats"


def test_a_lost_connection_is_one_line(fake_hub, loaded):
    with pytest.raises(UserError, match="^hf://ann/offline: Name or service"):
        loaded.push("hf://ann/offline")


def test_a_missing_hub_package_is_named(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (stacked_rnn.load, loaded.push):
        with pytest.raises(UserError, match="pip install huggingface_hub"):
            call("hf://ann/cats")


def test_the_real_hub_package_has_what_is_called():
    real = pytest.importorskip("huggingface_hub")
    for name in ("snapshot_download", "create_repo", "upload_folder"):
        assert callable(getattr(real, name))
    assert issubclass(
        real.errors.RepositoryNotFoundError, OSError
    ) or issubclass(
        real.errors.RepositoryNotFoundError, real.errors.HfHubHTTPError
    )
    lost = getattr(real.errors, "HTTPError", OSError)
    assert issubclass(real.errors.HfHubHTTPError, lost)
    assert hub.PREFIX == "hf://"


def test_a_model_is_written_for_other_programs(loaded, tmp_path):
    page = loaded.export(tmp_path / "page.html")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for name, weights, message in (
        ("page.pdf", "auto", "must end in .onnx, .tflite, .html, .safetensors"),
        ("other.html", "int4", "^--weights='int4': expected one of"),
        ("other.onnx", None, "^--weights=None: expected a string"),
        ("other.keras", "int8", "--format=keras writes float32"),
    ):
        with pytest.raises(UserError, match=message):
            loaded.export(tmp_path / name, weights=weights)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_file_and_its_vocabulary_are_written_together(loaded, tmp_path):
    """Or neither: a model with the tokens of another would write nonsense."""
    pytest.importorskip("tf2onnx", reason="no tf2onnx, which writes .onnx")
    path = loaded.export(tmp_path / "new/model.onnx")
    files = [path, path.with_suffix(".vocabulary.json")]
    assert sorted(path.parent.iterdir()) == files
    for file in files:
        file.write_text("old")
    (path.parent / "model.vocabulary.json.partial").mkdir()
    with pytest.raises(UserError, match="model.onnx: cannot write it"):
        loaded.export(path)
    assert [file.read_text() for file in files] == ["old", "old"]


def test_a_keras_file_holds_the_same_model(loaded, tmp_path):
    file = loaded.export(tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    model = keras.saving.load_model(file)
    text = "abcdefgh"
    token_ids = loaded.tokenizer.tokenize([text]).to_tensor()
    nats = keras.losses.sparse_categorical_crossentropy(
        token_ids[:, 1:], model(token_ids)[:, :-1], from_logits=True
    )
    expected = loaded.surprisal(text).nats[1:]
    np.testing.assert_allclose(nats[0], expected, atol=1e-5)
    (tmp_path / "other.keras").mkdir()
    with pytest.raises(UserError, match="other.keras: cannot write it"):
        loaded.export(tmp_path / "other.keras")
    assert len([*tmp_path.iterdir()]) == 2
