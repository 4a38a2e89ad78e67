"""The notebooks: every cell runs, their outputs are those of a whole run."""

import base64
import importlib.util
import json
import runpy

import pytest

from tests.helpers import ROOT
from tests.helpers.processes import run, run_anew

NOTEBOOKS = ROOT / "docs/notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PROGRAM = "docs/run_notebooks.py"
# A picture that is too large, as far as a notebook looks.
LARGE = """
class Picture:
    def _repr_png_(self):
        return bytes(70_000)

Picture()
"""
# Before the first cell.
QUICKLY = """
import stacked_rnn
from stacked_rnn.tasks import seq2seq
from tests.helpers import quick

stacked_rnn.train = quick.train_once
seq2seq._SCORED = 20
"""
JUPYTER = pytest.mark.skipif(
    not (
        importlib.util.find_spec("nbclient")
        and importlib.util.find_spec("ipykernel")
    ),
    reason="no Jupyter: pip install nbclient ipykernel",
)


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_all_cells_of_a_notebook_run(path, tmp_path):
    """As one program, without Jupyter, and with hardly any training."""
    pytest.importorskip("matplotlib")
    downloads = tmp_path / "keras/datasets"
    downloads.mkdir(parents=True)
    text = "it has a time machine\n" * 600  # enough for all its windows
    (downloads / "timemachine.txt").write_text(text)
    program = tmp_path / "notebook.py"
    cells = ["".join(cell["source"]) for cell in code_cells(path)]
    program.write_text("\n\n".join([QUICKLY, *cells]), encoding="utf-8")
    ended = run(tmp_path, program, in_memory=True, MPLBACKEND="agg")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_has_the_outputs_of_one_whole_run(path):
    """In order, without errors; its pictures are small."""
    cells = code_cells(path)
    counts = [cell["execution_count"] for cell in cells]
    assert counts == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    for output in outputs:
        picture = "".join(output.get("data", {}).get("image/png", ""))
        assert len(base64.b64decode(picture)) <= 60_000
    assert "/home/" not in path.read_text(encoding="utf-8")


def test_notebooks_are_listed_on_their_page():
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PATHS if f"]({path.name})" not in page] == []


def write_notebook(directory, *sources):
    """Writes a notebook of code cells, without outputs; returns its path."""
    cells = [
        {
            "cell_type": "code", "id": f"cell-{index}", "metadata": {},
            "source": source, "execution_count": None, "outputs": [],
        }
        for index, source in enumerate(sources)
    ]  # fmt: skip
    path = directory / "small.ipynb"
    content = {"cells": cells, "metadata": {}, "nbformat": 4}
    path.write_text(json.dumps(content | {"nbformat_minor": 5}), "utf-8")
    return path


@JUPYTER
def test_a_run_writes_the_outputs_but_no_notices(tmp_path):
    path = write_notebook(
        tmp_path, "import sys; print('one', file=sys.stderr)", "print(1 + 1); 3"
    )
    runpy.run_path(ROOT / PROGRAM)["run"](path)
    first, second = code_cells(path)
    assert first["outputs"] == []
    assert [output["output_type"] for output in second["outputs"]] == [
        "stream", "execute_result",
    ]  # fmt: skip


@JUPYTER
@pytest.mark.parametrize(
    "source, message",
    [("1 / 0", "ZeroDivisionError"), (LARGE, "70,000 bytes")],
    ids=["an error", "a large picture"],
)
def test_a_notebook_that_fails_stays_as_it_was(tmp_path, source, message):
    path = write_notebook(tmp_path, "1", source)
    before = path.read_bytes()
    with pytest.raises(Exception, match=message):
        runpy.run_path(ROOT / PROGRAM)["run"](path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


@JUPYTER
def test_an_unknown_notebook_is_refused_in_one_line(tmp_path):
    ended = run_anew(tmp_path, PROGRAM, "datse")
    assert ended.returncode == 2
    assert ended.stderr.startswith("datse: no such notebook: dates")
    assert ended.stderr.count("\n") == 1
