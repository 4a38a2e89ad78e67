"""Several workers on the loopback interface train as one process does."""

import signal
import socket
import time

import pytest
import tensorflow as tf

from stacked_rnn import configs, training
from stacked_rnn.training import strategies
from tests.helpers.waiting import wait_until
from tests.helpers.workers import (
    assert_close,
    checkpoints,
    cluster_config,
    finish,
    results,
    start,
    start_workers,
)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The results of 34 steps in one process."""
    directory = tmp_path_factory.mktemp("one")
    finish([start(directory)])
    return results(directory)


def assert_only_the_chief_wrote(directory):
    """One run and one model."""
    assert {path.name for path in directory.iterdir()} == {
        "cats.txt", "runs", "saved_models",
    }  # fmt: skip
    assert [p.name for p in (directory / "runs").iterdir()] == ["cats"]
    versions = directory / "saved_models/cats"
    assert [p.name for p in versions.iterdir()] == ["1"]


@pytest.mark.drill  # the test of a lost worker has most of it
@pytest.mark.parametrize("count", [2, 4])
def test_workers_train_as_one_process_does(count, one_process, tmp_path):
    """With clipping, carried state and validation; only the chief writes."""
    chief, *others = finish(
        start_workers([tmp_path] * count, [["--max_minutes=5"]] * count)
    )
    assert "Exported saved_models/cats/1" in chief
    assert others == [""] * (count - 1)
    assert_only_the_chief_wrote(tmp_path)
    assert_close(tmp_path, one_process)


@pytest.mark.drill
def test_workers_of_a_finished_run_end_with_the_chief(tmp_path):
    flags = [["--learn_all", "--epochs=1", "--validation_fraction=0.5"]] * 2
    finish(start_workers([tmp_path] * 2, flags))
    chief, other = finish(start_workers([tmp_path] * 2, flags))
    assert "Nothing is left to do" in chief and other == ""


@pytest.mark.parametrize(
    "victim", [1, pytest.param(0, marks=pytest.mark.drill)]
)
def test_a_lost_worker_stops_the_others_and_all_resume(
    victim, one_process, tmp_path
):
    """With clipping, carried state and validation; only the chief writes."""
    flags = ["--checkpoint_minutes=0"]
    processes = start_workers([tmp_path] * 2, [flags] * 2)

    def has_checkpoint():
        assert all(p.poll() is None for p in processes)
        return checkpoints(tmp_path)

    wait_until(has_checkpoint, 120)
    processes[victim].kill()
    ended = processes[1 - victim].finish(60)
    assert ended.returncode == 2, ended.stderr
    assert "another worker has died" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "saved_models/cats/1").exists()
    flags = [*flags, "--max_minutes=5"]
    chief, other = finish(start_workers([tmp_path] * 2, [flags] * 2))
    assert "resuming at step" in chief
    assert "Exported saved_models/cats/1" in chief and other == ""
    assert_only_the_chief_wrote(tmp_path)
    assert_close(tmp_path, one_process)


def test_different_flags_are_found_before_training(tmp_path):
    processes = start_workers(
        [tmp_path] * 2, [["--learning_rate=0.01"], ["--learning_rate=0.02"]]
    )
    for process in processes:
        ended = process.finish(60)
        assert ended.returncode == 2
        assert "--learning_rate: 0.01 and 0.02" in ended.stderr
        assert "Traceback" not in ended.stderr and ended.stdout == ""
    assert not (tmp_path / "runs/cats/config.flags").exists()


@pytest.mark.parametrize(
    ("tf_config", "message"),
    [
        ("not json", "TF_CONFIG is malformed.*expected something like"),
        ("[]", "TF_CONFIG is malformed"),
        ("{}", "TF_CONFIG is malformed .'task'"),
        (
            '{"cluster": {"worker": ["a:1"]}, '
            '"task": {"type": "worker", "index": 1}}',
            "there is no worker 1",
        ),
        (
            '{"cluster": {"worker": ["a"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "TF_CONFIG is malformed",
        ),
        (
            '{"cluster": {"worker": ["a:70000"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "a:70000 has no port from 1 to 65535",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "jobs other than chief and worker",
        ),
    ],
)
def test_a_malformed_tf_config_is_one_line(tf_config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(configs.UserError, match=message):
        training.make_strategy("multi_worker")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,  # if packets are lost silently
    ],
)
def test_errors_about_other_workers_are_one_line(error):
    with (
        pytest.raises(configs.UserError, match="start all of them again"),
        training.lost_workers_explained(),
    ):
        raise error(None, None, "Collective ops is aborted")


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


def test_the_wait_for_a_missing_worker_ends_with_its_address(
    monkeypatch, capfd
):
    """A worker that was there and has gone is not blamed."""
    own, missing = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        present = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(
            "TF_CONFIG", cluster_config([missing, own, present], 1)
        )
        monkeypatch.setattr(strategies, "_REPORT_SECONDS", 0.0)
        monkeypatch.setattr(time, "sleep", lambda _: listener.close())
        with pytest.raises(configs.UserError) as raised:
            training.make_strategy("multi_worker", wait_minutes=0.02)
    assert str(raised.value).startswith(
        f"--wait_minutes=0.02: no answer from {missing}: start the same"
    )
    errors = capfd.readouterr().err
    assert f"worker 1: still waiting for {missing}\n" in errors


def test_ctrl_c_ends_the_wait_for_a_missing_worker(tmp_path):
    addresses = [f"127.0.0.1:{unused_port()}" for _ in range(2)]
    process = start(
        tmp_path, "--strategy=multi_worker",
        TF_CONFIG=cluster_config(addresses, 0),
    )  # fmt: skip
    process.wait_for("waiting for all of")
    process.send_signal(signal.SIGINT)
    ended = process.finish(20)
    assert ended.returncode == 130, ended.stderr
    assert "interrupted" in ended.stderr and "Traceback" not in ended.stderr


def test_a_missing_cluster_is_explained_with_a_page(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(configs.UserError, match="deploy/README.md"):
        training.make_strategy("multi_worker")


def test_a_slurm_job_without_srun_is_a_user_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(configs.UserError, match="start it with srun"):
        training.make_strategy("multi_worker")


def test_workers_are_found_in_slurm_variables(monkeypatch):
    """Even on machines without GPUs."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in {
        "PROCID": "2",
        "STEP_NODELIST": "node[7-8]",
        "STEP_NUM_TASKS": "4",
        "STEP_TASKS_PER_NODE": "2(x2)",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = strategies.find_cluster()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node7:8888", "node7:8889", "node8:8888", "node8:8889"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


def test_a_port_in_use_is_a_one_line_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(
            tmp_path, "--strategy=multi_worker",
            TF_CONFIG=cluster_config([address, "127.0.0.1:1"], 0),
        )  # fmt: skip
        ended = process.finish(60)
    assert ended.returncode == 2, ended.stderr
    assert "is its port in use?" in ended.stderr
    assert "Traceback" not in ended.stderr
