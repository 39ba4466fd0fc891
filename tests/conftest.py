"""What several rooms' tests share: small models in Hugging Face's layout, small labelled text, a real server."""

import json
import os
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest

# Set before any test imports Prefect: nothing phones home, and nothing waits for the hub.
os.environ |= {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}

# Examples are timed by the wall, and other work on the machine is no fault of theirs. The same code has the same
# examples: what searches for others is `make fuzz`.
hypothesis.settings.register_profile(
    "layerscout",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("layerscout")

# Begun last, one of them would keep one worker at it while the others have nothing left.
LONGEST = (
    "tests/flows/test_layer_sweep.py",
    "tests/faults/test_killed_processes.py",
    "tests/test_docs.py",
    "tests/flows/running/test_service.py",
)

WORDS = {
    "sea": ["wave", "tide", "ship", "sail", "harbour", "anchor", "salt", "gull", "storm", "deck"],
    "sky": ["cloud", "wind", "star", "moon", "comet", "kite", "wing", "rain", "thunder", "dawn"],
    "land": ["field", "plough", "hill", "stone", "road", "cart", "wheat", "barn", "goat", "fence"],
}
FILLER = ["the", "a", "of", "and", "it", "was", "in", "that", "with", "on", "by", "for"]


def printed_by(module: str) -> Any:
    """The JSON that `python -m MODULE` prints last: for what changes a process for good."""
    command = [sys.executable, "-m", module]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others as they stand."""
    order = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of `save_tiny_model`."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    save_tiny_model(folder)
    return folder


def save_tiny_model(folder: Path) -> None:
    """Save a random Llama of 3 blocks with a word tokenizer as a Hugging Face folder."""
    # Here, since the process that hands out the tests reads this file too, and the others wait for it.
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<unk>",
        *FILLER,
        *(word for each in WORDS.values() for word in each),
        *string.ascii_lowercase[1:],
    ]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=256
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    LlamaModel(config).save_pretrained(folder)


def labelled_text(rows: int, seed: int = 0) -> pl.DataFrame:
    """Sentences of filler with one or two words of their class, and the class."""
    rng = np.random.default_rng(seed)
    names = sorted(WORDS)
    labels = rng.integers(0, len(names), rows)
    texts = []
    for label in labels:
        own = rng.choice(WORDS[names[label]], rng.integers(1, 3))
        words = np.concatenate([own, rng.choice(FILLER, rng.integers(3, 12))])
        texts.append(" ".join(rng.permutation(words)))
    return pl.DataFrame({"text": texts, "label": [names[label] for label in labels]})


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of train.csv (240 rows) and test.csv (120 rows), three classes."""
    folder = tmp_path_factory.mktemp("tiny-text")
    labelled_text(240, seed=1).write_csv(folder / "train.csv")
    labelled_text(120, seed=2).write_csv(folder / "test.csv")
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server on 127.0.0.1 that lives as long as the test run.

    Whoever talks to it finds its string in PREFECT_API_AUTH_STRING: this process, and the commands that it starts.
    """
    from prefect.settings import temporary_settings

    from flows.running.engines import in_environment
    from flows.running.server import local_server
    from storage.layout import Layout

    with (
        local_server(Layout(str(tmp_path_factory.mktemp("served"))).server) as server,
        in_environment("PREFECT_API_AUTH_STRING", server.auth),
        temporary_settings({"PREFECT_API_AUTH_STRING": server.auth}),
    ):
        yield f"{server.url}/api"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, str]]]:
    """An empty bucket of a real S3 API on 127.0.0.1: its URI, and the variables that lead there."""
    # Slow to import, for the few that ask.
    import httpx
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What earlier tests of this process have stored is in its memory.
    httpx.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    system = fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        region="us-east-1",
        scheme="http",
        endpoint_override=f"{host}:{port}",
        allow_bucket_creation=True,
    )
    system.create_dir("layers")
    yield "s3://layers/study", variables
    server.stop()
