"""The files in deploy/ fit the programs that read them and our flags."""

import configparser
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import kubernetes_validate
import pytest
import yaml
from prometheus_client import parser

from stacked_rnn import configs
from stacked_rnn.decoding import incremental_text
from stacked_rnn.serving import metrics, prefix_cache, scheduler
from tests.helpers import ROOT
from tests.helpers.processes import IN_MEMORY, assert_flags_are_parsed
from tests.helpers.workers import FLAGS, TEXT

DEPLOY = ROOT / "deploy"
MANIFESTS = ("serving.yaml", "tfjob.yaml")
KUBERNETES = ("1.25.0", str(kubernetes_validate.latest_version()))
FLAG = re.compile(r"(?<![\w-])--(\w+)")
TRAIN_FLAGS, SERVE_FLAGS = (
    {field.name for kind in kinds for field in dataclasses.fields(kind)}
    for kinds in (
        (configs.ModelConfig, configs.TrainConfig),
        (configs.ServeConfig,),
    )
)
SLURM_PORTS = (8888, 8889)  # where TensorFlow puts the tasks of a node


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pod_templates():
    """Lists (name, pod template) of all manifests."""
    for name in MANIFESTS:
        for document in documents(name):
            spec = document["spec"]
            if "template" in spec:
                yield (
                    f"{name}: {document['metadata']['name']}",
                    spec["template"],
                )
            for kind, replica in spec.get("tfReplicaSpecs", {}).items():
                yield f"{name}: {kind}", replica["template"]


def containers():
    return [
        (name, container)
        for name, template in pod_templates()
        for container in template["spec"]["containers"]
    ]


def by_name(named):
    """Parameters of a test: pairs of a name and a value."""
    return [pytest.param(value, id=name) for name, value in named]


def entry_point():
    """The command of the image, and the port that it exposes."""
    text = (DEPLOY / "Dockerfile").read_text()
    [command] = re.findall(r"^ENTRYPOINT (.+)$", text, re.M)
    [port] = re.findall(r"^EXPOSE (\d+)$", text, re.M)
    return yaml.safe_load(command), int(port)


# Kubernetes -------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_fit_the_schemas_of_kubernetes(version):
    kinds = []
    for document in documents("serving.yaml"):
        kubernetes_validate.validate(document, version, strict=True)
        kinds.append(document["kind"])
    assert kinds == [
        "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy",
        "Deployment", "Service",
    ]  # fmt: skip


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("template", by_name(pod_templates()))
def test_pod_templates_fit_the_schema(template, version):
    """Including that of the TFJob, which is no kind of Kubernetes."""
    resource = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "pods"},
        "template": template,
    }
    kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("template", by_name(pod_templates()))
def test_pods_mount_volumes_that_they_have(template):
    spec = template["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounted = {
        mount["name"]
        for container in spec["containers"]
        for mount in container["volumeMounts"]
    }
    assert mounted == volumes


@pytest.mark.parametrize("container", by_name(containers()))
def test_probes_use_an_open_port(container):
    ports = {port["containerPort"] for port in container.get("ports", ())}
    for name, probe in container.items():
        if name.endswith("Probe"):
            [kind] = probe.keys() & {"httpGet", "tcpSocket"}
            assert probe[kind]["port"] in ports


def specs(kind):
    """Maps names to specs, for the manifests of one kind."""
    return {
        document["metadata"]["name"]: document["spec"]
        for document in documents("serving.yaml")
        if document["kind"] == kind
    }


def test_services_find_their_pods():
    deployments, services = specs("Deployment"), specs("Service")
    assert deployments.keys() == services.keys()
    for name, service in services.items():
        template = deployments[name]["template"]
        labels = template["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()
        assert deployments[name]["selector"]["matchLabels"] == labels
        [container] = template["spec"]["containers"]
        assert [port["port"] for port in service["ports"]] == [
            port["containerPort"] for port in container["ports"]
        ]


def test_the_server_has_limits_and_no_privileges():
    spec = specs("Deployment")["stacked-rnn"]["template"]["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # Mounts are read-only, except for temporary files.
    writable = {
        mount["name"]
        for mount in container["volumeMounts"]
        if not mount.get("readOnly")
    }
    [temporary] = [v for v in spec["volumes"] if v["name"] in writable]
    assert temporary == {"name": "tmp", "emptyDir": {}}
    assert container["livenessProbe"]["timeoutSeconds"] > 1
    assert {"startupProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("container", by_name(containers()))
def test_memory_requests_are_within_their_limits(container):
    units = {"Mi": 2**20, "Gi": 2**30}
    asked, most = (
        int(container["resources"][kind]["memory"][:-2])
        * units[container["resources"][kind]["memory"][-2:]]
        for kind in ("requests", "limits")
    )
    assert asked <= most


def test_a_disruption_budget_keeps_one_server():
    labels = {"matchLabels": {"app": "stacked-rnn"}}
    deployment = specs("Deployment")["stacked-rnn"]
    assert deployment["replicas"] > 1
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    [budget] = specs("PodDisruptionBudget").values()
    assert budget["selector"] == labels
    assert budget["maxUnavailable"] < deployment["replicas"]
    [policy] = specs("NetworkPolicy").values()
    assert policy["podSelector"] == labels and "egress" not in policy
    [[port]] = [rule["ports"] for rule in policy["ingress"]]
    assert port == {"port": configs.ServeConfig().port}


def test_the_job_fits_the_training_operator():
    """Checked by its documentation, as there is no schema."""
    [job] = documents("tfjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert job["spec"].keys() == {"runPolicy", "tfReplicaSpecs"}
    policy = job["spec"]["runPolicy"]
    assert policy.keys() <= {
        "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds",
        "backoffLimit", "schedulingPolicy", "suspend",
    }  # fmt: skip
    assert policy["cleanPodPolicy"] in ("None", "Running", "All")
    assert isinstance(policy["backoffLimit"], int)
    # Jobs other than these two are refused by find_cluster.
    assert job["spec"]["tfReplicaSpecs"].keys() <= {"Chief", "Worker"}
    for replica in job["spec"]["tfReplicaSpecs"].values():
        assert replica.keys() == {"replicas", "restartPolicy", "template"}
        assert replica["replicas"] > 1
        [container] = replica["template"]["spec"]["containers"]
        assert any(
            flag.startswith("--epochs=") for flag in container["command"]
        )
        # Exit code 2 must bring a worker back: ExitCode would give up.
        assert replica["restartPolicy"] in ("OnFailure", "Always")
        # The operator sets TF_CONFIG in the container of this name.
        assert container["name"] == "tensorflow"


# Flags ------------------------------------------------------------------------


def test_the_commands_of_the_manifests_are_parsed():
    commands = [
        container["command"]
        for _, container in containers()
        if "command" in container
    ]
    # The entry point of the image has no train.py beside it.
    (command, *_), _ = entry_point()
    assert [one[:2] for one in commands] == [[command, "train"]]
    for _, name, *arguments in commands:
        assert_flags_are_parsed(f"{name}.py", arguments)


def test_the_command_of_the_image_is_parsed_with_added_flags():
    (command, name, *arguments), _ = entry_point()
    setup = (ROOT / "setup.cfg").read_text()
    assert f"\n    {command} = stacked_rnn.cli:main\n" in setup
    assert name == "serve"
    added = [
        container["args"]
        for _, container in containers()
        if "args" in container
    ]
    added += [
        service["command"]
        for service in documents("compose.yaml")[0]["services"].values()
        if "command" in service
    ]
    assert added
    for extra in added:
        assert_flags_are_parsed("serve.py", [*arguments, *extra])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("README.md", TRAIN_FLAGS),
        ("serving.md", SERVE_FLAGS | {"enable_batching"}),  # the binary's
        ("slurm.sh", TRAIN_FLAGS),
        ("tfjob.yaml", TRAIN_FLAGS),
        ("serving.yaml", SERVE_FLAGS | {"from"}),  # kubectl's
        ("compose.yaml", SERVE_FLAGS),
        ("nginx.conf", SERVE_FLAGS),
        ("security.md", SERVE_FLAGS),
        ("Dockerfile", SERVE_FLAGS),
    ],
)
def test_flags_in_deploy_files_exist(name, known):
    text = (DEPLOY / name).read_text()
    if name == "slurm.sh":  # sbatch and srun have flags of their own
        text = re.sub("^#SBATCH.*", "", text, flags=re.M)
        text = re.sub("--(kill-on-bad-exit|cpus-per-task)", "", text)
    if name == "Dockerfile":
        text = "\n".join(re.findall("^ENTRYPOINT.*", text, re.M))
    assert set(FLAG.findall(text)) <= known


def test_containers_are_killed_after_requests_had_time_to_end():
    compose = documents("compose.yaml")[0]["services"]["stacked-rnn"]
    [pods] = [
        template["spec"]
        for name, template in pod_templates()
        if name == "serving.yaml: stacked-rnn"
    ]
    drain_seconds = configs.ServeConfig().drain_seconds
    [container] = pods["containers"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    least = int(seconds) + drain_seconds
    assert pods["terminationGracePeriodSeconds"] > least
    grace = compose["stop_grace_period"]
    assert grace.endswith("s") and int(grace[:-1]) > drain_seconds


# Docker -----------------------------------------------------------------------


def test_compose_uses_files_that_exist():
    [compose] = documents("compose.yaml")
    assert compose.keys() == {"services"}
    ports = []
    for service in compose["services"].values():
        assert len(service.keys() & {"image", "build"}) == 1
        assert service.keys() <= {
            "image", "build", "ports", "volumes", "environment", "command",
            "healthcheck", "stop_grace_period", "read_only", "tmpfs",
            "cap_drop", "security_opt",
        }  # fmt: skip
        if "build" in service:
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).samefile(
                DEPLOY / "Dockerfile"
            )
        for volume in service["volumes"]:
            if isinstance(volume, str):
                source, target, mode = volume.split(":")
                assert mode == "ro"
            else:
                source, target = volume["source"], volume["target"]
                assert volume["type"] == "bind" and volume["read_only"]
                assert volume["bind"] == {"create_host_path": False}
            assert source.startswith("../saved_models")
            assert (DEPLOY / "../saved_models").is_dir()
            assert target.startswith("/models")
        for port in service["ports"]:
            address, host, container = port.split(":")
            assert address == "127.0.0.1"
            ports.append(int(host))
            assert int(container) in (8500, 8501)
    assert len(set(ports)) == len(ports)


def test_image_compose_and_default_use_the_same_port():
    (_, *arguments), exposed = entry_point()
    assert not any(argument.startswith("--port") for argument in arguments)
    assert exposed == configs.ServeConfig().port
    [compose] = documents("compose.yaml")
    service = compose["services"]["stacked-rnn"]
    assert [port.split(":")[2] for port in service["ports"]] == [str(exposed)]
    assert f":{exposed}/readyz" in service["healthcheck"]["test"][-1]


def is_ignored(path):
    """Whether .dockerignore leaves a path out: the last pattern decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!"))
        for wildcard, meaning in (
            (r"\*\*/", "(.*/)?"), (r"\*", "[^/]*"),
        ):  # fmt: skip
            pattern = pattern.replace(wildcard, meaning)
        if re.fullmatch(f"{pattern}(/.*)?", path):
            ignored = not line.startswith("!")
    return ignored


def test_the_image_has_what_its_installation_needs():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    options = setup["options"]
    needed = ["setup.cfg", "pyproject.toml", setup["metadata"]["license_files"]]
    needed.append(setup["metadata"]["long_description"].removeprefix("file: "))
    assert options["packages"] == "find:" and len(needed) == 4
    for init in (ROOT / "stacked_rnn").rglob("__init__.py"):
        directory = init.parent
        package = ".".join(directory.relative_to(ROOT).parts)
        found = [*directory.glob("*.py")]
        data = setup["options.package_data"].get(package, "")
        found += [path for one in data.split() for path in directory.glob(one)]
        assert found
        needed += [str(path.relative_to(ROOT)) for path in found]
    assert "stacked_rnn/serving/playground.html" in needed
    for path in needed:
        assert (ROOT / path).exists() and not is_ignored(path), path


def test_the_image_has_nothing_else():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for path in (
        *(path for path in tracked if "/" in path),
        ".git/config", ".venv/bin/python", "runs/pydoc/config.flags",
        "saved_models/pydoc/1/saved_model.pb", "keys.txt", "keys", ".env",
        "build/lib/train.py", "stacked_rnn.egg-info/PKG-INFO", "mine.txt",
        "stacked_rnn/__pycache__/layers.cpython-312.pyc",
        "stacked_rnn/serving/__pycache__/app.cpython-312.pyc",
    ):  # fmt: skip
        is_source = path.startswith("stacked_rnn/") and "__pycache_" not in path
        assert is_ignored(path) != is_source, path


# nginx, Prometheus and Grafana ------------------------------------------------


def test_nginx_waits_longer_than_the_server_and_keeps_no_connection_longer():
    """rolling_test.py tries whether it works."""
    text = (DEPLOY / "nginx.conf").read_text()

    def value(name):
        found = re.search(rf"^ +{name} (\d+)(s|k);", text, re.M)
        return int(found[1])

    config = configs.ServeConfig()
    assert value("proxy_read_timeout") > config.request_seconds
    assert value("client_max_body_size") * 1024 > config.max_body_bytes
    # The first one is that of the upstream, the other that of clients.
    assert value("keepalive_timeout") < 75
    assert f"127.0.0.1:{config.port} " in text


@pytest.fixture(scope="module")
def exposed():
    """Maps the metrics of a server with one model to their labels."""

    class Scheduler:
        num_waiting = num_active = max_waiting = num_slots = 0
        prefixes = prefix_cache.PrefixCache(0)
        is_compiled = threading.Event()

    class Served:
        name, version, scheduler = "letters", 1, Scheduler

    made = metrics.Metrics([Served])
    own = made.of("letters")
    sequence = scheduler.Sequence(b"a", [1], configs.SamplingConfig())
    sequence.continuation = incremental_text.Continuation("", 0)
    sequence.arrival_time = sequence.slot_time = time.monotonic()
    sequence.first_token_time = time.monotonic()
    sequence.token_ids = [1, 2]
    own.finished(sequence, "length")
    own.prompt(2, 1)
    for note in (own.generated, own.first_token, own.between, own.predicted):
        note(1)
    made.requests.labels("/", 200, "letters").inc()
    made.seconds.labels("/").observe(1)
    return {
        sample.name: {*sample.labels, "instance"}
        for family in parser.text_string_to_metric_families(
            made.exposition()[0].decode()
        )
        for sample in family.samples
    }


def assert_expression_is_right(expression, exposed):
    """Checks that its metrics exist and have the labels it uses."""
    names = set(re.findall(r"\b(?:stacked_rnn|process)_\w+", expression))
    assert names and names <= exposed.keys(), expression
    for name, selector in re.findall(r"\b(\w+)\{(.*?)\}", expression):
        asked = re.findall(r"(\w+)=", selector)
        assert asked and {*asked} <= exposed[name], expression
    common = set.intersection(*(exposed[name] for name in names))
    for labels in re.findall(r"\bby \((.*?)\)", expression):
        assert {*labels.split(", ")} <= common, expression
    for opened, closed in ("()", "{}", "[]"):
        assert expression.count(opened) == expression.count(closed)


needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the metrics of a process need /proc"
)


@needs_proc
def test_the_dashboard_draws_what_the_server_exposes(exposed):
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    assert dashboard["schemaVersion"] >= 38  # of Grafana 10
    assert dashboard["title"] and dashboard["uid"] and dashboard["id"] is None
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("model_name", "instance"):
        asked = variables[name]["query"]["query"]
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", asked)
        assert found[2] == name and name in exposed[found[1]]
    rows, titles = [], []
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows.append(panel["title"])
            continue
        titles.append((rows[-1], panel["title"]))
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"] and panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert_expression_is_right(target["expr"], exposed)
            known = {"datasource", "__rate_interval", *variables}
            assert {*re.findall(r"\$(\w+)", target["expr"])} <= known
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for labels in re.findall(r"by \((.*?)\)", target["expr"]):
                assert shown <= {*labels.split(", ")}, target
    assert rows == [
        "Traffic", "Latency", "Throughput", "Slots and queue",
        "Finish reasons", "Process", "Models and versions",
    ]  # fmt: skip
    assert {row for row, _ in titles} == {*rows}
    assert len({*titles}) == len(titles)


def test_the_panels_of_the_dashboard_lie_side_by_side():
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert cells and not cells & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    # Row by row, without a gap.
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


@needs_proc
def test_alerts_ask_for_what_the_server_exposes(exposed):
    [rules] = documents("alerts.yaml")
    [group] = rules["groups"]
    assert len(group["rules"]) >= 4
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert_expression_is_right(rule["expr"], exposed)
        kept = re.findall(r"by \((.*?)\)", rule["expr"])
        for label in re.findall(
            r"\$labels\.(\w+)", rule["annotations"]["summary"]
        ):
            for labels in kept:
                assert label in labels.split(", ")
            assert kept or all(
                label in exposed[name]
                for name in re.findall(r"stacked_rnn_\w+", rule["expr"])
            )


# Slurm ------------------------------------------------------------------------


SRUN = """#!/bin/bash
# Two tasks on this machine, with the variables that Slurm sets for each.
[[ "$1 $2" == "--kill-on-bad-exit=1 --cpus-per-task=3" ]] || exit 64
shift 2
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2
export SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=0 "$@" &
first=$!
SLURM_PROCID=1 "$@" &
wait $! && wait $first
"""


def run_slurm_script(directory, *flags, program=""):
    """Runs slurm.sh with a stand-in for `srun` and for the environment.

    Args:
        directory: to work in.
        *flags: of train.py.
        program: what runs train.py, if not Python alone.
    """
    (directory / ".venv/bin").mkdir(parents=True)
    for name, content in (
        ("activate", f"PATH={directory}/.venv/bin:$PATH\n"),
        ("srun", SRUN),
        ("python", f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n'),
    ):
        path = directory / ".venv/bin" / name
        path.write_text(content)
        path.chmod(0o755)
    (directory / "train.py").symlink_to(ROOT / "train.py")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TF_CONFIG" and not name.startswith("SLURM_")
    }
    return subprocess.run(
        [DEPLOY / "slurm.sh", *flags],
        cwd=directory,
        env=environment
        | {"SLURM_JOB_NAME": "cats", "SLURM_CPUS_PER_TASK": "3"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_slurm_script_is_bash():
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True)
    assert os.access(DEPLOY / "slurm.sh", os.X_OK)


def test_slurm_script_trains_and_exports(tmp_path):
    for port in SLURM_PORTS:
        try:
            socket.create_server(("", port)).close()
        except OSError:
            pytest.skip(f"port {port}, of a task under Slurm, is in use here")
    (tmp_path / "cats.txt").write_text(TEXT)
    ended = run_slurm_script(tmp_path, *FLAGS, "--epochs=1", program=IN_MEMORY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "On 2 devices: " in ended.stdout
    for index in range(2):
        assert f"worker {index}: waiting for all of localhost:" in ended.stderr
    assert (tmp_path / "runs/cats/history.csv").exists()
    exported = tmp_path / "saved_models/cats/1/saved_model.pb"
    assert exported.exists()


def test_slurm_script_fails_where_training_does(tmp_path):
    ended = run_slurm_script(tmp_path, "--unitz=3")
    assert ended.returncode not in (0, 64)
    assert "unitz" in ended.stderr + ended.stdout
