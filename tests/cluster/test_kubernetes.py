"""The Kubernetes job without a Kubernetes: its file against the API's own schema, and what its pods run, on two hosts.

A pod's part is played by a host that runs the container's command as the file has it, with the pod's index and the
name of pod 0, again and again while it fails, as kubelet does under `restartPolicy: OnFailure`. A pod that is lost is
killed with all its processes and started anew, as the job controller does. Changed for it are what a cluster has and a
test has not: four nodes to two, `gpu` to one process, the volume to a folder.

python -m pytest tests/cluster -m cluster -v                    kubernetes-validate is only in this file: pip install it
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
JOB = ROOT / "launch" / "train-kubernetes.yaml"
POD_0 = "triptych-semantic-0.triptych-semantic"
KUBELET = 'until bash -c "$0"; do echo "--- again after exit code $?"; sleep 1; done'


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two = load("test_cluster")
shards = two.shards


def on_hosts(test: Any) -> Any:
    """Minutes, for root: with the marks of the other tests on hosts."""
    for mark in two.pytestmark:
        test = mark(test)
    return test


def documents() -> list[dict[str, Any]]:
    """The service and the job of the semantic stage, as the file's first line makes them."""
    return list(yaml.safe_load_all(JOB.read_text().replace("STAGE", "semantic")))


@pytest.fixture
def cluster(tmp_path: Path, shards: Path) -> Iterator[Any]:
    """Two hosts that know pod 0 by its name."""
    names = [Path("/etc/netns") / name for name in two.hosts.NAMES]
    (tmp_path / "ssh").mkdir(mode=0o700)
    try:
        for folder in names:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{two.hosts.address(0)} {POD_0}\n")
        with two.hosts.TwoHosts(tmp_path / "ssh") as pair:
            yield two.Cluster(pair, tmp_path, shards)
    finally:
        for folder in names:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("document", range(2), ids=["service", "job"])
def test_the_api_knows_every_key(document: int) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    schemas.validate(documents()[document], schemas.latest_version(), strict=True)
    wrong = documents()[document] | {"specs": {}}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(wrong, schemas.latest_version(), strict=True)


def test_pods_find_each_other() -> None:
    """The names by which the script, the service and the pods' subdomain mean one another."""
    service, job = documents()
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"] == service["spec"]["selector"]["job-name"]
    assert service["spec"]["clusterIP"] == "None" and job["metadata"]["name"] == pod["subdomain"]
    script = pod["containers"][0]["args"][0]
    assert f"--master-addr {POD_0} " in script
    assert (
        f"--nnodes {job['spec']['completions']} " in script and job["spec"]["parallelism"] == job["spec"]["completions"]
    )


def start(cluster: Any, host: int, steps: int) -> Any:
    """The pod of this index."""
    (container,) = documents()[1]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    folder = f"{cluster.home}/run"
    for was, now in (("--nnodes 4", "--nnodes 2"), ("node gpu", "node 1"), ("/shared/runs/semantic", folder)):
        assert was in script
        script = script.replace(was, now)
    script = script.replace("/shared/shards", str(cluster.shards)).rstrip()
    script = " ".join([script, *two.SMALL, f"training.max_steps={steps}"])
    own = {"PATH": cluster.path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    own["JOB_COMPLETION_INDEX"] = str(host)
    return cluster.pair.start(host, ["bash", "-c", KUBELET, script], own, cluster.log(host))


@on_hosts
def test_the_job_trains_and_goes_on(cluster: Any) -> None:
    for last in (4, 6):
        pods = [start(cluster, host, last) for host in (0, 1)]
        assert set(cluster.finish(pods)) == {0}, cluster.everything()
        assert cluster.latest() == last
    assert list(cluster.losses()) == [1, 2, 3, 4, 5, 6]


@on_hosts
@pytest.mark.parametrize("lost", [0, 1])
def test_a_pod_that_is_lost_comes_back_and_all_go_on(cluster: Any, lost: int) -> None:
    """Lost with all that it runs; pod 0 takes the meeting point along, and leaves the run's lock behind."""
    pods = [start(cluster, host, 1_000_000) for host in (0, 1)]
    cluster.wait_for_step(6)
    two.hosts.kill(pods[lost])
    at = cluster.latest()
    pods[lost] = start(cluster, lost, 1_000_000)
    cluster.wait_for_step(at + 6)
    assert "--- again after exit code" in cluster.said(1 - lost), (
        cluster.everything()
    )  # the other gave up, and came back
    for pod in pods:
        two.hosts.kill(pod)
    steps = list(cluster.losses())
    assert steps == list(range(1, len(steps) + 1)), steps
