"""Benchmarks: one process runs while the others are stopped; reports."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT
from tests.helpers.waiting import wait_until

BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = [
    path
    for folder in (BENCHMARKS, ROOT / "experiments")
    for path in sorted(folder.glob("*.py"))
    if "flags.run(" in path.read_text()
]
sys.path.append(str(BENCHMARKS))

import common  # noqa: E402
import contenders  # noqa: E402
import generation_speed  # noqa: E402
import training_speed  # noqa: E402

from stacked_rnn.configs import UserError  # noqa: E402

PATHS = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
)


def entry(maker, library="numpy", /, variables=(), **arguments):
    """An entry whose process can import the makers of this file."""
    setting = {"PYTHONPATH": PATHS} | dict(variables)
    return contenders.Entry(library, maker, arguments, setting)


def idle():
    """A maker: its steps do nothing."""
    return lambda steps: None


def dozing():
    """A maker: its steps take as long as the environment says."""
    return lambda steps: time.sleep(steps * float(os.environ["DOZE"]))


def raising():
    """A maker that refuses."""
    raise ValueError("no such size\nand more")


def dying():
    """A maker: its process ends at the first step."""
    return lambda steps: os._exit(3)


def known(path):
    """A maker: writes down the id of its process."""
    pathlib.Path(path).write_text(str(os.getpid()))
    return idle()


def watching(path):
    """A maker: its steps fail unless the process in `path` is stopped."""

    def run(steps):
        pid = pathlib.Path(path).read_text()
        assert state_of(pid) == "T", "it is awake"

    return run


def state_of(pid):
    """The state of a process, as Linux names it; None where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return stat.rsplit(")", 1)[1].split()[0]


needs_linux = pytest.mark.skipif(
    not pathlib.Path("/proc/self/stat").exists(), reason="reads /proc"
)


def test_the_fastest_setting_is_found(capsys):
    best, tried = contenders.fastest(
        "dozing",
        {
            "slow": entry(dozing, variables={"DOZE": "0.03"}),
            "fast": entry(dozing, variables={"DOZE": "0.003"}),
            "wrong": entry(dozing),
        },
        0.0,
    )
    assert best == "fast"
    assert "dozing, wrong failed: KeyError: 'DOZE'" in capsys.readouterr().err
    assert 0.003 <= tried["fast"] < 0.03 <= tried["slow"]


@needs_linux
def test_others_are_stopped_while_one_runs(tmp_path, capsys):
    path = str(tmp_path / "pid")
    results = contenders.in_turn(
        {
            "known": entry(known, path=path),
            "watching": entry(watching, path=path),
        },
        2,
        0.0,
        alone=("known",),
    )
    assert capsys.readouterr().err == ""
    assert len(results["watching"]["seconds_a_step"]) == 2
    assert state_of((tmp_path / "pid").read_text()) is None  # and then ends


def test_a_failed_contender_is_named_and_the_others_go_on(capsys):
    results = contenders.in_turn(
        {
            "raising": entry(raising),
            "dying": entry(dying),
            "missing": entry(idle, "no_library"),
            "idle": entry(idle),
        },
        2,
        0.0,
    )
    assert list(results) == ["idle"]
    assert capsys.readouterr().err.splitlines() == [
        "raising failed: ValueError: no such size",
        "dying failed: its process ended with 3",
        "missing failed: its process ended with 1: ModuleNotFoundError: "
        "No module named 'no_library'",
    ]


@needs_linux
def test_a_killed_benchmark_leaves_no_stopped_process(tmp_path):
    program = f"""
import sys, time
sys.path[:0] = {[str(BENCHMARKS), *PATHS.split(os.pathsep)]}
import contenders, contenders_test
entry = contenders_test.entry(contenders_test.known, path=sys.argv[1])
contender = contenders.Contender("numpy", entry.setting)
contender.wait_until_loaded()
contender.build("", entry.maker, entry.arguments)
contender.answer()
print("asleep", flush=True)
time.sleep(60)
"""
    path = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE
    ) as benchmark:
        benchmark.stdout.readline()
        assert state_of(path.read_text()) == "T"
        benchmark.kill()
    wait_until(lambda: state_of(path.read_text()) in (None, "Z"), 10)


def test_settings_vary_threads_and_spinning(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert contenders.settings("torch") == {
        f"{name}, {policy.lower()}": {
            "OMP_NUM_THREADS": count, "OMP_WAIT_POLICY": policy
        }
        for name, count in (("1 thread", "1"), ("2 threads", "2"))
        for policy in ("ACTIVE", "PASSIVE")
    }  # fmt: skip
    assert len(contenders.settings("tensorflow")) == 2
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert len(contenders.settings("torch")) == 2


def test_programs_answer_help_without_loading_a_library():
    """Or PyTorch's contender would have TensorFlow in its process."""
    program = """
import os, runpy, sys
import numpy, stacked_rnn.cli.flags
for path in sys.argv[1:]:
    child = os.fork()
    if child:
        assert not os.waitpid(child, 0)[1], path
        continue
    sys.argv = [path, "--help"]
    sys.path.insert(0, os.path.dirname(path))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        sys.exit(end.code or {"tensorflow", "torch"} & {*sys.modules} or 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, *PROGRAMS],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{PATHS}"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    for path in PROGRAMS:
        assert f"python {path.relative_to(ROOT)}" in ran.stdout


def test_a_table_formats_numbers_by_column():
    assert common.table(
        {"name": "", "speed": ",.0f", "share": ".1%"},
        [["a", 1234.5, None], ["b", "12.3k", 0.25]],
    ) == [
        "| name | speed | share |",
        "| --- | --- | --- |",
        "| a | 1,234 |  |",
        "| b | 12.3k | 25.0% |",
    ]


def test_unknown_names_and_numbers_are_refused():
    assert common.choices("cells", "lstm,gru", ("gru", "lstm")) == [
        "gru", "lstm"
    ]  # fmt: skip
    with pytest.raises(UserError, match="--cells: no gruu among gru, lstm"):
        common.choices("cells", "gruu", ("gru", "lstm"))
    assert common.numbers("units", "64,128") == [64, 128]
    for text in ("", "64,", "0", "many"):
        with pytest.raises(UserError, match=f"--units={text}: expected"):
            common.numbers("units", text)


def test_a_report_says_which_machine_measured_it(tmp_path, capsys):
    """Also when it is written again on another one."""
    config = common.ReportConfig(output_dir=str(tmp_path))
    report = common.Report(config, "name", "Title", plots=False)
    assert report.saved() == {}
    report.write(["line"], {"figure": 1})
    assert report.saved() == {"machine": common.machine(), "figure": 1}
    report.write(["line"], {"figure": 1, "machine": "another"})
    text = (tmp_path / "name.md").read_text()
    assert text.startswith("# Title\n\nanother; ")
    assert capsys.readouterr().out.endswith(text)


def test_missing_pytorch_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda n: None)
    assert not contenders.has_pytorch()
    assert "PyTorch is missing: measured without it" in capsys.readouterr().err


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measuring: 0.1 s per step, the first setting is the best.

    Contenders whose names are added to the returned set fail.
    """
    failed = set()

    def in_turn(entries, *args, **kwargs):
        return {
            name: {
                "seconds_a_step": [0.1, 0.12, 0.1],
                "first_step": 1.0,
                "memory_mib": 7.0,
            }
            for name in entries
            if name not in failed
        }

    monkeypatch.setattr(contenders, "in_turn", in_turn)
    return failed


def cells_of(table):
    """Column -> cell of a table of one row."""
    head, _, row = table
    split = [[cell.strip() for cell in line.split("|")] for line in (head, row)]
    return dict(zip(*split))


def training_row(rivals):
    """The row of a work with some rivals."""
    work, config = training_speed.WORKS["small"], training_speed.BenchmarkConfig
    result = training_speed.compare(work, "gru", config(), rivals)
    return cells_of(training_speed.speed_table({"GRU small": result}))


RIVALS = {
    training_speed.KERAS: training_speed.keras_entries,
    training_speed.PYTORCH: training_speed.pytorch_entries,
}


def test_training_report_names_settings_and_spread(measured):
    row = training_row(RIVALS)
    assert row["stacked_rnn"] == row["PyTorch"] == "25.0k"
    assert row["ratio to Keras"] == row["ratio to PyTorch"] == "1.00"
    assert row["setting of Keras"] == "cells, 1 thread"
    assert row["setting of PyTorch"] == "1 thread, active"
    assert row["spread"] == "20, 20, 20 %"


def test_training_report_without_a_rival(measured):
    row = training_row({training_speed.KERAS: training_speed.keras_entries})
    assert row["ratio to Keras"] == "1.00"
    assert row["PyTorch"] == "not measured"
    assert row["ratio to PyTorch"] == row["setting of PyTorch"] == ""
    assert row["spread"] == "20, 20, - %"


def test_training_report_where_this_project_failed(measured):
    measured |= {training_speed.OURS, "matmul"}
    row = training_row(RIVALS)
    assert row["stacked_rnn"] == "not measured"
    assert row["PyTorch"] == "25.0k"
    assert row["ratio to PyTorch"] == row["of the matmul peak"] == ""


def test_growth_takes_the_best_setting_of_pytorch_at_each_size(monkeypatch):
    """Each size once, though several panels show it."""
    seen = []

    def in_turn(entries, *args, **kwargs):
        seen.extend(entries)
        seconds = {"1 thread, passive": 0.02, "2 threads, active": 0.01}
        return {
            name: {"seconds_a_step": [seconds.get(name[-1], 0.03)]}
            for name in entries
        }

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(contenders, "in_turn", in_turn)
    rows = training_speed.growth(
        "gru", training_speed.BenchmarkConfig(), RIVALS
    )
    sizes = sum(map(len, training_speed.GROWTH.values()))
    assert len(rows) == 3 * sizes
    assert len(seen) == len(set(seen)) == (2 + 4) * (sizes - 3)
    tokens = training_speed.GROWTH_FROM.tokens
    for _, field, value, name, micros in rows:
        if (field, value) == ("units", 128):
            seconds = 0.01 if name == training_speed.PYTORCH else 0.03
            assert micros == pytest.approx(1e6 * seconds / tokens)


@pytest.mark.parametrize("with_pytorch", [True, False])
def test_generation_report(measured, monkeypatch, with_pytorch):
    monkeypatch.setattr(generation_speed, "bound", lambda *args: (1e3, 2.0))
    result = generation_speed.compare(
        "gru", 8, 1, "", generation_speed.BenchmarkConfig(), with_pytorch
    )
    row = cells_of(generation_speed.speed_table({"GRU 8, 1": result}))
    assert row["with XLA"] == row["Keras from Python"] == "0.6k"
    assert row["setting of Keras"] == "1 thread"
    assert row["options cost, %"] == "0"
    if with_pytorch:
        assert row["PyTorch"] == "0.6k"
        assert row["setting of PyTorch"] == "layer, 1 thread, active"
        assert row["ratio to PyTorch"] == "1.00"
    else:
        assert row["PyTorch"] == "not measured"
        assert row["setting of PyTorch"] == row["ratio to PyTorch"] == ""
