"""A module imports only from lower layers.

A layer is a row of LAYERS; a package stands in one, and its modules import each
other without a circle. Nothing stands higher than its imports ask for.
"""

import ast
import graphlib
import pathlib

import pytest

LAYERS = (
    {"configs", "rnn_ops", "reference", "metrics"},
    {"utils", "tokenizers", "layers", "decoding"},
    {"saved_models", "datasets", "models", "reports"},
    {"inference", "version_changes", "export", "training"},
    {"serving", "tasks"},
    {"cli"},
)
PACKAGE = pathlib.Path(__file__).parents[1] / "stacked_rnn"
PATHS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
LAYER = {name: number for number, row in enumerate(LAYERS) for name in row}


def imported(source):
    """Dotted names below `stacked_rnn` that a module's source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "stacked_rnn":
                yield rest


def modules_of(name):
    """The modules that a dotted name stands for.

    A name of a package is the package's, wherever it is defined in it.
    """
    while name and name not in PATHS:
        if (PACKAGE / name.replace(".", "/") / "__init__.py").exists():
            return {other for other in PATHS if other.startswith(f"{name}.")}
        name = name.rpartition(".")[0]
    return {name} - {""}


IMPORTS = {
    module: set().union(*map(modules_of, imported(path.read_text())), ())
    for module, path in PATHS.items()
}


def package_of(module):
    return module.partition(".")[0]


def test_every_package_has_a_layer():
    assert {*map(package_of, PATHS)} == LAYER.keys()


@pytest.mark.parametrize("module", PATHS)
def test_imports_point_to_lower_layers(module):
    package = package_of(module)
    packages = {*map(package_of, IMPORTS[module])} - {package}
    assert [name for name in packages if LAYER[name] >= LAYER[package]] == []


@pytest.mark.parametrize("package", LAYER)
def test_no_package_is_higher_than_its_imports_ask_for(package):
    below = {
        package_of(other)
        for module in PATHS
        if package_of(module) == package
        for other in IMPORTS[module]
    } - {package}
    assert LAYER[package] == max([LAYER[name] + 1 for name in below] or [0])


def test_modules_import_each_other_without_a_circle():
    order = graphlib.TopologicalSorter(
        {
            module: {
                other
                for name in imported(PATHS[module].read_text())
                for other in modules_of(name)
                if other != module
            }
            for module in PATHS
        }
    )
    order.prepare()  # raises CycleError


def test_a_violation_is_seen():
    assert "export.base" in modules_of("export")
    assert modules_of("export.base.save") == {"export.base"}
    assert [*imported("from stacked_rnn.models import stacks")] == [
        "models.stacks"
    ]
    assert [*imported("import stacked_rnn.training")] == ["training"]


def test_the_reference_imports_numpy_only():
    tree = ast.parse((PACKAGE / "reference.py").read_text())
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert names == ["numpy"]
