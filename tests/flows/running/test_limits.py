"""Prefect's limits on the tags of task runs are kept by a sweep."""

import subprocess
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.running.deploy import CONCURRENCY_LIMITS
from flows.running.limits import DATABASE, GPU, on_device
from tasks.embedding.embedding_set import embed_shard_task
from tests.flows.conftest import COMMAND, wait_for


def test_a_sweep_waits_for_its_place_at_the_database(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str, served: dict[str, str]
) -> None:
    limit = f"tag:{DATABASE}"
    arguments = ["sweep", "--model", f"path:{tiny_model}", "--dataset", f"path:{tiny_dataset}"]
    database = tmp_path / "results.duckdb"
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as client:
        running: subprocess.Popen[bytes] | None = None
        client.upsert_global_concurrency_limit_by_name(limit, CONCURRENCY_LIMITS[limit])
        try:
            with concurrency(limit):
                running = subprocess.Popen([*COMMAND, *arguments, "--storage", str(tmp_path)], env=served)
                # The audit is the last step before the merge.
                wait_for(lambda: list(tmp_path.glob("staged/*/audit/*")))
                time.sleep(5)
                assert running.poll() is None
                assert not database.exists()
            assert running.wait(120) == 0
            assert database.exists()
        finally:
            if running is not None:
                running.kill()
            client.delete_global_concurrency_limit_by_name(limit)


@pytest.mark.parametrize(("device", "tags"), [("cpu", set()), ("cuda", {GPU}), ("cuda:1", {GPU})])
def test_embedding_takes_a_place_at_a_gpu_where_it_uses_one(
    device: str, tags: set[str], prefect_server: str
) -> None:
    limit = f"tag:{GPU}"
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as client:
        assert on_device(embed_shard_task, device).tags == set()
        client.upsert_global_concurrency_limit_by_name(limit, CONCURRENCY_LIMITS[limit])
        try:
            assert on_device(embed_shard_task, device).tags == tags
        finally:
            client.delete_global_concurrency_limit_by_name(limit)
