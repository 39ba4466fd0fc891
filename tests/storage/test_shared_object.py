"""Machines that share nothing but a bucket lose no run: a real S3 API decides who was first."""

import subprocess
import sys

import pytest
from moto.server import ThreadedMotoServer

from storage import database_file, shared_object
from storage.errors import UnreachableError, UserError
from storage.results import merge, query, rebuild
from storage.shared_object import SharedObject
from tasks.retries import waiting_helps
from tests.storage.test_results import probe_rows

WRITERS, RUNS = 4, 25

# As on a machine of its own: with a cache, and so a lock, that no other process has.
WRITER = f"""
import sys
from storage.results import merge
from tests.storage.test_results import probe_rows

database, name = sys.argv[1:]
for number in range({RUNS}):
    merge(database, f"{{name}}-{{number:02d}}", {{"probe": probe_rows(f"{{name}}-{{number:02d}}")}})
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """And with it locks of its own: every test's bucket has the same name."""
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))


def test_writers_of_one_bucket_lose_nothing(bucket, tmp_path, monkeypatch):
    uri, _ = bucket
    database = f"{uri}/results.duckdb"
    writers = []
    for name in "abcd"[:WRITERS]:
        monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / name))
        command = [sys.executable, "-c", WRITER, database, name]
        writers.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for writer in writers:
        _, error = writer.communicate(timeout=500)
        assert writer.returncode == 0, error
    found = query(database, "SELECT run_id, count(*) AS rows FROM probe GROUP BY ALL ORDER BY ALL")
    assert found["run_id"].to_list() == [f"{name}-{run:02d}" for name in "abcd" for run in range(RUNS)]
    assert found["rows"].unique().to_list() == [2]


def test_who_was_slower_merges_into_what_the_faster_one_wrote(bucket, monkeypatch):
    database = f"{bucket[0]}/results.duckdb"
    read = SharedObject.read
    others = iter(["b", "c"])

    def read_and_be_overtaken(self):
        found = read(self)
        if (other := next(others, None)) is not None:
            monkeypatch.setattr(SharedObject, "read", read)
            overtake(database, other)
            monkeypatch.setattr(SharedObject, "read", read_and_be_overtaken)
        return found

    monkeypatch.setattr(SharedObject, "read", read_and_be_overtaken)
    monkeypatch.setattr(database_file, "LOST_SECONDS", 0.0)
    merge(database, "a", {"probe": probe_rows("a")})
    assert next(others, None) is None
    assert runs_in(database) == ["a", "b", "c"]


def test_a_rebuild_that_was_overtaken_reads_the_runs_again(bucket, monkeypatch):
    database = f"{bucket[0]}/results.duckdb"
    merge(database, "a", {"probe": probe_rows("a")})
    staged = [["a"], ["a", "b"]]
    asked = []

    def runs():
        names = staged[len(asked)]
        asked.append(names)
        if len(asked) == 1:
            overtake(database, "b")
        return [(name, {"probe": probe_rows(name)}) for name in names]

    monkeypatch.setattr(database_file, "LOST_SECONDS", 0.0)
    rebuild(database, runs)
    assert asked == staged
    assert runs_in(database) == ["a", "b"]


def test_who_never_is_first_is_told_after_a_while(bucket, monkeypatch):
    database = f"{bucket[0]}/results.duckdb"
    monkeypatch.setattr(SharedObject, "replace", lambda *_: False)
    monkeypatch.setattr(database_file, "WRITER_SECONDS", 0.5)
    with pytest.raises(UserError, match="Other machines have been faster"):
        merge(database, "a", {"probe": probe_rows("a")})


def test_an_object_is_replaced_only_as_it_was_read(bucket, tmp_path):
    shared = SharedObject(f"{bucket[0]}/object")
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    content, absent = shared.read()
    assert content is None
    assert shared.replace(one, absent)
    assert not shared.replace(two, absent)
    content, first = shared.read()
    assert content == b"one"
    assert shared.replace(two, first)
    assert not shared.replace(one, first)
    assert shared.read()[0] == b"two"


def test_a_store_out_of_reach_is_named_and_asked_again(monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    server.stop()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setitem(shared_object.RETRIES, "max_retries", 0)
    said = r"s3://layers/results.duckdb could not be read: .*AWS_ENDPOINT_URL"
    with pytest.raises(UnreachableError, match=said) as failed:
        SharedObject("s3://layers/results.duckdb").read()
    assert waiting_helps(failed.value)  # it may be back when a task is tried again


def test_keys_that_only_boto3_can_read_are_told_before_any_work(tmp_path, monkeypatch):
    for name in shared_object.CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    assert shared_object._credentials() is not None  # boto3 is here
    monkeypatch.setattr(shared_object.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'layerscout\[s3\]'"):
        shared_object._credentials()
    keys.unlink()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(keys))
    assert shared_object._credentials() is None  # a role, perhaps: obstore asks for it


def overtake(database: str, run_id: str) -> None:
    """Merge a run as another machine would, whose lock is another."""
    taken = database_file._writer_lock
    database_file._writer_lock = lambda _: taken(f"s3://elsewhere/{run_id}")
    try:
        merge(database, run_id, {"probe": probe_rows(run_id)})
    finally:
        database_file._writer_lock = taken


def runs_in(database: str) -> list[str]:
    return query(database, "SELECT DISTINCT run_id FROM probe ORDER BY ALL")["run_id"].to_list()
