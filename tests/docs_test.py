"""The pages of the documentation: their code runs, and no link is dead.

Programs that have a name there are run by tests/commands_test.py and
tests/torch_weights_test.py.
"""

import configparser
import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pytest

import stacked_rnn
from stacked_rnn import cli, configs, datasets, layers
from stacked_rnn.training import plan, runs
from tests.helpers import ROOT, exports, pages, quick
from tests.helpers.live_server import serving
from tests.helpers.processes import assert_flags_are_parsed

BLOCKS = [block for page in pages.paths() for block in pages.blocks(page)]
SERVER = "http://127.0.0.1:8501/"
HELD_OUT = "docs/corpora.md"  # it reads the record of a run
PAGES = sorted({block.page for block in BLOCKS if not block.name} - {HELD_OUT})
# Flags whose value is not looked at while flags are parsed.
ANY_VALUE = re.compile(r"^(--(?:corpus|prompt|saved_model|text)=).*", re.DOTALL)


@pytest.fixture(scope="module")
def reader(letters, tmp_path_factory):
    """The directory of somebody who reads the pages: a text and some models."""
    directory = tmp_path_factory.mktemp("reader")
    (directory / "mine.txt").write_text(
        "Once upon a time there was a small text. " * 250, encoding="utf-8"
    )
    shutil.copytree(letters, directory / "saved_models/pydoc/1")
    for name, released in (
        ("rt-polarity", "classifier"),
        ("dates_to_iso", "seq2seq"),
    ):
        archive = ROOT / f"tests/released/{released}.tar.xz"
        with tarfile.open(archive) as content:
            content.extractall(directory / "saved_models" / name, filter="data")
    return directory


@pytest.fixture
def directory(reader, monkeypatch):
    monkeypatch.chdir(reader)
    monkeypatch.setattr(stacked_rnn, "train", quick.train)
    # XLA would compile for longer than `fit` and the Trainer run.
    monkeypatch.setattr(layers.LSTM, "jit_compile", False)
    make_plan = plan.make_plan
    monkeypatch.setattr(
        plan,
        "make_plan",
        lambda *args: dataclasses.replace(make_plan(*args), xla="nothing"),
    )
    with exports.in_memory():
        yield reader


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_of_a_page_run(page, directory):
    """All in one namespace, without a warning."""
    namespace = {"__name__": "__main__"}
    for block in BLOCKS:
        if block.page != page or block.name or SERVER in block.code:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            block.run(namespace)
    if page == "docs/python.md":  # two halves are the whole, as it says there
        whole = namespace["model"](namespace["token_ids"])
        second = namespace["second"]["logits"]
        np.testing.assert_allclose(whole[:, 50:], second, atol=1e-4)
        assert (directory / "saved_models/mine/1/saved_model.pb").exists()
    if page == "docs/tune.md":  # keras-tuner hides the errors of a trial
        for version in ("1", "2"):
            assert (directory / "saved_models/trials" / version).is_dir()


def test_the_held_out_text_is_that_of_the_run(tmp_path, monkeypatch):
    """Of bytes, and beside a file that is left out."""
    monkeypatch.chdir(tmp_path)
    content = b"".join(b"line %d\xff\r\n" % number for number in range(2000))
    pathlib.Path("mine.txt").write_bytes(content)
    pathlib.Path("empty.txt").touch()
    config = configs.TrainConfig(
        corpus="mine.txt,empty.txt", tokenizer="byte", skip_bad_files=True,
        validation_fraction=0.3,
    )  # fmt: skip
    recorded = pathlib.Path("runs/mine/config.flags")
    recorded.parent.mkdir(parents=True)
    recorded.write_text(configs.to_flags(config))
    (block,) = (block for block in BLOCKS if block.page == HELD_OUT)
    block.run({})
    parts = datasets.split(
        datasets.Corpus("mine.txt", binary=True), 0.3, config.seed
    )
    spans = [
        part.bounds[0] for name, part in parts.items() if name != "training"
    ]
    text = content.decode("utf-8", "surrogateescape")
    held_out = "".join(text[first:last] for first, last in spans)
    assert held_out and pathlib.Path("held_out.txt").read_bytes() == (
        held_out.encode("utf-8", "surrogateescape")
    )


def test_python_blocks_that_call_the_server_run(directory, capsys):
    clients = [block for block in BLOCKS if SERVER in block.code]
    assert clients
    with serving("saved_models/pydoc") as running:
        address = f"http://127.0.0.1:{running.port}/"
        for client in clients:
            code = client.code.replace(SERVER, address)
            dataclasses.replace(client, code=code).run({})
            assert capsys.readouterr().out.strip(), client.page


def test_commands_on_pages_are_parsed():
    """Names and values of flags are checked; nothing else runs."""
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
        *(path.name for path in ROOT.glob("*.py")),
        "stacked-rnn inspect",
    }
    different = {
        tuple(ANY_VALUE.sub(r"\1", word) for word in command): command
        for command in sorted(shown)
    }
    for script, *arguments in different.values():
        assert_flags_are_parsed(script, arguments)


def test_flags_named_on_pages_exist():
    """Also flags named in a sentence, without a script before them."""
    kinds = [
        kind
        for kind in vars(configs).values()
        if isinstance(kind, type) and issubclass(kind, configs.Config)
    ]
    known = {"flagfile", "help", "helpfull"}
    known |= {"editable", "logdir", "json"}  # of pip, TensorBoard and curl
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


def test_the_page_lists_what_may_change_when_a_run_resumes():
    page = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    listed = re.search(r"These may\s+change:(.*?)Anything else", page, re.S)[1]
    assert {*re.findall(r"--(\w+)", listed)} == runs.MAY_CHANGE - {"resume"}


def test_every_line_of_a_shell_block_is_a_known_command():
    """Flags are another test's; here, scripts, targets and extras exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    makefile = (ROOT / "Makefile").read_text()
    for page in pages.paths():
        if page.parts[0] not in ("README.md", "docs"):
            continue
        for block in pages.blocks(page, "sh"):
            for line in block.code.replace("\\\n", " ").splitlines():
                match shlex.split(line, comments=True):
                    case []:
                        continue
                    case ["python", script, *_]:
                        is_known = (ROOT / script).exists()
                    case ["make", target]:
                        is_known = f"\n{target}:" in makefile
                    case ["stacked-rnn", command, *_]:
                        is_known = command in cli.COMMANDS
                    case ["pip", "install", "--editable", what]:
                        extra = what.removeprefix(".[").removesuffix("]")
                        is_known = extra in setup["options.extras_require"]
                    case command:
                        is_known = command == [".", ".venv/bin/activate"]
                assert is_known, f"{page}, from line {block.line}: {line}"


@pytest.mark.parametrize("page", pages.paths(), ids=str)
def test_no_link_of_a_page_is_dead(page):
    for link in pages.links(page):
        if link.startswith("http"):  # nothing is fetched
            assert re.fullmatch(r"https?://[\w.-]+\.[a-z]+(/[^\s]*)?", link)
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / (page.parent / path if path else page)
        assert target.exists(), link
        if anchor:
            assert anchor in pages.anchors(target), link


def test_pictures_are_small_and_shown():
    shown = {
        pathlib.Path(link).name
        for page in pages.paths()
        for link in pages.links(page)
    }
    pictures = list((ROOT / "docs/images").iterdir())
    assert {picture.name for picture in pictures} <= shown
    assert max(picture.stat().st_size for picture in pictures) < 150_000


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180


def test_changelog_and_citation_name_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {stacked_rnn.__version__}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {stacked_rnn.__version__} (" in changelog


def test_the_page_of_commands_is_what_help_prints():
    subprocess.run(
        [sys.executable, ROOT / "docs/write_commands.py", "--check"], check=True
    )


def test_all_named_programs_are_tested():
    names = [block.name for block in BLOCKS if block.name]
    assert names == [
        "generate_onnx.py", "generate_litert.py", "generate_pytorch.py",
        "save_pytorch.py",
    ]  # fmt: skip
