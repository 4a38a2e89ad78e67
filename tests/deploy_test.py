"""The files in deploy/ fit Kubernetes, Docker, Slurm and our own flags."""

import dataclasses
import os
import re
import socket
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from stacked_rnn import configs
from tests.distributed_test import FLAGS, ROOT, TEXT
from tests.forked import assert_flags_are_parsed

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
    """Every pod template of the manifests, with a name for it."""
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
    assert kinds == ["Deployment", "Service"] * 2


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("template", by_name(pod_templates()))
def test_pod_templates_fit_the_schema(template, version):
    """That of the TFJob, too, whose own kind is not Kubernetes'."""
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
def test_probes_ask_a_port_that_is_open(container):
    ports = {port["containerPort"] for port in container.get("ports", ())}
    for name, probe in container.items():
        if name.endswith("Probe"):
            [kind] = probe.keys() & {"httpGet", "tcpSocket"}
            assert probe[kind]["port"] in ports


def test_services_find_their_pods():
    deployments, services = (
        {d["metadata"]["name"]: d["spec"] for d in found}
        for found in (
            documents("serving.yaml")[::2],
            documents("serving.yaml")[1::2],
        )
    )
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


def test_the_job_is_one_of_the_training_operator():
    """By its documentation: there is no schema of it to check with."""
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
        # Exit code 2 must bring a worker back: ExitCode would give up.
        assert replica["restartPolicy"] in ("OnFailure", "Always")
        # The operator sets TF_CONFIG in the container of this name.
        names = [c["name"] for c in replica["template"]["spec"]["containers"]]
        assert names == ["tensorflow"]


# Flags ------------------------------------------------------------------------


def test_the_commands_of_the_manifests_are_parsed():
    commands = [
        container["command"]
        for _, container in containers()
        if "command" in container
    ]
    assert [command[:2] for command in commands] == [["python", "train.py"]]
    for _, script, *arguments in commands:
        assert_flags_are_parsed(script, arguments)


def test_the_command_of_the_image_is_parsed_with_all_that_is_added():
    (command, *arguments), _ = entry_point()
    setup = (ROOT / "setup.cfg").read_text()
    assert f"\n    {command} = serve:run\n" in setup
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
        ("Dockerfile", SERVE_FLAGS),
    ],
)
def test_flags_that_are_named_exist(name, known):
    text = (DEPLOY / name).read_text()
    if name == "slurm.sh":  # sbatch and srun have flags of their own
        text = re.sub("^#SBATCH.*", "", text, flags=re.M)
        text = text.replace("--kill-on-bad-exit=1", "")
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
    assert pods["terminationGracePeriodSeconds"] > drain_seconds
    grace = compose["stop_grace_period"]
    assert grace.endswith("s") and int(grace[:-1]) > drain_seconds


# Docker -----------------------------------------------------------------------


def test_compose_builds_and_runs_what_is_there():
    [compose] = documents("compose.yaml")
    assert compose.keys() == {"services"}
    ports = []
    for service in compose["services"].values():
        assert len(service.keys() & {"image", "build"}) == 1
        assert service.keys() <= {
            "image", "build", "ports", "volumes", "environment", "command",
            "healthcheck", "stop_grace_period",
        }  # fmt: skip
        if "build" in service:
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).samefile(
                DEPLOY / "Dockerfile"
            )
        for volume in service["volumes"]:
            source, target, mode = volume.split(":")
            assert source.startswith("../saved_models")
            assert (DEPLOY / "../saved_models").is_dir()
            assert target.startswith("/models") and mode == "ro"
        for port in service["ports"]:
            address, host, container = port.split(":")
            assert address == "127.0.0.1"
            ports.append(int(host))
            assert int(container) in (8500, 8501)
    assert len(set(ports)) == len(ports)


def test_one_port_in_the_image_in_compose_and_by_default():
    (_, *arguments), exposed = entry_point()
    assert not any(argument.startswith("--port") for argument in arguments)
    assert exposed == configs.ServeConfig().port
    [compose] = documents("compose.yaml")
    service = compose["services"]["stacked-rnn"]
    assert [port.split(":")[2] for port in service["ports"]] == [str(exposed)]
    assert f":{exposed}/readyz" in service["healthcheck"]["test"][-1]


# Slurm ------------------------------------------------------------------------


SRUN = """#!/bin/bash
# Two tasks on this machine, with the variables that Slurm sets for each.
[[ $1 == --kill-on-bad-exit=1 ]] || exit 64
shift
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2
export SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=0 "$@" &
first=$!
SLURM_PROCID=1 "$@" &
wait $! && wait $first
"""


def run_slurm_script(directory, *flags):
    """Runs slurm.sh where `srun` and an environment are stood in for."""
    (directory / ".venv/bin").mkdir(parents=True)
    for name, content in (
        ("activate", f"PATH={directory}/.venv/bin:$PATH\n"),
        ("srun", SRUN),
        ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
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
        cwd=directory, env=environment | {"SLURM_JOB_NAME": "cats"},
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
    ended = run_slurm_script(tmp_path, *FLAGS, "--epochs=1")
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
