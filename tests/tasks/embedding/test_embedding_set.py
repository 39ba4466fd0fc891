"""Each shard is computed once, whole, by one run, in the memory that there is."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock, Timeout

from storage.embeddings import read_layer, write_shard
from storage.errors import UserError
from storage.layout import Layout
from storage.manifest import read_manifest, write_manifest
from tasks.data.dataset import prepare_dataset
from tasks.data.stored_table import read_table
from tasks.embedding import embedding_set, loading
from tasks.embedding.embed import embed_tokens
from tasks.embedding.embedding_set import embed_shard, recorded_shards, using_embeddings
from tasks.embedding.model import load_model
from tasks.embedding.row_tokens import tokens_of_rows
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.shards import Shard
from tasks.machine import device_lock, hold
from tests.tasks.embedding.conftest import SETTINGS, Planned


def test_a_shard_reads_no_rows_but_its_own(planned: Planned, tmp_path: Path) -> None:
    layout, found, dataset, model = planned
    texts = read_table(dataset.uri)
    texts.write_parquet(dataset.uri, row_group_size=60)
    shard = Shard(index=0, start=120, stop=240, tokens=0)
    expected = embed_shard(Layout(str(tmp_path / "whole")), found, shard, dataset, model, SETTINGS)
    groups = pq.ParquetFile(dataset.uri).metadata
    damaged = bytearray(Path(dataset.uri).read_bytes())
    for group in (0, 1, 4, 5):
        for column in range(groups.num_columns):
            chunk = groups.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            damaged[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    Path(dataset.uri).write_bytes(damaged)
    with pytest.raises(OSError, match="page"):
        read_table(dataset.uri)
    done = embed_shard(layout, found, shard, dataset, model, SETTINGS)
    assert Path(done.uri).read_bytes() == Path(expected.uri).read_bytes()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_budget_once_and_the_record_says_so(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    layout, found, dataset, model = planned
    budgets: list[int] = []

    def small_memory(*arguments: Any, token_budget: int, **named: Any) -> Any:
        budgets.append(token_budget)
        if token_budget > found.token_budget // 2:
            raise error
        return embed_tokens(*arguments, token_budget=token_budget, **named)

    monkeypatch.setattr(embedding_set, "embed_tokens", small_memory)
    embed_shard(layout, found, found.shards[0], dataset, model, SETTINGS)
    assert budgets == [found.token_budget, found.token_budget // 2]
    assert read_manifest(layout.shard_record(found.id, 0))["token_budget"] == found.token_budget // 2
    stored = read_layer([layout.shard(found.id, 0)], layer=3, norm_state="as_returned", pooling="mean")
    assert stored.embeddings.shape == (360, 32)


def test_half_a_budget_too_many_is_an_error_in_words_and_other_errors_are_not_tried_again(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, found, dataset, model = planned
    calls: list[int] = []

    def fail(*_: Any, token_budget: int, **__: Any) -> Any:
        calls.append(token_budget)
        raise errors[0]

    errors: list[Exception] = [MemoryError()]
    monkeypatch.setattr(embedding_set, "embed_tokens", fail)
    with pytest.raises(UserError, match="--token-budget below"):
        embed_shard(layout, found, found.shards[0], dataset, model, SETTINGS)
    assert len(calls) == 2
    errors[0] = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        embed_shard(layout, found, found.shards[0], dataset, model, SETTINGS)
    assert len(calls) == 3


def test_a_shard_that_another_run_computed_while_this_one_waited_is_not_computed_again(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, found, dataset, model = planned
    arguments = (layout, found, found.shards[0], dataset, model, SETTINGS)
    own_lock = embedding_set.device_lock

    @contextmanager
    def lock_that_the_other_run_had(device: torch.device) -> Iterator[None]:
        monkeypatch.setattr(embedding_set, "device_lock", own_lock)
        assert not embed_shard(*arguments).reused
        with own_lock(device):
            yield

    monkeypatch.setattr(embedding_set, "device_lock", lock_that_the_other_run_had)
    assert embed_shard(*arguments).reused


def test_a_shard_is_tokenised_while_another_one_computes(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, found, dataset, model = planned
    tokenised = threading.Event()

    def tell(*arguments: Any) -> Any:
        tokens = tokens_of_rows(*arguments)
        tokenised.set()
        return tokens

    monkeypatch.setattr(embedding_set, "tokens_of_rows", tell)
    with ThreadPoolExecutor(1) as beside:
        with device_lock(torch.device("cpu")):
            embedding = beside.submit(embed_shard, layout, found, found.shards[0], dataset, model, SETTINGS)
            assert tokenised.wait(120)
            assert not embedding.done()
        assert not embedding.result().reused


def test_shards_of_one_process_are_computed_on_each_of_its_gpus_at_once(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, found, dataset, model = planned
    both = threading.Barrier(2)
    used = []

    def load_here(folder: str, dtype: str, device: str, **options: Any) -> Any:
        used.append(device)
        both.wait(120)
        return load_model(folder, dtype, "cpu", **options)

    alone = embed_shard(layout, found, found.shards[0], dataset, model, SETTINGS)
    monkeypatch.setattr(loading, "load_model", load_here)
    # Both are the one copy here, and so take turns.
    monkeypatch.setattr(embedding_set, "device_lock", lambda _: device_lock(torch.device("cpu")))
    hold(["cuda:0", "cuda:1"])
    try:
        with ThreadPoolExecutor(2) as threads:
            embedding = [
                threads.submit(
                    embed_shard,
                    Layout(str(tmp_path / name)),
                    found,
                    found.shards[0],
                    dataset,
                    model,
                    replace(SETTINGS, device="cuda"),
                )
                for name in "ab"
            ]
            uris = [each.result().uri for each in embedding]
    finally:
        hold(())
    assert sorted(used) == ["cuda:0", "cuda:1"]
    assert {Path(uri).read_bytes() for uri in uris} == {Path(alone.uri).read_bytes()}


def test_one_gpu_has_one_lock_by_whatever_name_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}")
    )
    for device in ("cuda", "cuda:1", "cuda:0"):
        with device_lock(torch.device(device)):
            pass
    # Of layers that are spread all are held, in one order whatever theirs is; one that is named twice is no second one.
    with device_lock(torch.device("cuda:1"), torch.device("cuda:0"), torch.device("cuda")):
        for index in range(2):
            with pytest.raises(Timeout):
                FileLock(tmp_path / "locks" / f"gpu-uuid-{index}.lock").acquire(timeout=0)
    assert sorted(each.name for each in (tmp_path / "locks").iterdir()) == [
        "gpu-uuid-0.lock",
        "gpu-uuid-1.lock",
    ]


def test_embeddings_that_another_run_reads_are_left_to_it(planned: Planned, tmp_path: Path) -> None:
    layout, found, dataset, model = planned
    shard = embed_shard(layout, found, found.shards[0], dataset, model, SETTINGS)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import fcntl, sys; f = open({str(tmp_path / 'cache' / 'locks' / f'use-{found.id}.lock')!r}, 'w')\n"
            "fcntl.flock(f, fcntl.LOCK_SH); print('reading', flush=True); sys.stdin.readline()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    with using_embeddings(found.id) as delete:
        assert not delete([shard.uri])
        assert Path(shard.uri).exists()
        reader.communicate("done\n")
        assert delete([shard.uri])
    assert not Path(shard.uri).exists()


def test_a_shard_is_computed_again_unless_record_rows_and_labels_hold(planned: Planned) -> None:
    layout, found, dataset, model = planned
    arguments = (layout, found, found.shards[0], dataset, model, SETTINGS)
    uri, record = (Path(each) for each in (layout.shard(found.id, 0), layout.shard_record(found.id, 0)))
    embed_shard(*arguments)
    assert embed_shard(*arguments).reused
    assert recorded_shards(layout, found) is not None
    whole, recorded = uri.read_bytes(), read_manifest(str(record))
    for junk in ({}, recorded | {"seconds": None}, recorded | {"rows": 3}):
        write_manifest(str(record), junk)
        assert recorded_shards(layout, found) is None
        assert not embed_shard(*arguments).reused
        assert uri.read_bytes() == whole
    # As a shard of 0.1.0, which kept no hash of the footer, and as a newer version might, which keeps more.
    for other in ({"footer": None}, {"pace": 7}):
        write_manifest(str(record), recorded | other)
        assert embed_shard(*arguments).reused
    states = {("as_returned", "mean"): np.zeros((4, 360, 32), np.float32)}
    write_shard(str(uri), states, np.arange(360), np.zeros(360, np.int32))
    write_manifest(str(record), recorded | {"footer": None})
    assert not embed_shard(*arguments).reused
    assert uri.read_bytes() == whole


def test_what_a_set_of_more_rows_has_embedded_is_copied_and_equal_to_what_is_computed(
    planned: Planned, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, _, _, model = planned
    asked = {"layout": layout, "in_turn": True, "seed": 0}
    many = prepare_dataset(f"path:{tiny_dataset}", **asked)
    few = prepare_dataset(f"path:{tiny_dataset}", max_train_rows=100, **asked)
    begun = plan_embedding_set(layout, many, model, SETTINGS, cuts=(50, 100))
    assert [shard.stop for shard in begun.shards if shard.stop <= 100] == [50, 100]
    then = plan_embedding_set(layout, few, model, SETTINGS, begun=begun)
    assert then.id != begun.id
    assert then.shards[:2] == begun.shards[:2]
    assert (then.token_budget, then.shards[-1].stop) == (begun.token_budget, few.train_rows + few.test_rows)
    first = embed_shard(layout, begun, begun.shards[0], many, model, SETTINGS)
    computed = embedding_set.embed_tokens
    monkeypatch.setattr(embedding_set, "embed_tokens", None)
    copied = embed_shard(layout, then, then.shards[0], few, model, SETTINGS, begun)
    assert copied.reused
    assert Path(copied.uri).read_bytes() == Path(first.uri).read_bytes()
    # It is a whole shard of its own set, which needs the other no more.
    Path(first.uri).unlink()
    assert embed_shard(layout, then, then.shards[0], few, model, SETTINGS).reused
    # Where there is nothing to copy, it is computed, to the same bytes.
    monkeypatch.setattr(embedding_set, "embed_tokens", computed)
    there = Path(copied.uri).read_bytes()
    Path(copied.uri).unlink()
    assert not embed_shard(layout, then, then.shards[0], few, model, SETTINGS, begun).reused
    assert Path(copied.uri).read_bytes() == there
    # Of test rows nothing is taken, whatever coincides: in their places the other set has train rows.
    alike = replace(begun, shards=then.shards)
    embed_shard(layout, alike, then.shards[-1], few, model, SETTINGS)
    assert not embed_shard(layout, then, then.shards[-1], few, model, SETTINGS, alike).reused
