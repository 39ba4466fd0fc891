"""The configuration of deployments, as far as it can be checked without Docker and without a cluster.

Job variables go through the job configurations of Prefect's own Docker and Kubernetes workers, a container's settings
through the Docker client's types, and the manifest of a pod through the API schema of Kubernetes.
"""

import asyncio
import json
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import kubernetes_validate
import pytest
import yaml
from docker.types import HostConfig
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.importtools import import_object
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from flows.grid_parameters import GridParameters, read_grid
from flows.parameters import SweepParameters
from flows.search_parameters import SearchParameters

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
FILE = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
DEPLOYMENTS = {each["name"]: each for each in FILE["deployments"]}
# Versions of Kubernetes whose API schema the manifest has to meet.
KUBERNETES = ("1.30", "1.34", "1.37")


def template(kind: str) -> Any:
    return json.loads((FOLDER / f"{kind}-pool.json").read_text())


def of_pool(kind: str) -> list[str]:
    return [name for name, each in DEPLOYMENTS.items() if each["work_pool"]["name"] == f"layerscout-{kind}"]


def configured(kind: str, worker: Any, name: str, api: str) -> Any:
    """The job of a deployment's run, as a worker of the pool would start it."""
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="wheel:minilm-l6 × wheel:election-tweets")
    variables = DEPLOYMENTS[name]["work_pool"]["job_variables"]
    jsonschema.validate(variables, template(kind)["variables"])
    with temporary_settings({PREFECT_API_URL: api}):
        job = asyncio.run(worker.from_template_and_values(template(kind), variables))
        job.prepare_for_flow_run(run)
    return job


def test_the_image_has_all_that_is_packed() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    parts = [f"{each}.py" for each in packed["py-modules"]]
    parts += sorted(
        {each.partition(".")[0].removesuffix("*") for each in packed["packages"]["find"]["include"]}
    )
    let_in = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    copied = " ".join(
        line for line in (FOLDER / "Dockerfile").read_text().splitlines() if line.startswith("COPY")
    )
    assert [each for each in parts if f"!{each}" not in let_in or each not in copied.split()] == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_are_ones_that_the_flow_takes(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = import_object(deployment["entrypoint"])
    model = {"layer-sweep": SweepParameters, "search": SearchParameters, "grid": GridParameters}[flow.name]
    model(**deployment["parameters"]["parameters"])


def test_the_papers_grid_is_that_of_its_file() -> None:
    grid = GridParameters(**DEPLOYMENTS["paper"]["parameters"]["parameters"])
    assert grid == read_grid(str(FOLDER / "paper.yaml"), storage=grid.storage)


def test_the_file_names_prefects_pinned_version_and_holds_no_secret() -> None:
    assert FILE["prefect-version"] == version("prefect")
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert not re.search(r"(hf_|AKIA|ghp_)\w{8}|(password|token|secret)\w*['\"]?\s*[:=]\s*\w{12}", text)
    placeholders = set(re.findall(r"{{ *([^}]*?) *}}", (FOLDER / "prefect.yaml").read_text()))
    assert placeholders == {"$LAYERSCOUT_STORAGE", "$LAYERSCOUT_CLUSTER_STORAGE"}


@pytest.mark.parametrize("worker", [DockerWorker, KubernetesWorker], ids=lambda worker: worker.type)
def test_a_pool_is_prefects_own_with_more_variables_and_other_defaults(worker: Any) -> None:
    ours, theirs = template(worker.type), worker.get_default_base_job_template()
    assert set(ours["variables"]["properties"]) >= set(theirs["variables"]["properties"])
    assert set(ours["job_configuration"]) == set(theirs["job_configuration"])
    named = set(re.findall(r"{{ (\w+) }}", json.dumps(ours["job_configuration"])))
    assert named == set(ours["variables"]["properties"])


@pytest.mark.parametrize("name", of_pool("docker"))
def test_a_container_is_one_that_docker_takes(name: str, prefect_server: str) -> None:
    job = configured("docker", DockerWorkerJobConfiguration, name, prefect_server)
    host = HostConfig(version="1.44", binds=job.volumes, **(job.container_create_kwargs or {}))
    assert host["Binds"] == ["layerscout-storage:/storage", "layerscout-cache:/cache"]
    requests = host.get("DeviceRequests", [])
    assert [each["Capabilities"] for each in requests] == ([[["gpu"]]] if "gpu" in name else [])
    assert job.image.endswith("-cuda") == ("gpu" in name)
    assert not job.privileged


@pytest.mark.parametrize("name", of_pool("kubernetes"))
def test_a_pod_meets_the_schema_of_kubernetes(name: str, prefect_server: str) -> None:
    job = configured("kubernetes", KubernetesWorkerJobConfiguration, name, prefect_server)
    for desired in KUBERNETES:
        kubernetes_validate.validate(job.job_manifest, desired)
    pod = job.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["envFrom"] == [{"secretRef": {"name": "layerscout", "optional": True}}]
    assert "LAYERSCOUT_STORAGE" in {each["name"] for each in container["env"]}
    assert pod["securityContext"]["runAsNonRoot"]
    broken = json.loads(json.dumps(job.job_manifest))
    broken["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0])


@pytest.mark.parametrize(
    "wrong", [{"gpu_count": -1}, {"gpu_count": "one"}, {"image_pull_policy": "Sometimes"}]
)
def test_a_pool_refuses_wrong_variables(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, template("kubernetes")["variables"])


def test_the_image_is_pinned_runs_as_nobody_special_and_copies_what_is_there() -> None:
    lines = re.sub(r"\\\n", "", (FOLDER / "Dockerfile").read_text()).splitlines()
    said = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    words = [(name, rest) for name, rest in said if name.isupper()]
    arguments = dict(rest.partition("=")[::2] for name, rest in words if name == "ARG")
    assert set(arguments) == {"PYTHON_IMAGE", "DEVICE", "TORCH_INDEX"}
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert [rest for name, rest in words if name == "USER"] == ["10001:10001"]
    pods = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pods["securityContext"]["runAsUser"] == 10001
    let_in = {line.strip("!") for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()}
    sources = [each for name, rest in words if name == "COPY" for each in shlex.split(rest)[:-1]]
    assert {each for each in sources if not (ROOT / each).exists()} == set()
    assert set(sources) <= let_in
    for command in (rest for name, rest in words if name == "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
        assert command.count("pip install") == command.count("pip install --constraint constraints.txt")
