"""Rules for the tests themselves."""

import ast

from tests.helpers import ROOT


def imported_tests(source):
    """Names of the test files that a source imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.endswith(("_test", "conftest"))]


def endless_waits(source):
    """Lines of loops that may wait forever.

    They sleep, or read the lines of a process: `helpers.waiting` does both
    with a deadline.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.While):
            if "sleep(" in ast.unparse(node):
                lines.append(node.lineno)
        elif isinstance(node, ast.For) and ast.unparse(node.iter).endswith(
            (".stdout", ".stderr")
        ):
            lines.append(node.lineno)
    return lines


def violations(check, *exempt):
    """What `check` finds in each file of the tests that has something."""
    found = {
        path.name: check(path.read_text(encoding="utf-8"))
        for path in (ROOT / "tests").rglob("*.py")
        if path.name not in exempt
    }
    return {name: lines for name, lines in found.items() if lines}


def test_no_test_file_is_imported():
    """What two test files share stands in tests/helpers."""
    assert violations(imported_tests) == {}


def test_no_loop_waits_without_a_deadline():
    assert violations(endless_waits, "waiting.py") == {}


def test_planted_violations_are_found():
    assert imported_tests("from tests.a_test import b") == ["tests.a_test"]
    assert imported_tests("import tests.conftest") == ["tests.conftest"]
    assert endless_waits("while not ready():\n    time.sleep(1)") == [1]
    assert endless_waits("for line in process.stdout:\n    pass") == [1]
