"""A directory of models that are added, replaced, damaged and deleted."""

import dataclasses
import gc
import json
import logging
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import types
import weakref
import zipfile

import pytest
import tensorflow as tf

from stacked_rnn import configs, model_cards, saved_models
from stacked_rnn.cli import serve
from stacked_rnn.configs import UserError
from stacked_rnn.serving import memory, model_directory, repository, server
from stacked_rnn.utils import devices
from tests.helpers.processes import Script
from tests.helpers.waiting import wait_until

LOGGER = "stacked_rnn.serving"


@pytest.fixture
def add(letters, tmp_path):
    """Adds a version, made of hard links, as no test writes into it."""

    def add(name, **changes):
        path = tmp_path / name
        shutil.copytree(letters, path, copy_function=os.link)
        if changes:
            config = path / saved_models.CONFIG_FILE
            values = json.loads(config.read_text()) | changes
            config.unlink()
            config.write_text(json.dumps(values))
        return path

    return add


def break_graph(version, content=b"broken"):
    graph = version / saved_models.GRAPH_FILE
    graph.unlink()
    graph.write_bytes(content)


class Scheduler:
    """Stands for `scheduler.Scheduler`."""

    def __init__(self, model, deliver, max_waiting, cache_bytes):
        self.num_waiting = self.num_active = 0
        self.is_compiled = threading.Event()
        self.ended, self.closed = threading.Event(), []
        self.ended.set()

    def compile(self):
        self.is_compiled.set()

    def close(self, seconds=None):
        self.closed.append(seconds)
        self.ended.wait(seconds)


class Loader:
    """Stands for `inference.from_description`; what it loads is a path.

    Attributes:
        paths: all that was asked of it.
        may_go_on: an event; until it is set, nothing is loaded.
    """

    def __init__(self):
        self.paths, self.may_go_on = [], threading.Event()
        self.may_go_on.set()

    def __call__(self, description):
        path = description.path
        self.paths.append(path)
        self.may_go_on.wait(30)
        if (path / saved_models.GRAPH_FILE).read_bytes() == b"broken":
            raise UserError(f"--saved_model={path}: damaged")
        return types.SimpleNamespace(path=path, description=description)


@pytest.fixture
def loader(monkeypatch):
    loader = Loader()
    monkeypatch.setattr(repository.inference, "from_description", loader)
    monkeypatch.setattr("stacked_rnn.serving.scheduler.Scheduler", Scheduler)
    monkeypatch.setattr(
        memory, "collect_garbage", lambda include_frozen=False: None
    )
    return loader


def open_repository(directory, max_loaded=0, model_name=""):
    return repository.Repository(
        str(directory), model_name, lambda updates: None, 9, False, max_loaded
    )


def versions(models):
    return {one.name: one.version for one in models}


@pytest.fixture
def said(caplog):
    """The lines of the log so far."""
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [record.getMessage() for record in caplog.records]


# What is in a directory


def test_only_directories_of_models_are_served(add, loader, tmp_path):
    add("letters/1")
    add("letters/2.partial")
    add("letters/\u00b2")  # a digit, and no number
    add("zeros/00000123")
    add("zeros/7")
    add("both/3")
    add("both/003")
    add("bare")
    add("copied.partial/1")
    add(".hidden/1")
    add("elsewhere/x/5")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "letters" / "9").symlink_to(tmp_path / "nowhere")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").write_text("")
    models = open_repository(tmp_path)
    models.update()
    assert versions(models) == {
        "bare": 1, "both": 3, "letters": 1, "linked": 5, "zeros": 123,
    }  # fmt: skip
    assert models["both"].model.path.name == "3"
    assert saved_models.find_version(tmp_path / "zeros").name == "00000123"
    assert saved_models.version_number(pathlib.Path("9" * 30)) is None


def test_a_directory_of_versions_is_one_model_for_good(add, loader, tmp_path):
    version = add("letters/1")
    add("letters/export-x.partial")
    models = open_repository(tmp_path / "letters", model_name="mine")
    models.update()
    version.rename(version.with_name("1.bak"))
    models.update()
    assert versions(models) == {"mine": 1}
    assert [path.name for path in loader.paths] == ["1"]


def test_model_name_names_the_only_model(add, loader, tmp_path):
    add("letters/1")
    models = open_repository(tmp_path, model_name="mine")
    add("others/1")
    models.update()
    assert versions(models) == {"mine": 1}
    with pytest.raises(UserError, match="several models"):
        open_repository(tmp_path, model_name="mine")


@pytest.mark.parametrize("units, threads", [(511, [2]), (512, [])])
def test_one_core_is_left_to_python_where_all_models_are_narrow(
    add, monkeypatch, tmp_path, units, threads
):
    add("broken/1", model={})
    add("worse/1", model=[])
    path = add("narrow/1") / saved_models.CONFIG_FILE
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    add("a/1", model=model | {"units": units})
    given, intervals = [], []
    monkeypatch.setattr(devices, "cores", lambda: 3)
    monkeypatch.setattr(
        tf.config.threading, "set_intra_op_parallelism_threads", given.append
    )
    monkeypatch.setattr(sys, "setswitchinterval", intervals.append)
    models = open_repository(tmp_path)
    server.Server.share_cores(types.SimpleNamespace(_repository=models))
    assert given == threads and intervals == [5e-4]
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    server.Server.share_cores(types.SimpleNamespace(_repository=models))
    assert given == threads


@pytest.fixture
def unreadable(monkeypatch):
    """Names of directories to make unreadable (for root, too)."""
    names, iterdir, stat = set(), pathlib.Path.iterdir, pathlib.Path.stat

    def check(path):
        if names & {path.name, path.parent.name}:
            raise PermissionError(13, "Permission denied", str(path))

    def checked_iterdir(path):
        if path.name in names:
            check(path)
        return iterdir(path)

    def checked_stat(path, **options):
        if path.name not in names:  # its own entry is in the directory above
            check(path)
        return stat(path, **options)

    monkeypatch.setattr(pathlib.Path, "iterdir", checked_iterdir)
    monkeypatch.setattr(pathlib.Path, "stat", checked_stat)
    return names


def test_unreadable_directories_are_reported_once(
    add, loader, said, unreadable, tmp_path
):
    add("letters/1")
    (tmp_path / "lost+found").mkdir()
    unreadable.add("lost+found")
    models = open_repository(tmp_path)
    for _ in range(3):
        models.update()
    assert versions(models) == {"letters": 1}
    assert len([line for line in said() if "lost+found" in line]) == 1
    unreadable.add("letters")
    unreadable.add("8")
    add("others/7")
    add("others/8")
    models.update()
    assert versions(models) == {"letters": 1, "others": 7}
    assert models.states("others")[8][0] == "END"
    unreadable.clear()
    (tmp_path / "others" / "8").touch()
    models.update()
    assert versions(models) == {"letters": 1, "others": 8}


def test_commands_name_unreadable_paths(add, unreadable, monkeypatch, tmp_path):
    add("letters/1")
    unreadable.add("letters")
    with pytest.raises(UserError, match="letters: cannot be read.*denied"):
        saved_models.find(str(tmp_path / "letters"))
    unreadable.clear()
    unreadable.add(tmp_path.name)
    with pytest.raises(UserError, match="cannot be read.*denied"):
        open_repository(tmp_path)

    def denied(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "read_text", denied)
    with pytest.raises(UserError, match="1: cannot be read.*denied"):
        saved_models.read_description(tmp_path / "letters" / "1")


def test_a_model_deleted_during_the_search_is_skipped(
    add, loader, said, monkeypatch, tmp_path
):
    add("a/1")
    add("b/1")
    find_versions = saved_models.find_versions
    models = open_repository(tmp_path)

    def find_late(path):
        if path.name == "a":
            shutil.rmtree(path, ignore_errors=True)
        return find_versions(path)

    monkeypatch.setattr(saved_models, "find_versions", find_late)
    models.update()
    assert versions(models) == {"b": 1}
    assert not [line for line in said() if "/a" in line]


def test_a_model_stays_loaded_when_its_directory_is_deleted(
    add, loader, tmp_path
):
    add("a/1")
    add("b/1")
    models = open_repository(tmp_path)
    models.update()
    shutil.rmtree(tmp_path / "a")
    models.update()
    assert versions(models) == {"a": 1, "b": 1} and "a" in models
    shutil.rmtree(tmp_path)
    models.update()
    assert versions(models) == {"a": 1, "b": 1} and "b" in models


def test_errors_do_not_end_the_polling(
    add, loader, said, monkeypatch, tmp_path
):
    add("a/1")
    models = open_repository(tmp_path)
    models.update()
    looked = threading.Semaphore(0)
    errors = [RuntimeError("odd"), RuntimeError("odd"), PermissionError(13, "")]
    find = model_directory.ModelDirectory._find

    def find_or_fail(self, found):
        looked.release()
        if errors:
            raise errors[0]
        return find(self, found)

    monkeypatch.setattr(model_directory.ModelDirectory, "_find", find_or_fail)
    models.watch(0.01)
    for _ in range(3):
        looked.acquire(timeout=30)
        looked.acquire(timeout=30)
        errors.pop(0)
    add("a/2")
    wait_until(lambda: versions(models) == {"a": 2})
    models.close(0)
    assert len([line for line in said() if "retrying" in line]) == 1


# What is wrong with a version


def test_a_refused_version_is_tried_again_when_its_files_change(
    add, loader, letters, said, tmp_path
):
    add("a/1")
    broken = add("a/2")
    break_graph(broken)
    add("b/1")
    models = open_repository(tmp_path)
    for _ in range(3):
        models.update()
    # The version below is served, also after a restart.
    assert versions(models) == {"a": 1, "b": 1}
    assert {v: state for v, (state, *_) in models.states("a").items()} == {
        1: "AVAILABLE", 2: "END",
    }  # fmt: skip
    refused = [line for line in said() if "refused" in line]
    assert len(refused) == 1 and "a version 2" in refused[0]
    assert loader.paths.count(broken) == 1
    os.utime(broken / saved_models.GRAPH_FILE, (1, 1))
    models.update()
    assert loader.paths.count(broken) == 2
    assert len([line for line in said() if "refused" in line]) == 1
    break_graph(broken, (letters / saved_models.GRAPH_FILE).read_bytes())
    models.update()
    assert versions(models) == {"a": 2, "b": 1}
    assert models.states("a") == {2: ("AVAILABLE", "OK", "")}
    assert "a version 2 takes over from version 1" in "".join(said())


@pytest.mark.parametrize("name", ["variables/variables.index", "new", "."])
def test_a_change_to_any_file_is_noticed(letters, tmp_path, name):
    version = shutil.copytree(letters, tmp_path / "1")
    before = model_directory.file_stamps(version)
    assert model_directory.file_stamps(version) == before
    (version / name).touch()
    assert model_directory.file_stamps(version) != before


def test_constantly_changing_files_do_not_block_other_models(
    add, loader, tmp_path, monkeypatch
):
    break_graph(add("a/1"))
    add("b/1")
    counter = iter(range(1000))
    monkeypatch.setattr(
        model_directory, "file_stamps", lambda path: {next(counter)}
    )
    models = open_repository(tmp_path)
    models.update()
    assert models.is_settled and versions(models) == {"b": 1}


def test_a_version_that_is_deleted_gives_way_to_the_one_before(
    add, loader, tmp_path
):
    add("a/4")
    careless = add("a/5")
    models = open_repository(tmp_path)
    models.update()
    assert versions(models) == {"a": 5}
    shutil.rmtree(careless)
    models.update()
    assert versions(models) == {"a": 4}


def test_other_weights_under_the_number_served_are_loaded(
    add, loader, letters, tmp_path
):
    others = letters.parent.parent / "others" / "1"
    add("a/1")
    version = add("a/2")
    models = open_repository(tmp_path)
    models.update()
    shutil.rmtree(version)
    shutil.copytree(others, version)
    break_graph(version)
    for _ in range(2):
        models.update()
    served = models["a"]  # what is in memory is better than version 1
    assert served.fingerprint == saved_models.fingerprint(letters)
    assert loader.paths == [version, version]
    (version / "variables/variables.index").rename(version / "gone")
    models.update()
    assert models["a"] is served
    (version / "gone").rename(version / "variables/variables.index")
    break_graph(version, (others / saved_models.GRAPH_FILE).read_bytes())
    for _ in range(2):
        models.update()
    assert models["a"].fingerprint == saved_models.fingerprint(others)
    assert models["a"].version == 2 and loader.paths == [version] * 3


def test_a_takeover_is_logged_with_its_figures(add, loader, said, tmp_path):
    def trained(bits):
        return {"validation": {"bits_per_character": bits}}

    add("a/1", training=trained(1.72))
    models = open_repository(tmp_path)
    models.update()
    assert said()[-1].startswith("a version 1 is ready (1 of 1), ")
    add("a/2", training=trained(1.74))
    models.update()
    assert said()[-1].startswith("a version 2 takes over from version 1, ")
    add("a/3", training=trained(5.56))
    models.update()
    assert "takes over from version 2" in said()[-2]
    assert said()[-1] == (
        "warning: a version 3 differs from version 2: it validates worse "
        "(5.560 bits/char, not 1.740 bits/char)"
    )


def test_texts_in_a_replaced_version_end_in_time(add, loader, tmp_path):
    add("a/1")
    models = open_repository(tmp_path)
    models.update()
    old = models["a"]
    old.scheduler.ended.clear()
    add("a/2")
    models.update()
    assert models["a"].version == 2 and old.scheduler.closed == [None]
    begin = time.monotonic()
    models.close(0.1)  # a text that goes on ends with the server
    assert time.monotonic() - begin < 10
    assert old.scheduler.closed == [None, 0.1]
    assert all(thread.daemon for thread in threading.enumerate()[1:])
    old.scheduler.ended.set()


@pytest.mark.parametrize(
    ("training", "count"),
    [
        (None, 1),
        ([], 1),
        ("by hand", 1),
        ({"corpus": "x"}, 1),
        ({"corpus": "x", "characters": "many", "epochs": 2}, 1),
        ({"corpus": "x", "characters": 5, "epochs": 2}, 2),
        ({"validation": {"loss": 1.0}}, 1),
        ({"validation": {"bits_per_character": 1.5, "perplexity": 2.8}}, 2),
        ({"validation": 3}, 1),
        ({"learned_all": False}, 1),
        ({"learned_all": True}, 2),
        ({"unknown_share": 0.0}, 1),
        ({"unknown_share": 0.031}, 2),
        ({"unknown_share": "all"}, 1),
    ],
)
def test_an_unknown_training_record_shortens_the_card(letters, training, count):
    description = dataclasses.replace(
        saved_models.read_description(letters), training=training
    )
    card = model_cards.sentences(description, 5)
    assert len(card) == count and "5 parameters" in card[0]


def test_the_card_of_an_export_says_the_same(letters):
    card = (letters / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: stacked_rnn\npipeline_tag: text-g"
    )
    description = saved_models.read_description(letters)
    assert "\n".join(description.sentences()) in card
    assert "\n# letters\n" in card


def test_a_snapshot_of_the_hub_is_called_by_its_repository(letters, tmp_path):
    snapshot = tmp_path / "models--me--tiny-cats/snapshots/0123abc"
    shutil.copytree(letters, snapshot)
    found = model_directory.ModelDirectory(str(snapshot), "")
    assert found.versions == {"tiny-cats": [snapshot]}
    shutil.move(snapshot, tmp_path / "1")
    shutil.copytree(tmp_path / "1", snapshot / "1")
    found = model_directory.ModelDirectory(str(snapshot), "")
    assert found.versions == {"tiny-cats": [snapshot / "1"]}
    found = model_directory.ModelDirectory(str(snapshot), "mine")
    assert [*found.versions] == ["mine"]


def test_runs_archives_and_models_of_the_hub_are_served(
    letters, tmp_path, monkeypatch
):
    snapshot = tmp_path / "models--me--tiny-cats/snapshots/0123abc"
    shutil.copytree(letters, snapshot)
    monkeypatch.setattr(saved_models.hub, "download", lambda name: snapshot)
    run = tmp_path / "run"
    exported = run / saved_models.EXPORTED_FILE
    exported.parent.mkdir(parents=True)
    exported.write_text(json.dumps({"version": str(letters)}))
    for path in (letters, letters.parent):
        name = f"{path.name}-model"
        shutil.make_archive(tmp_path / name, "zip", path)
    for saved_model, name in (
        (run, "letters"),
        (tmp_path / "1-model.zip", "1-model"),
        (tmp_path / "letters-model.zip", "letters-model"),
        ("hf://me/tiny-cats", "tiny-cats"),
    ):
        found = model_directory.ModelDirectory(str(saved_model), "")
        assert [*found.versions] == [name]
        assert (found.versions[name][0] / saved_models.GRAPH_FILE).exists()
    with pytest.raises(UserError, match="empty.zip: neither a SavedModel"):
        with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
            pass
        model_directory.ModelDirectory(str(tmp_path / "empty.zip"), "")


def test_parameters_are_counted_from_the_files(letters, generator):
    assert (
        saved_models.num_parameters(letters) == generator.model.count_params()
    )


# While models load


def begun(add, loader, tmp_path):
    """Opens a repository of two models that is loading the first."""
    add("a/1")
    add("b/1")
    models = open_repository(tmp_path)
    loader.may_go_on.clear()
    loading = threading.Thread(target=models.update)
    loading.start()
    wait_until(lambda: loader.paths)
    return models, loading


def test_a_model_that_is_loading_is_not_ready(add, loader, tmp_path):
    models, loading = begun(add, loader, tmp_path)
    for name in ("a", "b"):
        assert name in models
        with pytest.raises(repository.NotReadyError, match="loaded") as caught:
            models[name]
        assert not caught.value.is_on_demand
        with pytest.raises(repository.NotReadyError):
            models.describe(name)
        assert models.states(name) == {1: ("LOADING", "OK", "")}
    assert "c" not in models and not models.is_settled and not [*models]
    assert not [*models.listed()]
    for ask in (models.__getitem__, models.describe, models.states):
        with pytest.raises(KeyError):
            ask("c")
    loader.may_go_on.set()
    loading.join()
    assert models.is_settled and versions(models) == {"a": 1, "b": 1}
    assert versions(models.listed()) == {"a": 1, "b": 1}


def test_a_model_with_damaged_versions_only_does_not_exist(
    add, loader, tmp_path
):
    break_graph(add("a/1"))
    add("b/1")
    models = open_repository(tmp_path)
    models.update()
    assert models.is_settled and "a" in models
    for ask in (models.__getitem__, models.describe):
        with pytest.raises(KeyError):
            ask("a")
    state, code, message = models.states("a")[1]
    assert (state, code) == ("END", "INVALID_ARGUMENT") and "damaged" in message


def test_a_refused_version_leaves_no_scheduler(
    add, loader, monkeypatch, tmp_path
):
    def unreadable(path):
        raise PermissionError(13, "Permission denied", str(path))

    made = []
    monkeypatch.setattr(
        "stacked_rnn.serving.scheduler.Scheduler",
        lambda *settings: made.append(Scheduler(*settings)),
    )
    monkeypatch.setattr(saved_models, "chat_template", unreadable)
    add("a/1")
    models = open_repository(tmp_path)
    models.update()
    assert models.states("a")[1][0] == "END"
    assert all(one.closed for one in made)


def test_stopping_ends_the_loading(add, loader, tmp_path):
    models, loading = begun(add, loader, tmp_path)
    models.stop()
    loader.may_go_on.set()
    loading.join()
    assert len(loader.paths) == 1 and not models.is_settled and not [*models]


def test_any_thread_may_ask_while_models_change(add, loader, letters, tmp_path):
    whole = (letters / saved_models.GRAPH_FILE).read_bytes()
    add("a/1")
    add("b/1")
    models = open_repository(tmp_path, max_loaded=1)
    stop, failures = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                versions(models), [*models.listed()], "a" in models
                models.states("a"), models.describe("b")
                models["b"]
            except (repository.NotReadyError, KeyError):
                pass
            except Exception as error:
                failures.append(error)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    models.update()
    for thread in asking:
        thread.start()
    for number in range(2, 12):
        version = add(f"a/{number}")
        break_graph(version, b"broken" if number % 2 else whole)
        models.update()
    stop.set()
    for thread in asking:
        thread.join()
    assert not failures


# Limits on loaded models


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(repository, "_STAY_SECONDS", 0.05)
    monkeypatch.setattr(repository, "_PATIENCE_SECONDS", 0.5)


def ask(models, name, seconds=0.005):
    """Asks for a model again and again, as requests do, until it is loaded."""
    wait_until(lambda: is_ready(models, name), pause=seconds)
    return models[name]


def is_ready(models, name):
    try:
        return models[name]
    except repository.NotReadyError as error:
        assert error.is_on_demand
        return False


def test_models_beyond_the_most_are_loaded_on_demand(
    add, loader, said, quick, tmp_path
):
    for name in "abc":
        add(f"{name}/1")
    models = open_repository(tmp_path, max_loaded=2)
    models.update()
    assert models.is_settled and versions(models) == {"a": 1, "b": 1}
    assert versions(models.listed()) == {"a": 1, "b": 1, "c": 1}
    assert "GRU language model" in models.describe("c").card[0]
    assert models.states("c") == {1: ("START", "OK", "")}
    models.watch(30)  # it is woken
    models["b"], models["a"]
    assert ask(models, "c").name == "c"
    assert versions(models) == {"a": 1, "c": 1}
    assert versions(models.listed()) == {"a": 1, "b": 1, "c": 1}
    models["a"]
    ask(models, "b")
    assert versions(models) == {"a": 1, "b": 1}
    assert "c version 1 makes room" in said()
    add("b/2")
    add("c/2")
    models.update()
    assert versions(models) == {"a": 1, "b": 2}  # a new one where one is loaded
    assert models.describe("c").version == 2
    models.close(0)


@pytest.mark.parametrize("use", ["active", "preparing"])
def test_a_model_in_use_is_not_unloaded(add, loader, quick, tmp_path, use):
    for name in "abc":
        add(f"{name}/1")
    models = open_repository(tmp_path, max_loaded=2)
    models.update()
    models.watch(30)
    busy = models["a"].scheduler
    if use == "active":
        busy.num_active = 1
    else:
        models["a"].preparing.add("a request")
    models["b"]
    ask(models, "c")
    assert versions(models) == {"a": 1, "c": 1} and not busy.closed
    # All are in use: the least recently used one accepts no more texts.
    models["c"].scheduler.num_waiting = 1
    busy.ended.clear()
    with pytest.raises(repository.NotReadyError):
        models["b"]
    wait_until(lambda: busy.closed)
    assert len(loader.paths) == 3  # but its texts end before b is loaded
    busy.ended.set()
    ask(models, "b")
    assert versions(models) == {"b": 1, "c": 1}
    models.close(0)


def test_every_waiting_request_gets_its_model(
    add, loader, monkeypatch, tmp_path
):
    """Though there is room for one and others wait for another."""
    monkeypatch.setattr(repository, "_STAY_SECONDS", 0.5)
    for name in "abc":
        add(f"{name}/1")
    models = open_repository(tmp_path, max_loaded=1)
    models.update()
    models.watch(30)
    got, threads = [], []
    for name in "bcbc":
        threads.append(
            threading.Thread(
                target=lambda n=name: got.append(ask(models, n, 0.1))
            )
        )
        threads[-1].start()
    for thread in threads:
        thread.join(30)
    assert sorted(one.name for one in got) == ["b", "b", "c", "c"]
    assert len(loader.paths) == 3
    models.close(0)


def test_a_model_that_cannot_be_loaded_is_not_waited_for(
    add, loader, quick, tmp_path
):
    add("a/1")
    break_graph(add("b/1"))
    models = open_repository(tmp_path, max_loaded=1)
    models.update()
    models.watch(30)
    with pytest.raises(KeyError):
        ask(models, "b")
    assert models.states("b")[1][0] == "END"
    models.close(0)


def test_a_refused_model_is_loaded_on_demand_once_its_files_change(
    add, loader, letters, said, quick, tmp_path
):
    add("a/1")
    version = add("b/1")
    config = version / saved_models.CONFIG_FILE
    content = config.read_bytes()
    config.unlink()
    break_graph(version)
    models = open_repository(tmp_path, max_loaded=1)

    def is_known():
        models.update()
        try:
            return models["b"]
        except KeyError:
            return False
        except repository.NotReadyError as error:
            return error.is_on_demand

    assert not is_known() and not is_known()
    config.write_bytes(content)
    assert is_known() and not is_known()  # its graph is broken
    break_graph(version, (letters / saved_models.GRAPH_FILE).read_bytes())
    assert is_known()
    models.update()
    assert versions(models) == {"b": 1}
    assert len([line for line in said() if "refused" in line]) == 2


def test_a_copy_that_ends_while_it_is_listed_is_listed_later(
    add, loader, monkeypatch, tmp_path
):
    add("a/1")
    add("b/1")
    read = saved_models.read_description

    def read_early(path):
        late = path / "late"
        if path.parent.name == "b" and not late.exists():
            late.touch()
            raise UserError("a file is missing")
        return read(path)

    monkeypatch.setattr(saved_models, "read_description", read_early)
    models = open_repository(tmp_path, max_loaded=1)
    for expected in ({"a": 1}, {"a": 1, "b": 1}):
        models.update()
        assert versions(models.listed()) == expected


def test_a_stopping_server_loads_nothing_on_demand(add, loader, tmp_path):
    add("a/1")
    add("b/1")
    models = open_repository(tmp_path, max_loaded=1)
    models.update()
    models.stop()
    with pytest.raises(repository.NotReadyError) as caught:
        models["b"]
    assert not caught.value.is_on_demand


def test_an_unloaded_model_frees_its_memory(letters, tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "_STAY_SECONDS", 0.0)
    for name in "ab":
        shutil.copytree(letters, tmp_path / name / "1", copy_function=os.link)
    models = open_repository(tmp_path, max_loaded=1)
    models.update()
    traces = [
        weakref.ref(one)
        for one in (
            models["a"].scheduler,
            models["a"].model.functions,
            models["a"].model.functions.weights[0],
            models["a"].model.functions.signatures["generate"].graph,
        )
    ]  # fmt: skip
    assert all(trace() is not None for trace in traces)
    time.sleep(0.01)
    with pytest.raises(repository.NotReadyError):
        models["b"]
    models.update()
    assert versions(models) == {"b": 1}
    assert all(trace() is None for trace in traces)
    models.close(0)
    gc.unfreeze()


# Messages at the start


def test_address_and_models_are_logged_at_start(letters, tmp_path, said):
    for name in "ab":
        shutil.copytree(letters, tmp_path / name / "1", copy_function=os.link)
    config = configs.ServeConfig(
        saved_model=str(tmp_path), port=0, access_log=False, jit_compile=False
    )
    with server.Server(config) as running:
        base = f"http://127.0.0.1:{running.port}"
        first, a, b = said()
        assert (
            first == f"listening at {base}/, loading the models in {tmp_path}"
        )
        for number, (line, name) in enumerate(zip((a, b), "ab")):
            start = f"{name} version 1 is ready ({number + 1} of 2)"
            assert line.startswith(start), line
            if memory.resident_bytes():
                assert line.startswith(f"{start}, ") and line.endswith(" MB")
        assert running.urls() == [
            f"Serving a, b at {base}/",
            f"  OpenAI's API: base_url={base}/v1",
            f"  TensorFlow Serving's: {base}/v1/models/NAME:predict",
        ]


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fe80::1", "http://[fe80::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_addresses_open_in_a_browser(host, base):
    one = server.Server.__new__(server.Server)
    one._config, one.port = configs.ServeConfig(host=host), 80
    assert one._base_url == base


@pytest.mark.parametrize(
    ("names", "line"),
    [("abcdef", "listening at http://127.0.0.1:"), ("a", "  OpenAI's API: ")],
    ids=["loads", "compiles"],
)
def test_serve_logs_its_address_and_stops_while_it(
    saved_words, tmp_path, names, line
):
    """The tokenizer has a table, which initializes TensorFlow."""
    models = tmp_path / "models"
    for name in names:
        shutil.copytree(saved_words, models / name / "1", copy_function=os.link)
    process = Script(
        tmp_path, "serve.py", f"--saved_model={models}", "--port=0"
    )
    process.wait_for(line)
    process.send_signal(signal.SIGTERM)
    ended = process.finish(60)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    log = ended.stderr.splitlines()
    # A compilation that ends meanwhile may still say so after this.
    assert "stopping" in {said[:8] for said in log[-2:]}
    [place] = [n for n, said in enumerate(log) if line in said]
    if names == "a":
        first, second, third = log[place - 3 : place]
        assert "listening at" in first and "a version 1 is ready" in second
        assert third.startswith("Serving a at http://127.0.0.1:")
    else:
        assert not [said for said in log[:place] if "ready" in said]
        assert "Serving" not in ended.stderr
        assert "f version 1" not in ended.stderr


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_any_second_signal_ends_the_server_at_once(monkeypatch, first):
    handlers = {}

    class Interrupted:
        def __init__(self, config):
            self.share_cores = self.stop_loading = lambda: None

        def __enter__(self):
            handlers[first](first, None)

        def __exit__(self, *_):
            pass

        def urls(self):
            return []

    monkeypatch.setattr(server, "Server", Interrupted)
    monkeypatch.setattr(serve, "_log_to_standard_error", lambda: None)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    serve.main(configs.ServeConfig())
    assert handlers == dict.fromkeys(
        (signal.SIGINT, signal.SIGTERM), signal.SIG_DFL
    )


# Memory


def test_resident_memory_is_read_where_known(monkeypatch):
    resident = memory.resident_bytes()
    if sys.platform == "linux":
        assert 50e6 < resident < 500e9
    memory.trim()
    monkeypatch.setattr(memory, "_STATUS", pathlib.Path("nowhere"))
    assert memory.resident_bytes() is None
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    memory.trim()
