"""Where training runs: the devices of one machine, or many machines."""

import contextlib
import json
import os
import sys

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError


def make_strategy(name) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy that `--strategy` names.

    To be called before any other work for TensorFlow, which sets GPUs up (all
    their memory, unless told otherwise here) and collectives when it begins.

    Args:
        name: "one_device"; "mirrored", over all GPUs or, without any, over all
            logical CPUs; "multi_worker", over the machines in `TF_CONFIG` or
            of a Slurm job; or "auto", mirrored where there are several GPUs.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
            tf.config.experimental.set_memory_growth(gpu, True)
    if name == "multi_worker":
        return _multi_worker_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def find_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Who the workers are and which is this one: by TF_CONFIG, or by Slurm."""
    if "TF_CONFIG" in os.environ:
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_PROCID" in os.environ:
        # Which GPUs a task sees is for Slurm to decide. The resolver would ask
        # nvidia-smi, and finds no more tasks on a node than GPUs: give it some.
        return tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False
        )
    raise UserError(
        "--strategy=multi_worker: neither TF_CONFIG nor a Slurm job says "
        "which workers there are: see deploy/README.md"
    )


def _multi_worker_strategy():
    resolver = find_cluster()
    addresses = ", ".join(
        address
        for job in resolver.cluster_spec().jobs
        for address in resolver.cluster_spec().job_tasks(job)
    )
    print(
        f"{resolver.task_type} {resolver.task_id}: waiting for all of "
        f"{addresses}",
        file=sys.stderr,
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=resolver
        )
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            "--strategy=multi_worker: this worker cannot take its place among "
            f"{addresses} ({str(error).splitlines()[0]}): is its port in use?"
        ) from error


def _check_tf_config(text) -> None:
    """Raises a `UserError` for what TensorFlow would stumble over."""
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
            int(address.rpartition(":")[2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--strategy=multi_worker: TF_CONFIG is malformed ({error}): "
            f"expected such as {example}"
        ) from error


@contextlib.contextmanager
def lost_workers_explained():
    """Turns TensorFlow's errors about other processes into one line.

    It notices within some ten seconds that a process has died.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise UserError(
            "another worker has died or is out of reach: start all of them "
            "again with the same command, and they go on from the last "
            "checkpoint"
        ) from error


class Workers:
    """The processes that train together, and what they agree on.

    All of them call the same methods in the same order. One process agrees with
    itself at no cost.

    Args:
        strategy: a `tf.distribute.Strategy`.

    Attributes:
        count: how many there are.
        is_chief: whether this process is the one that writes.
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
        """The largest of the numbers that they call this with."""
        if self.count == 1:
            return value
        values = self._gather(tf.constant([value], tf.float64))
        return float(tf.reduce_max(values))

    def check_same(self, settings) -> None:
        """Raises a `UserError` where they were started differently.

        Args:
            settings: name -> what JSON can say, the same names in all.
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
            raise UserError(
                "the workers were started differently: "
                + "; ".join(dict.fromkeys(differences))
            )
