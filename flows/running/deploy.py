"""Registering the deployments: work pools, concurrency limits, and what deployments/prefect.yaml describes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.running.limits import DATABASE, GPU
from flows.running.progress import console
from storage.errors import UserError

# Task runs with a tag that run at once on this server. `prefect gcl update` raises one: as many GPUs, as many places.
CONCURRENCY_LIMITS = {f"tag:{GPU}": 1, f"tag:{DATABASE}": 1}
PROCESS_POOL = "layerscout-process"
# Where a cluster's pods store; a placeholder that fails with a clear message until it is set.
CLUSTER_STORAGE = "s3://name-your-bucket/layerscout"


def register(file: Path, storage: str) -> None:
    """Create or update all of it on the server that is configured in this process.

    Work pools are described beside `file`: `docker-pool.json` is the base job template of `layerscout-docker`.

    Raises:
        UserError: no such file, or Prefect refused what it says.
    """
    if not file.is_file():
        raise UserError(f"There is no {file}: `layerscout deploy` is run from the repository's folder.")
    _create_pools(file.parent)
    with get_client(sync_client=True) as client:
        for name, limit in CONCURRENCY_LIMITS.items():
            client.upsert_global_concurrency_limit_by_name(name, limit)
            console.print(f"Concurrency limit {name}: {limit}")
    local = storage if "://" in storage else str(Path(storage).absolute())
    environment = os.environ | {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "LAYERSCOUT_STORAGE": local,
        "LAYERSCOUT_CLUSTER_STORAGE": os.environ.get("LAYERSCOUT_CLUSTER_STORAGE") or CLUSTER_STORAGE,
    }
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    if subprocess.run(command, env=environment, check=False).returncode:
        raise UserError(f"Prefect did not take {file}; what it said stands above.")


def _create_pools(folder: Path) -> None:
    """The pool of processes, and one for each base job template in a folder."""
    pools = {PROCESS_POOL: ("process", ProcessWorker.get_default_base_job_template())}
    for file in sorted(folder.glob("*-pool.json")):
        kind = file.name.removesuffix("-pool.json")
        pools[f"layerscout-{kind}"] = (kind, json.loads(file.read_text()))
    with get_client(sync_client=True) as client:
        for name, (kind, template) in pools.items():
            wanted = WorkPoolCreate(name=name, type=kind, base_job_template=template)
            client.create_work_pool(wanted, overwrite=True)
            console.print(f"Work pool {name}: {kind}")
