"""The way that GPUs go, without one: every family spread over two of a backend without kernels."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.embedding.test_backbone import MODELS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def passes():
    """What `tests.tasks.embedding.fake_gpus` prints."""
    command = [sys.executable, "-m", "tests.tasks.embedding.fake_gpus"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("in_one_call", [False, True])
def test_a_pass_stays_where_its_layers_are_and_never_waits_for_a_value(passes, name, in_one_call):
    found = passes[f"{name} {in_one_call}"]
    if in_one_call and name.startswith("t5"):
        assert found == {}  # its texts are not packed
        return
    # The first of three blocks on one, two on the other; what the model returns comes back to where its tokens are.
    assert found == {"layers": ["gpu:0", "gpu:0", "gpu:1", "gpu:0"], "devices": ["gpu:0", "gpu:1"]}


def test_what_must_not_be_would_be_seen(passes):
    assert passes["canaries"] == {"another device": True, "the host": True, "a value read back": True}
