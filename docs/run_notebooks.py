"""Runs the notebooks and writes their outputs into them.

`python docs/run_notebooks.py` runs all of docs/notebooks, each in an empty
directory; `python docs/run_notebooks.py dates` runs one. It needs
`pip install --editable '.[notebooks]'`, and about two minutes for each. A
notebook in which a cell fails stays as it was.
"""

import base64
import os
import pathlib
import sys
import tempfile

from stacked_rnn.utils import files

NOTEBOOKS = pathlib.Path(__file__).parent / "notebooks"
_MOST_BYTES = 60_000  # of a picture
_MOST_SECONDS = 600  # of a cell


def run(path) -> None:
    """Runs a notebook and writes it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed.
        ValueError: a picture is too large.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as directory:
        nbclient.NotebookClient(
            notebook,
            timeout=_MOST_SECONDS,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": directory}},
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [*map(_checked, filter(_is_kept, cell.outputs))]
    with files.whole_file(path) as file:
        file.write(f"{nbformat.writes(notebook)}\n".encode())


def _is_kept(output) -> bool:
    """Whether to keep an output: not the notices of TensorFlow."""
    return output.get("name") != "stderr"


def _checked(output):
    """Returns an output whose picture, if it has one, is small."""
    picture = output.get("data", {}).get("image/png", "")
    size = len(base64.b64decode(picture))
    if size > _MOST_BYTES:
        raise ValueError(
            f"a picture has {size:,} bytes, {_MOST_BYTES:,} at most: "
            "give it a smaller figsize or dpi"
        )
    return output


def main(names) -> int:
    """Runs notebooks, all or those with these names; returns the exit code."""
    try:
        import nbclient
    except ImportError:
        print(
            "nbclient is missing: pip install --editable '.[notebooks]'",
            file=sys.stderr,
        )
        return 2
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    if unknown := [name for name in names if name not in paths]:
        print(
            f"{unknown[0]}: no such notebook: {', '.join(paths)}",
            file=sys.stderr,
        )
        return 2
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in names or paths:
        print(f"{name} ...", flush=True)
        try:
            run(paths[name])
        except (nbclient.exceptions.CellExecutionError, ValueError) as error:
            print(f"{paths[name].name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
