"""The layers of imports: each package imports only from lower layers.

LAYERS lists the packages and top-level modules of each layer, the lowest first.
A package is in the lowest layer that its imports allow, and its own modules do
not import each other in a circle.
"""

import ast
import graphlib
import pathlib

import pytest

LAYERS = (
    {"configs", "rnn_ops", "reference", "metrics", "model_cards"},
    {"utils", "tokenizers", "layers", "decoding", "hub", "chat_templates"},
    {"saved_models", "datasets", "models", "reports"},
    {"version_changes", "export", "training"},
    {"inference"},
    {"serving", "tasks"},
    {"pipeline"},
    {"api", "cli"},
)
PACKAGE = pathlib.Path(__file__).parents[1] / "stacked_rnn"
PATHS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
LAYER = {name: index for index, names in enumerate(LAYERS) for name in names}


def imported(source):
    """Yields what a module's source imports from stacked_rnn, dotted names."""
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
    """Returns the modules that a dotted name may come from.

    A name imported from a package may come from any of its modules.
    """
    while name and name not in PATHS:
        if (PACKAGE / name.replace(".", "/") / "__init__.py").exists():
            return {path for path in PATHS if path.startswith(f"{name}.")}
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


@pytest.mark.parametrize("package", sorted(LAYER))
def test_each_package_is_in_the_lowest_possible_layer(package):
    below = {
        package_of(imported_module)
        for module in PATHS
        if package_of(module) == package
        for imported_module in IMPORTS[module]
    } - {package}
    assert LAYER[package] == max([LAYER[name] + 1 for name in below] or [0])


def test_imports_have_no_cycles():
    order = graphlib.TopologicalSorter(
        {module: IMPORTS[module] - {module} for module in PATHS}
    )
    order.prepare()  # raises CycleError


def test_imported_names_are_resolved_to_modules():
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
