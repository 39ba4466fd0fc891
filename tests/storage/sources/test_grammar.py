import pytest

from storage.errors import UserError
from storage.sources.grammar import Source, parse_source


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("hf:Qwen/Qwen3-1.7B", Source("hf", "Qwen/Qwen3-1.7B")),
        ("hf:dair-ai/emotion@v1.0", Source("hf", "dair-ai/emotion", "v1.0")),
        ("path:/data/a:b", Source("path", "/data/a:b")),
        ("path:/data/me@home", Source("path", "/data/me@home")),
        ("gguf:model.Q4.gguf", Source("gguf", "model.Q4.gguf")),
        ("wheel:minilm-l6", Source("wheel", "minilm-l6")),
    ],
)
def test_spec_is_read_and_written_back(spec: str, source: Source) -> None:
    assert parse_source(spec) == source
    assert source.spec == spec


@pytest.mark.parametrize("spec", ["", "emotion", "hf:", "ftp:x", "hf:owner/name@", ":x"])
def test_other_specs_are_refused_with_the_grammar(spec: str) -> None:
    with pytest.raises(UserError, match="hf:OWNER/NAME"):
        parse_source(spec)
