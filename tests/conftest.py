"""Two logical CPUs for all tests, and fixtures that they share."""

import contextlib
import gc
import multiprocessing
import os
import pathlib
import signal
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# What XLA compiles here runs for less time than it would take to optimize it.
# Beside a GPU, it makes the code that users run.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from stacked_rnn.utils import quiet_import

quiet_import.import_tensorflow()  # without garbage collection

import numpy as np
import pytest
import tensorflow as tf

# Before the helpers are imported, so that their asserts show values, too.
pytest.register_assert_rewrite("tests.helpers")

from stacked_rnn import inference, tokenizers
from tests.helpers import ROOT, browsers, loading, small_models

fcntl = None
with contextlib.suppress(ImportError):  # on Windows
    import fcntl

# Two replicas for the distribution tests; TensorFlow wants to know before its
# first operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

# As after a model was loaded, so that no test depends on those before it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

# The collector would look through modules and graphs again and again.
gc.disable()

# These begin first, so that the workers of `make test` end at the same time.
LONGEST = (
    "commands_test.py", "training_test.py", "notebooks_test.py",
    "conformance_test.py", "widening_test.py", "docs_test.py",
    "serving_test.py", "export_test.py", "devices_test.py", "tune_test.py",
    "front_door_test.py", "layers_test.py", "distributed_test.py",
    "playground_test.py", "regularization_test.py",
    "decode_functions_test.py", "rolling_test.py", "classifier_test.py",
    "seq2seq_test.py", "repository_test.py", "resume_test.py",
    "execution_test.py", "scheduler_test.py", "deploy_test.py",
    "hostile_test.py", "openapi_test.py", "adjustments_test.py",
    "export_runtimes_test.py", "warm_start_test.py", "html_page_test.py",
    "site_test.py", "fourth_task_test.py", "train_callbacks_test.py",
)  # fmt: skip
SHARED_DATA = ROOT.parent / "shared" / "data"


# A shell lets the commands in its background ignore Ctrl-C, and these the
# processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


def pytest_collection_modifyitems(items):
    order = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(monkeypatch):
    """Kills the processes that a failed test has left running."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
    for fork in multiprocessing.active_children():
        fork.kill()


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="session")
def browser():
    """A driver of Chromium, for tests with `browsers.needed`.

    Tests leave its window as it was; its logs have what others did.
    """
    with browsers.chromium() as driver:
        yield driver


@pytest.fixture
def shared_text():
    """Reads a large corpus, or skips where it is absent."""

    def read(name):
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(
                f"{name} is not here: no shared/data beside the project"
            )
        return path.read_bytes()

    return read


# SavedModels, each exported once. No test writes into them: those that would
# take a copy.


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory):
    """Calls a function with a directory to export into, unless another did.

    The workers of pytest-xdist share these directories, where a file can be
    locked.
    """
    shared = tmp_path_factory.getbasetemp()
    if fcntl and "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def exported(name, export):
        directory = shared / name
        with open(shared / f"{name}.lock", "w") as lock:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not directory.exists():
                partial = tmp_path_factory.mktemp("partial")
                export(partial)
                partial.rename(directory)
        return directory

    return exported


@pytest.fixture(scope="session")
def generator():
    """A GRU of the letters a to h with random weights, not yet exported."""
    return small_models.build_generator()


@pytest.fixture(scope="session")
def saved_models(generator, exported_once):
    """A directory of two: `letters`, with a record of a training; `others`."""

    def export(directory):
        generator.save(
            directory / "letters",
            {
                "corpus": "letters.txt", "characters": 1000, "epochs": 2,
                "validation": {"bits_per_character": 1.5, "perplexity": 2.83},
            },
        )  # fmt: skip
        small_models.build_generator("lstm").save(directory / "others")

    directory = exported_once("saved_models", export)
    before = stamps(directory)
    yield directory
    assert stamps(directory) == before, "a test has written into a shared model"


@pytest.fixture(scope="session")
def letters(saved_models) -> pathlib.Path:
    """Version 1 of the GRU."""
    return saved_models / "letters" / "1"


@pytest.fixture(scope="session")
def loaded(letters):
    """The GRU, loaded."""
    with loading.once():
        return inference.load(letters)


@pytest.fixture(scope="session")
def loaded_bytes(exported_once):
    """A GRU over bytes, loaded."""

    def export(directory):
        tokenizer = tokenizers.ByteTokenizer()
        small_models.build_generator(tokenizer=tokenizer).save(directory)

    with loading.once():
        return inference.load(exported_once("bytes", export))


@pytest.fixture(scope="session")
def loaded_lines(exported_once):
    """A GRU over letters whose texts end with their line, loaded."""

    def export(directory):
        tokenizer = tokenizers.build(
            "char", b"a\nbcd\nefgh", document_separator=r"\n"
        )
        small_models.build_generator(
            tokenizer=tokenizer, end_of_text=True
        ).save(directory)

    with loading.once():
        return inference.load(exported_once("lines", export))


@pytest.fixture(scope="session")
def saved_words(exported_once):
    """A GRU over words, whose tokenizer has a table: its version."""

    def export(directory):
        tokenizer = tokenizers.build(
            "word", small_models.WORDS.encode(), 260, letters_only=True
        )
        small_models.build_generator(tokenizer=tokenizer).save(directory)

    return exported_once("words", export) / "1"


def stamps(directory):
    """Name, size and time of each file below a directory."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
    }
