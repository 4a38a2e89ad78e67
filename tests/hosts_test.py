"""Several hosts, simulated by network namespaces, train together.

Each host is a namespace with one address; a switch (a bridge in one more
namespace) joins them. Needs root and iproute2, skips without.
"""

import contextlib
import fcntl
import os
import queue
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers import ROOT
from tests.helpers.waiting import read_until, wait_until
from tests.helpers.workers import (
    TEXT,
    assert_close,
    checkpoints,
    cluster_config,
    results,
)

IP, TC = (
    shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    for name in ("ip", "tc")
)
pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="network namespaces need root"
    ),
    pytest.mark.skipif(
        not (IP and TC), reason="no ip and tc here: install iproute2"
    ),
]
FLAGS = (
    "--corpus=cats.txt", "--cell=gru", "--units=16", "--embedding_dim=8",
    "--epochs=6", "--batch_size=12", "--sequence_length=20", "--carry_state",
    "--learning_rate=0.01", "--gradient_clip_norm=0.3", "--nojit_compile",
    "--checkpoint_minutes=0",
)  # fmt: skip
LOST = (
    "train.py: error: another worker has died or is out of reach: start all "
    "of them again with the same command, and they resume from the last "
    "checkpoint"
)
START_SECONDS = 120  # until the first checkpoint, on a busy machine
PORT = 2222
NO_MORE_FRAMES = (0.0, None)


def stated_seconds():
    """The time that deploy/README.md promises."""
    text = (ROOT / "deploy/README.md").read_text()
    [seconds] = re.findall(r"ends\s+within\s+(\d+) seconds", text)
    return int(seconds)


def ip(*arguments):
    subprocess.run(
        [IP, *map(str, arguments)],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


class Hosts:
    """Hosts on one switch, which share a directory.

    Args:
        count: how many.
        directory: where their processes run.
        delay: seconds that each frame from or to the last host takes.
    """

    def __init__(self, count, directory, delay=0.0):
        self.directory = directory
        self.addresses = [f"10.77.0.{i + 1}" for i in range(count)]
        self._names = [f"rnn{os.getpid()}-{i}" for i in range(count)]
        self._switch = f"rnn{os.getpid()}-switch"
        self._delay = delay
        self._namespaces, self._processes = [], []

    def build(self):
        self._add_namespace(self._switch)
        ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self._switch, "link", "set", "switch", "up")
        for index, name in enumerate(self._names):
            self._add_namespace(name)
            wire = None
            if self._delay and name == self._names[-1]:
                wire = DelayedWire(self._delay)
                wire.plug(0, self._switch, f"port{index}")
                wire.plug(1, name, "eth0")
            else:
                ip(
                    "-n", self._switch, "link", "add", f"port{index}",
                    "type", "veth", "peer", "name", "eth0", "netns", name,
                )  # fmt: skip
            self.connect(index)
            address = f"{self.addresses[index]}/24"
            ip("-n", name, "addr", "add", address, "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            if wire:
                wire.carry()

    def remove(self):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for name in self._namespaces:  # their devices go with them
            ip("netns", "del", name)

    def _add_namespace(self, name):
        ip("netns", "add", name)
        self._namespaces.append(name)

    def cut(self, index):
        """Pulls the plug of a host: no packet comes or goes, no FIN, no RST."""
        ip("-n", self._switch, "link", "set", f"port{index}", "down")

    def block(self, index):
        """Loses the packets of a host, whose own link seems to be up."""
        ip("-n", self._switch, "link", "set", f"port{index}", "nomaster")

    def connect(self, index):
        ip(
            "-n", self._switch, "link", "set", f"port{index}",
            "master", "switch", "up",
        )  # fmt: skip

    def limit_rate(self, rate):
        """Limits what each host sends and receives per second."""
        for index, name in enumerate(self._names):
            for namespace, device in (
                (name, "eth0"),
                (self._switch, f"port{index}"),
            ):
                subprocess.run(
                    [
                        TC, "-n", namespace, "qdisc", "add", "dev", device,
                        "root", "tbf", "rate", rate, "burst", "8kb",
                        "latency", "500ms",
                    ],
                    check=True,
                )  # fmt: skip

    def start(self, index, *flags):
        """Starts the worker of a host."""
        cluster = [f"{address}:{PORT}" for address in self.addresses]
        process = subprocess.Popen(
            [
                IP, "netns", "exec", self._names[index],
                sys.executable, ROOT / "train.py",
                "--strategy=multi_worker", *FLAGS, *flags,
            ],
            cwd=self.directory,
            env=os.environ | {"TF_CONFIG": cluster_config(cluster, index)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def start_all(self, *flags):
        return [self.start(i, *flags) for i in range(len(self.addresses))]


class DelayedWire:
    """A link that delays frames, as not every kernel has netem."""

    def __init__(self, delay):
        self._delay = delay
        self._ends = [self._open_tap(), self._open_tap()]

    def _open_tap(self):
        set_interface, tap, no_packet_info = 0x400454CA, 0x0002, 0x1000
        end = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", b"rnn%d", tap | no_packet_info)
        name = fcntl.ioctl(end, set_interface, request)[:16].rstrip(b"\0")
        return end, name.decode()

    def plug(self, index, namespace, device):
        _, name = self._ends[index]
        ip("link", "set", name, "netns", namespace, "name", device)

    def carry(self):
        (one, _), (other, _) = self._ends
        for source, target in ((one, other), (other, one)):
            frames = queue.Queue()
            for work, end in ((self._take, source), (self._give, target)):
                threading.Thread(
                    target=work, args=(end, frames), daemon=True
                ).start()

    def _take(self, source, frames):
        try:
            while True:
                frame = os.read(source, 2**16)
                frames.put((time.monotonic() + self._delay, frame))
        except OSError:  # its namespace was deleted
            frames.put(NO_MORE_FRAMES)

    def _give(self, target, frames):
        for due, frame in iter(frames.get, NO_MORE_FRAMES):
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # the link is down: it is lost
                os.write(target, frame)


@pytest.fixture
def make_hosts(tmp_path):
    """Makes hosts; removes them and their processes at the end."""
    (tmp_path / "cats.txt").write_text(TEXT)
    made = []

    def make(count, delay=0.0):
        hosts = Hosts(count, tmp_path, delay)
        made.append(hosts)
        try:
            hosts.build()
        except subprocess.CalledProcessError as error:
            if "netns add" in " ".join(error.cmd):
                pytest.skip(f"no network namespaces here: {error.stderr}")
            raise
        return hosts

    yield make
    for hosts in made:
        hosts.remove()


def train_alone(directory, *flags):
    """Trains in one process; returns its results."""
    (directory / "cats.txt").write_text(TEXT)
    command = [sys.executable, ROOT / "train.py", *FLAGS, *flags]
    subprocess.run(
        command, cwd=directory, check=True, timeout=120, capture_output=True
    )
    return results(directory)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return train_alone(tmp_path_factory.mktemp("one"))


def wait_for_checkpoint(hosts, processes):
    def is_there():
        assert all(p.poll() is None for p in processes)
        return checkpoints(hosts.directory)

    wait_until(is_there, START_SECONDS)


def wait_for_ends(processes, since, seconds):
    """Waits for all to end; returns (output, errors, exit code) of each."""
    ends = {}

    def have_ended():
        for index, process in enumerate(processes):
            if index not in ends and process.poll() is not None:
                ends[index] = time.monotonic() - since
        return len(ends) == len(processes)

    wait_until(have_ended, since + seconds - time.monotonic())
    print("seconds until each process ended:", {
        index: round(took, 1) for index, took in sorted(ends.items())
    })  # fmt: skip
    return [(*p.communicate(timeout=10), p.returncode) for p in processes]


def finish(processes):
    """Waits for processes, which have to succeed; returns their outputs."""
    ended = [(*p.communicate(timeout=120), p.returncode) for p in processes]
    for output, errors, code in ended:
        assert code == 0, output + errors
    return [output for output, _, _ in ended]


def assert_all_go_on(hosts, expected):
    assert not (hosts.directory / "saved_models/cats/1").exists()
    chief, *_ = finish(hosts.start_all())
    assert "resuming at step" in chief
    assert_close(hosts.directory, expected)


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_train_as_one_process_does(count, make_hosts, one_process):
    hosts = make_hosts(count)
    chief, *others = finish(hosts.start_all())
    assert "Exported saved_models/cats/1" in chief
    assert others == [""] * (count - 1)
    assert_close(hosts.directory, one_process)


@pytest.mark.parametrize(
    ("count", "index", "how"),
    [
        (2, 0, Hosts.cut),
        (2, 1, Hosts.block),
        (3, 0, Hosts.block),
        (3, 2, Hosts.cut),
    ],
)
def test_a_cut_link_stops_all_workers_which_can_resume(
    count, index, how, make_hosts, one_process
):
    """On both sides, though no packet tells them."""
    hosts = make_hosts(count)
    processes = hosts.start_all()
    wait_for_checkpoint(hosts, processes)
    since = time.monotonic()
    how(hosts, index)
    for _, errors, code in wait_for_ends(processes, since, stated_seconds()):
        assert code == 2, errors
        assert errors.splitlines()[1:] == [LOST]
    hosts.connect(index)
    assert_all_go_on(hosts, one_process)


@pytest.mark.parametrize("index", [0, 1])
def test_a_vanished_host_stops_the_others_which_can_resume(
    index, make_hosts, one_process
):
    hosts = make_hosts(3)
    processes = hosts.start_all()
    wait_for_checkpoint(hosts, processes)
    since = time.monotonic()
    hosts.cut(index)
    processes.pop(index).kill()
    for _, errors, code in wait_for_ends(processes, since, stated_seconds()):
        assert code == 2, errors
        assert errors.splitlines()[1:] == [LOST]
    hosts.connect(index)
    assert_all_go_on(hosts, one_process)


def test_slow_links_do_not_change_the_results(make_hosts, one_process):
    """A round trip to the last host takes 40 ms; each has 2 Mbit/s."""
    hosts = make_hosts(3, delay=0.02)
    hosts.limit_rate("2mbit")
    since = time.monotonic()
    finish(hosts.start_all())
    print(f"seconds over slow links: {time.monotonic() - since:.1f}")
    assert_close(hosts.directory, one_process)


def test_a_step_that_takes_long_to_send_is_not_a_lost_worker(
    make_hosts, tmp_path_factory
):
    """2.4 MB per step at 1 Mbit/s: much longer than a heartbeat may take."""
    flags = ["--units=256", "--epochs=1", "--sequence_length=60"]
    expected = train_alone(tmp_path_factory.mktemp("wide"), *flags)
    hosts = make_hosts(2)
    hosts.limit_rate("1mbit")
    processes = hosts.start_all(*flags)
    since = time.monotonic()
    for output, errors, code in wait_for_ends(processes, since, 300):
        assert code == 0, output + errors
    assert_close(hosts.directory, expected)


def test_an_absent_host_is_named_and_waited_for(make_hosts, one_process):
    hosts = make_hosts(3)
    hosts.cut(2)
    processes = [hosts.start(i) for i in range(2)]
    for index, process in enumerate(processes):
        first, second = read_until(process, "still waiting", "stderr", 60)
        assert first.startswith(
            f"worker {index}: waiting for all of 10.77.0.1:"
        )
        assert second == f"worker {index}: still waiting for 10.77.0.3:{PORT}\n"
    hosts.connect(2)
    finish([*processes, hosts.start(2)])
    assert_close(hosts.directory, one_process)


@pytest.mark.parametrize("absent", [0, 2])
def test_the_wait_for_an_absent_host_ends_in_time(absent, make_hosts):
    """Also if it is worker 0, which the others connect to."""
    hosts = make_hosts(3)
    hosts.cut(absent)
    since = time.monotonic()
    processes = [
        hosts.start(i, "--wait_minutes=0.25") for i in range(3) if i != absent
    ]
    address = f"{hosts.addresses[absent]}:{PORT}"
    for _, errors, code in wait_for_ends(processes, since, 15 + 30):
        assert code == 2, errors
        *_, last = errors.splitlines()
        assert last.startswith("train.py: error: --wait_minutes=0.25: ")
        assert f"no answer from {address}: start the same command" in last
        assert "Traceback" not in errors


def test_a_worker_that_is_restarted_alone_brings_all_back(
    make_hosts, one_process
):
    """As Kubernetes does, which restarts each failed pod at once."""
    hosts = make_hosts(3)
    workers = hosts.start_all()
    wait_for_checkpoint(hosts, workers)
    workers[1].send_signal(signal.SIGKILL)
    restarts = []

    def have_succeeded():
        for index, process in enumerate(workers):
            if process.poll() not in (None, 0):
                _, errors = process.communicate(timeout=10)
                assert process.returncode in (2, -signal.SIGKILL), errors
                workers[index] = hosts.start(index)
                restarts.append(index)
        return all(process.poll() == 0 for process in workers)

    wait_until(have_succeeded, START_SECONDS)
    print(f"restarts of 3 workers: {len(restarts)}")
    assert_close(hosts.directory, one_process)
