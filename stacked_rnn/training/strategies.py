"""Distribution strategies: the devices of one machine, or many machines."""

import concurrent.futures
import contextlib
import json
import math
import os
import socket
import sys
import time

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError

_ANSWER_SECONDS = 2.0  # within which a running worker accepts a connection
_REPORT_SECONDS = 10.0  # between two lines about missing workers


def strategy_of(train_config) -> tf.distribute.Strategy:
    """Creates the strategy of a `TrainConfig`, see `make_strategy`."""
    return make_strategy(
        train_config.strategy,
        train_config.wait_minutes,
        train_config.batch_size // train_config.accumulate_steps,
    )


def make_strategy(name, wait_minutes=60.0, rows=0) -> tf.distribute.Strategy:
    """Creates the `tf.distribute` strategy that `--strategy` names.

    Call this before TensorFlow does anything else: when it starts, it sets up
    collectives and GPUs (with all their memory, unless told otherwise here).

    Args:
        name: "one_device"; "mirrored", over all GPUs or, without any, over all
            logical CPUs; "multi_worker", over the machines in `TF_CONFIG` or
            of a Slurm job; or "auto", mirrored where there are several GPUs.
        wait_minutes: how long "multi_worker" waits for all workers to start;
            0: no limit.
        rows: number of rows that "auto" must be able to split evenly: it
            leaves GPUs out, and says so, that have no share; 0: any number.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        # TensorFlow has started, or a program has limited the memory.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if name == "multi_worker":
        return _multi_worker_strategy(wait_minutes)
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "auto":
        while rows % max(1, len(devices)):
            devices = devices[:-1]
        if len(devices) < len(gpus):
            print(
                f"note: {len(devices)} of {len(gpus)} GPUs: more cannot share "
                f"{rows} rows (--batch_size)",
                file=sys.stderr,
            )
    if name == "mirrored" or (name == "auto" and gpus and len(devices) > 1):
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def find_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Reads the workers, and which one this is, from TF_CONFIG or Slurm."""
    if "TF_CONFIG" in os.environ:
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_PROCID" in os.environ:
        if "SLURM_STEP_NUM_TASKS" not in os.environ:
            raise UserError(
                "--strategy=multi_worker: this Slurm job has no step: start it "
                "with srun, see deploy/slurm.sh"
            )
        # Slurm decides which GPUs a task sees. The resolver would ask
        # nvidia-smi, and allows a node no more tasks than GPUs: claim many.
        return tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False
        )
    raise UserError(
        "--strategy=multi_worker: neither TF_CONFIG nor a Slurm job names the "
        "workers: see deploy/README.md"
    )


def _multi_worker_strategy(wait_minutes):
    resolver = find_cluster()
    addresses = [
        address
        for job in resolver.cluster_spec().jobs
        for address in resolver.cluster_spec().job_tasks(job)
    ]
    own_address = resolver.cluster_spec().task_address(
        resolver.task_type, resolver.task_id
    )
    _wait_for_workers(
        f"{resolver.task_type} {resolver.task_id}",
        own_address,
        addresses,
        wait_minutes,
    )
    # By default, heartbeats share a connection with gradients, queue behind
    # them and arrive too late if a step takes long to send: a slow link would
    # look like a lost worker. This option gives them a connection of their own;
    # tests/hosts_test.py fails if TensorFlow ignores it.
    os.environ.setdefault(
        "TF_GRPC_DEFAULT_OPTIONS", "grpc.use_local_subchannel_pool=1"
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=resolver
        )
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            "--strategy=multi_worker: the workers cannot connect "
            f"({str(error).splitlines()[0]}): start all of them again with "
            "the same command"
        ) from error


def _wait_for_workers(name, own_address, addresses, wait_minutes) -> None:
    """Blocks until all workers accept connections on their ports.

    TensorFlow waits as well, but it does not say for whom, holds Python's lock,
    so that Ctrl-C has no effect, and never ends if worker 0 vanishes meanwhile.
    Each worker therefore listens on its own port until it sees all others, and
    then leaves the port to TensorFlow.

    Raises:
        UserError: the port is in use, or a worker is missing for too long.
    """
    print(f"{name}: waiting for all of {', '.join(addresses)}", file=sys.stderr)
    others = [address for address in addresses if address != own_address]
    if not others:
        return
    now = time.monotonic()
    deadline = now + 60 * wait_minutes if wait_minutes else math.inf
    next_report, reported, seen = now + _REPORT_SECONDS, [], set()
    with (
        _listen(own_address) as listener,
        concurrent.futures.ThreadPoolExecutor(min(32, len(others))) as pool,
    ):
        while True:
            answers = pool.map(_accepts_connections, others)
            missing = [
                address for address, found in zip(others, answers) if not found
            ]
            if not missing:
                return
            seen.update(set(others) - set(missing))
            now = time.monotonic()
            if now >= deadline:
                # Some may have answered before, and have just given up.
                silent = [a for a in missing if a not in seen] or missing
                raise UserError(
                    f"--wait_minutes={wait_minutes:g}: no answer from "
                    f"{', '.join(silent)}: start the same command there, and "
                    "check that the network lets these ports through"
                )
            if missing != reported and now >= next_report:
                print(
                    f"{name}: still waiting for {', '.join(missing)}",
                    file=sys.stderr,
                )
                next_report, reported = now + _REPORT_SECONDS, missing
            _drop_connections(listener)
            time.sleep(1)


def _listen(address) -> socket.socket:
    port = int(address.rpartition(":")[2])
    is_dual = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if is_dual else socket.AF_INET,
            dualstack_ipv6=is_dual,
        )
    except OSError as error:
        raise UserError(
            f"--strategy=multi_worker: this worker cannot listen at {address} "
            f"({error.strerror}): is its port in use?"
        ) from error
    listener.setblocking(False)
    return listener


def _accepts_connections(address) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection(
            (host.strip("[]"), int(port)), _ANSWER_SECONDS
        ):
            return True
    except OSError:  # also a host name that is not known yet
        return False


def _drop_connections(listener) -> None:
    """Empties the queue of a listener, before it fills up."""
    with contextlib.suppress(OSError):  # BlockingIOError: it is empty
        while True:
            listener.accept()[0].close()


def _check_tf_config(text) -> None:
    """Raises a `UserError` if TF_CONFIG is malformed."""
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        task = config["task"]
        addresses = config["cluster"][task["type"]]
        if set(config["cluster"]) - {"chief", "worker"}:
            raise ValueError("jobs other than chief and worker")
        if not 0 <= int(task["index"]) < len(addresses):
            raise ValueError(f"there is no {task['type']} {task['index']}")
        for address in addresses:
            if not 0 < int(address.rpartition(":")[2]) < 2**16:
                raise ValueError(f"{address} has no port from 1 to 65535")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--strategy=multi_worker: TF_CONFIG is malformed ({error}): "
            f"expected something like {example}"
        ) from error


@contextlib.contextmanager
def lost_workers_explained():
    """Turns TensorFlow's errors about lost workers into one line.

    TensorFlow's workers send heartbeats: after about ten seconds without one,
    every operation that waits for another worker fails. The type of the error
    depends on who noticed: the process itself, whose heartbeat failed
    (`DeadlineExceededError` where packets vanish, otherwise
    `UnavailableError`), or worker 0, which then told the others.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,
    ) as error:
        raise UserError(
            "another worker has died or is out of reach: start all of them "
            "again with the same command, and they resume from the last "
            "checkpoint"
        ) from error


class Workers:
    """The processes that train together, and how they agree.

    All of them must call the same methods in the same order. A single process
    communicates with nobody.

    Args:
        strategy: a `tf.distribute.Strategy`.

    Attributes:
        count: number of processes.
        is_chief: whether this process is the one that writes files.
    """

    def __init__(self, strategy):
        self.count, self.is_chief = 1, True
        resolver = strategy.cluster_resolver
        if resolver is not None and resolver.task_type is not None:
            cluster = resolver.cluster_spec()
            self.count = sum(cluster.num_tasks(job) for job in cluster.jobs)
            chief = ("chief" if "chief" in cluster.jobs else "worker", 0)
            self.is_chief = (resolver.task_type, resolver.task_id) == chief
        self._gather = tf.function(
            lambda values: strategy.gather(values, axis=0),
            autograph=False,
            reduce_retracing=True,
        )

    def largest(self, value) -> float:
        """Returns the largest of the values that the processes pass."""
        if self.count == 1:
            return value
        values = self._gather(tf.constant([value], tf.float64))
        return float(tf.reduce_max(values))

    def check_same(self, settings) -> None:
        """Raises a `UserError` if the processes have different settings.

        Args:
            settings: JSON values by name; all processes pass the same names.
        """
        codes = tf.constant(list(json.dumps(settings).encode()), tf.float64)
        length = int(self.largest(len(codes)))
        padded = tf.pad(codes, [[0, length - len(codes)]])
        rows = tf.reshape(self._gather(padded), [-1, length])
        first, *others = (
            json.loads(bytes(row[row > 0].tolist()))
            for row in rows.numpy().astype(np.uint8)
        )
        differences = [
            f"--{name}: {first[name]!r} and {other[name]!r}"
            for other in others
            for name in first
            if first[name] != other[name]
        ]
        if differences:
            # No process ends while another still gathers the settings.
            with contextlib.suppress(tf.errors.OpError):
                self.largest(0.0)
            raise UserError(
                "the workers were started differently: "
                + "; ".join(dict.fromkeys(differences))
            )
