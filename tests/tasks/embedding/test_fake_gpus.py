"""The way that GPUs go, without one: every family spread over two of a backend without kernels."""

import pytest

from tests.conftest import printed_by
from tests.tasks.embedding.test_backbone import MODELS


@pytest.fixture(scope="module")
def passes():
    """What `tests.tasks.embedding.fake_gpus` prints."""
    return printed_by("tests.tasks.embedding.fake_gpus")


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
