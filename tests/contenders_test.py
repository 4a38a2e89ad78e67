"""Benchmarks: one process runs while the others are stopped; reports.

A contender's process imports this module too, so TensorFlow is imported late.
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
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
import growth  # noqa: E402
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


def test_a_contender_may_have_another_interpreter(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nDOZE=0.003 exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    other = dataclasses.replace(entry(dozing), python=str(python))
    assert list(contenders.in_turn({"other": other}, 1, 0.0)) == ["other"]


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
    assert contenders.settings("jax.numpy") == {
        "1 thread": {"NPROC": "1"}, "2 threads": {"NPROC": "2"}
    }  # fmt: skip
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


def test_missing_rivals_are_named_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda n: None)
    rivals = training_speed.installed_rivals(mxnet_python="")
    assert list(rivals) == [training_speed.KERAS]
    hint = "missing (pip install --editable '.[bench]')"
    assert capsys.readouterr().err.splitlines() == [
        f"Keras on JAX is left out: jax {hint}",
        f"PyTorch is left out: torch {hint}",
        f"JAX/Flax is left out: jax, flax, optax {hint}",
        "MXNet is left out: no --mxnet_python (benchmarks/README.md)",
    ]


def test_an_interpreter_without_mxnet_is_refused(tmp_path):
    (tmp_path / "mxnet.py").write_text("raise ImportError('no MXNet here')")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    for path, reason in (
        (python, "ImportError: no MXNet here"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(UserError, match=reason) as refused:
            training_speed.installed_rivals(str(path))
        assert str(refused.value).startswith(f"--mxnet_python={path}: ")
        assert "\n" not in str(refused.value)


LEARNING = """
import json, sys
benchmarks, maker, count = sys.argv[1:]
sys.path.insert(0, benchmarks)
import training_speed
work = training_speed.Work(16, 2, 4, 5, embedding_dim=8, vocabulary_size=12)
for cell in ("gru", "lstm"):
    run = getattr(training_speed, maker)(work, cell)
    losses = (run(1), run(40)) if cell == "gru" else ()
    exec(count)
    print(json.dumps([*losses, weights]))
"""
COUNTING = {
    training_speed.KERAS_ON_JAX: "weights = None",  # the stock model
    training_speed.PYTORCH: """
model = training_speed.pytorch_model(work, cell)
weights = sum(weight.numel() for weight in model.parameters())
""",
    training_speed.FLAX: """
import jax
model = training_speed.flax_model(work, cell)
tree = model.init(jax.random.key(0), jax.numpy.zeros([1, 1], int))
weights = sum(weight.size for weight in jax.tree.leaves(tree))
""",
    training_speed.MXNET: """
model = training_speed.mxnet_model(work, cell)
weights = sum(w.data().size for w in model.collect_params().values())
""",
}
# Vectors of biases that a layer has more than ours.
BIASES = {
    training_speed.PYTORCH: {"gru": 0, "lstm": 4},
    training_speed.FLAX: {"gru": -2, "lstm": 0},
    training_speed.MXNET: {"gru": 0, "lstm": 4},
}


@pytest.mark.parametrize("name", COUNTING)
def test_a_rival_learns_and_has_our_weights_but_for_biases(name):
    """MXNet's interpreter is that in the environment variable MXNET_PYTHON."""
    from stacked_rnn import configs, models

    python = os.environ.get("MXNET_PYTHON", "")
    rivals = training_speed.installed_rivals(python)
    if name not in rivals:
        pytest.skip(f"{name} is not installed")
    entry = next(iter(rivals[name]([], "").values()))
    ran = subprocess.run(
        [
            entry.python, "-c", LEARNING, BENCHMARKS, entry.maker.__name__,
            COUNTING[name],
        ],
        env=os.environ | {"PYTHONPATH": PATHS} | entry.setting,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    for cell, line in zip(("gru", "lstm"), ran.stdout.splitlines()):
        *losses, weights = json.loads(line)
        if cell == "gru":
            assert losses[1] < losses[0] - 0.05
        if name in BIASES:
            ours = models.build_language_model(
                configs.ModelConfig(
                    cell=cell, units=16, num_layers=2, embedding_dim=8,
                    vocabulary_size=12,
                )
            ).count_params()  # fmt: skip
            assert weights == ours + 2 * 16 * BIASES[name][cell]


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


def training_rows(rivals):
    """The rows of a work with some rivals: speeds; settings."""
    work, config = training_speed.WORKS["small"], training_speed.BenchmarkConfig
    results = {
        "GRU small": training_speed.compare(work, "gru", config(), rivals)
    }
    return cells_of(training_speed.speed_table(results)), cells_of(
        contenders.settings_table(
            "work", results, training_speed.OURS, training_speed.RIVALS
        )
    )


RIVALS = {
    training_speed.KERAS: training_speed.keras_entries,
    training_speed.KERAS_ON_JAX: training_speed.keras_on_jax_entries,
    training_speed.PYTORCH: training_speed.pytorch_entries,
    training_speed.FLAX: training_speed.flax_entries,
    training_speed.MXNET: functools.partial(
        training_speed.mxnet_entries, python="python"
    ),
}


def test_training_report_names_settings_and_spread(measured):
    speeds, chosen = training_rows(RIVALS)
    assert {speeds[name] for name in ("stacked_rnn", *RIVALS)} == {"25.0k"}
    assert {speeds[f"ratio to {name}"] for name in RIVALS} == {"1.00"}
    assert {name: chosen[name] for name in RIVALS} == {
        "stock Keras": "cells, 1 thread",
        "Keras on JAX": "1 thread",
        "PyTorch": "1 thread, active",
        "JAX/Flax": "1 thread",
        "MXNet": "1 thread, active",
    }
    assert chosen["spread"] == "20, 20, 20, 20, 20, 20 %"


def test_training_report_without_a_rival(measured):
    speeds, chosen = training_rows(
        {training_speed.KERAS: training_speed.keras_entries}
    )
    assert speeds["ratio to stock Keras"] == "1.00"
    assert speeds["PyTorch"] == "not measured"
    assert speeds["ratio to PyTorch"] == chosen["PyTorch"] == ""
    assert chosen["spread"] == "20, 20, -, -, -, - %"


def test_training_report_where_this_project_failed(measured):
    measured |= {training_speed.OURS, "matmul"}
    row, _ = training_rows(RIVALS)
    assert row["stacked_rnn"] == "not measured"
    assert row["PyTorch"] == "25.0k"
    assert row["ratio to PyTorch"] == row["of the matmul peak"] == ""


def test_growth_takes_the_best_setting_of_pytorch_at_each_size(
    monkeypatch, tmp_path
):
    """Each size once, though several plots show it."""
    seen = []

    def in_turn(entries, *args, **kwargs):
        seen.extend(entries)
        seconds = {"1 thread, passive": 0.02, "2 threads, active": 0.01}
        return {
            name: {
                "seconds_a_step": [seconds.get(name[-1], 0.03)],
                "memory_mib": 7,
            }
            for name in entries
        }

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(contenders, "in_turn", in_turn)
    config = growth.BenchmarkConfig(output_dir=str(tmp_path))
    rows, gflops = growth.measure("gru", config, True)
    assert gflops == pytest.approx(2 * 2048**3 / 0.03 / 1e9)
    sizes = sum(map(len, growth.SIZES.values()))
    assert len(rows) == 3 * sizes + 2  # of a sampled softmax
    distinct = sizes - len(growth.SIZES) + 1
    assert len(seen) == len(set(seen)) == 1 + (1 + 4) * distinct + 2
    for row in rows:
        if row.name == growth.THEORY:
            continue
        seconds = 0.01 if row.name == growth.PYTORCH else 0.03
        work = growth.BASE._replace(**{row.size: row.value})
        assert row.micros == pytest.approx(1e6 * seconds / work.tokens)
        assert row.mib == (None if row.name == growth.PYTORCH else 7)
    growth.plot(rows, common.Report(config, "growth", "Growth"))
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert len(growth.lines_of_sizes(rows)) == len(growth.SIZES) * 6 + 1


def test_growth_saves_each_cell_and_needs_no_other_report(
    monkeypatch, tmp_path
):
    rows = [
        growth.Row("gru", size, value, growth.OURS, 1.0, 2.0)
        for size, values in growth.SIZES.items()
        for value in values
    ]

    def measure(cell, config, has_pytorch):
        if cell == "lstm":
            raise KeyboardInterrupt
        return rows, 100.0

    monkeypatch.setattr(growth, "measure", measure)
    monkeypatch.setattr(growth, "RESULTS", tmp_path)
    config = growth.BenchmarkConfig(output_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        growth.main(config)
    saved = json.loads((tmp_path / "growth.json").read_text())
    assert saved["gflops"] == {"gru": 100}
    assert len(saved["rows"]) == len(rows)
    growth.main(dataclasses.replace(config, cells="gru"))
    assert "(100 GFLOP/s)" in (tmp_path / "growth.md").read_text()


def test_the_theory_of_growth():
    """The layers and the readout of a model counted by hand."""
    work = growth.Work(10, 2, 2, 3, embedding_dim=4, vocabulary_size=5)
    weights = 3 * 10 * (4 + 10) + 3 * 10 * (10 + 10) + 10 * 5
    micros, mib = growth.theory(work, "gru", 2.0)
    assert micros == pytest.approx(6 * weights / 2e9 * 1e6)
    saved = 6 * (4 + 2 * 5 + 5 * 10 * 2)
    assert mib == pytest.approx((4 * 4 * (weights + 5 * 4) + 4 * saved) / 2**20)


@pytest.mark.parametrize("with_pytorch", [True, False])
def test_generation_report(measured, monkeypatch, with_pytorch):
    monkeypatch.setattr(generation_speed, "bound", lambda *args: (1e3, 2.0))
    files = {"ONNX Runtime": "f.onnx", "ONNX Runtime int8": "i.onnx"}
    result = generation_speed.compare(
        "gru", 8, 1, "", files, generation_speed.BenchmarkConfig(), with_pytorch
    )
    row = cells_of(generation_speed.speed_table({"GRU 8, 1": result}))
    chosen = cells_of(
        contenders.settings_table(
            "model", {"": result}, "with XLA", generation_speed.RIVALS
        )
    )
    assert row["with XLA"] == row["Keras from Python"] == "0.6k"
    assert row["ONNX Runtime"] == row["ONNX Runtime int8"] == "0.6k"
    assert row["LiteRT"] == "not measured"
    assert row["ratio to ONNX Runtime"] == "1.00"
    assert chosen["ONNX Runtime"] == chosen["Keras from Python"] == "1 thread"
    assert row["options cost, %"] == "0"
    if with_pytorch:
        assert row["PyTorch"] == "0.6k"
        assert chosen["PyTorch"] == "layer, 1 thread, active"
        assert row["ratio to PyTorch"] == "1.00"
        assert chosen["spread"] == "20, 20, 20, -, 20 %"
    else:
        assert row["PyTorch"] == "not measured"
        assert chosen["PyTorch"] == row["ratio to PyTorch"] == ""


def test_drawn_tokens_are_distributed_as_their_logits():
    """And states go from a step to the next."""
    probabilities, seen = np.float32([0.1, 0.3, 0.6]), []

    def step(inputs):
        assert inputs["state_0_h"].shape == (1000, 2)
        assert (inputs["state_0_h"] == len(seen)).all()
        seen.append(inputs["token_ids"])
        logits = np.tile(np.log(probabilities), [1000, 1])
        return {"logits": logits, "new_state_0_h": inputs["state_0_h"] + 1}

    generation_speed.drawing(step, {"state_0_h": 2}, 1000)(1)
    assert len(seen) == generation_speed.TOKENS
    assert not seen[0].any()
    shares = np.bincount(np.ravel(seen[1:])) / np.size(seen[1:])
    np.testing.assert_allclose(shares, probabilities, atol=0.01)


def test_runtimes_generate_from_files_of_float32_and_int8(
    tmp_path, monkeypatch
):
    from stacked_rnn.export import runtimes

    formats = ("onnx", "litert")
    try:
        for format in formats:
            runtimes.require(format)
    except UserError as error:
        pytest.skip(str(error))
    path = generation_speed.export("gru", 32, tmp_path / "model")
    files = generation_speed.export_for_runtimes(path, formats)
    drawing, logits = generation_speed.drawing, []

    def kept(step, widths, batch_size):
        def keep(inputs):
            new = step(inputs)
            logits.append(new["logits"])
            return new

        return drawing(keep, widths, batch_size)

    monkeypatch.setattr(generation_speed, "drawing", kept)
    first = {}
    for name, file in files.items():
        maker = generation_speed.runtime_maker(name)
        maker(file, batch_size=2, threads=1)(1)
        first[name] = logits[-generation_speed.TOKENS]
    assert list(first) == [
        "ONNX Runtime", "ONNX Runtime int8", "LiteRT", "LiteRT int8"
    ]  # fmt: skip
    exact = first["ONNX Runtime"]
    assert exact.shape == (2, generation_speed.VOCABULARY)
    np.testing.assert_allclose(first["LiteRT"], exact, atol=1e-5)
    for name in generation_speed.INT8:
        assert 1e-5 < abs(first[name] - exact).max() < 0.1
