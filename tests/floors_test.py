"""A module imports only from lower floors of the house."""

import ast
import pathlib

import pytest

FLOORS = {
    "configs": 0,
    "command_line": 0,
    "files": 0,
    "text_files": 0,
    "devices": 0,
    "reference": 0,
    "tokenizers": 0,
    "rnn_ops": 0,
    "samplers": 0,
    "continuations": 0,
    "surprise": 0,
    "classification": 0,
    "pictures": 1,
    "artifact": 1,
    "takeover": 2,
    "warmup": 1,
    "console": 1,
    "datasets": 1,
    "layers": 1,
    "models": 2,
    "generation": 2,
    "beams": 2,
    "evaluation": 3,
    "decode_loops": 3,
    "inference": 4,
    "prediction": 4,
    "translation": 4,
    "training": 4,
    "export": 5,
    "finetuning": 5,
    "runtimes": 5,
    "batching": 5,
    "tasks": 6,
    "serving": 6,
}
PACKAGE = pathlib.Path(__file__).parents[1] / "stacked_rnn"
MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
]
# `configs` is the ground that every room stands on, its own floor included.
GROUND = "configs"


def imported_rooms(source):
    """The rooms that a module's source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "stacked_rnn":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").startswith("stacked_rnn."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("stacked_rnn."):
                    yield alias.name.split(".")[1]


def violations(room, source):
    return [
        other
        for other in imported_rooms(source)
        if other not in (GROUND, room) and FLOORS[other] >= FLOORS[room]
    ]


def test_every_room_has_a_floor():
    rooms = {module.relative_to(PACKAGE).parts[0] for module in MODULES}
    assert {pathlib.Path(room).stem for room in rooms} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_imports_point_down(module):
    room = pathlib.Path(module.relative_to(PACKAGE).parts[0]).stem
    assert violations(room, module.read_text()) == []


def test_a_violation_is_seen():
    assert violations("models", "from stacked_rnn import export") == ["export"]
    assert violations("models", "import stacked_rnn.training") == ["training"]


def test_the_reference_imports_numpy_only():
    tree = ast.parse((PACKAGE / "reference.py").read_text())
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert names == ["numpy"]
