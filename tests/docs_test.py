"""What the pages of the documentation show is so: their Python runs.

Programs, which have a name there, are run by tests/commands_test.py.
"""

import dataclasses
import re
import shutil
import warnings

import numpy as np
import pytest

from stacked_rnn import configs
from tests.helpers import ROOT, pages
from tests.helpers.live_server import serving
from tests.helpers.processes import assert_flags_are_parsed

BLOCKS = [
    block
    for pattern in ("*.md", "docs/**/*.md", "deploy/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
    for block in pages.blocks(path.relative_to(ROOT))
]
SERVER = "http://127.0.0.1:8501/"
PAGES = sorted({block.page for block in BLOCKS if not block.name})


@pytest.fixture(scope="module")
def reader(letters, tmp_path_factory):
    """Where the README's reader is: with a text, and a model of the demo."""
    directory = tmp_path_factory.mktemp("reader")
    (directory / "mine.txt").write_text(
        "Once upon a time there was a small text. " * 250, encoding="utf-8"
    )
    shutil.copytree(letters, directory / "saved_models/pydoc/1")
    return directory


@pytest.fixture
def directory(reader, monkeypatch):
    monkeypatch.chdir(reader)
    return reader


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, directory):
    """In one namespace, and without a warning."""
    namespace = {"__name__": "__main__"}
    for block in BLOCKS:
        if block.page != page or block.name or SERVER in block.code:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            block.run(namespace)
    if page == "README.md":  # the two halves are the whole, as it says there
        whole = namespace["model"](namespace["token_ids"])
        second = namespace["second"]["logits"]
        np.testing.assert_allclose(whole[:, 50:], second, atol=1e-4)
        assert (directory / "saved_models/mine/1/saved_model.pb").exists()


def test_what_asks_the_server_gets_an_answer(directory, capsys):
    clients = [block for block in BLOCKS if SERVER in block.code]
    with serving("saved_models") as running:
        address = f"http://127.0.0.1:{running.port}/"
        for client in clients:
            code = client.code.replace(SERVER, address)
            dataclasses.replace(client, code=code).run({})
    assert clients and len(capsys.readouterr().out) > 50


def test_commands_have_flags_that_their_scripts_accept():
    """Nothing runs; the values are checked, too."""
    shown = {
        command
        for pattern in (
            "*.md", "docs/**/*.md", "deploy/*.md", "recipes/*", "Makefile",
            "*.py",
        )
        for path in ROOT.glob(pattern)
        for command in pages.commands(path.relative_to(ROOT))
    }  # fmt: skip
    assert {script for script, *_ in shown} == {
        path.name for path in ROOT.glob("*.py")
    }
    for script, *arguments in sorted(shown):
        assert_flags_are_parsed(script, arguments)


def test_flags_that_are_named_exist():
    """Anywhere on a page, also without a script before them."""
    kinds = [
        kind
        for kind in vars(configs).values()
        if isinstance(kind, type) and issubclass(kind, configs.Config)
    ]
    known = {"flagfile", "help", "editable"}  # the last of pip
    known.update(
        name
        for kind in kinds
        for field in dataclasses.fields(kind)
        for name in (field.name, f"no{field.name}")
    )
    for path in (
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("recipes/*"),
    ):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"(?<![\w-])--(\w+)", text)) <= known, path


def test_programs_are_run_elsewhere():
    names = [block.name for block in BLOCKS if block.name]
    assert names == ["generate_onnx.py", "generate_litert.py"]
