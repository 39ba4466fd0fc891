"""Which of two number formats this CPU multiplies faster, by trying: what it says of itself does not tell.

A Xeon whose host hides its AMX says that it has AVX512-BF16, and multiplies in it at 0.6 of the speed of float32
(docs/performance.md, Scale).
"""

import hashlib
import logging
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from storage.cache import cache_folder
from storage.manifest import DamagedManifestError, read_manifest, write_manifest
from tasks.embedding.cpu_weights import packs
from tasks.numerics.cores import one_thread

log = logging.getLogger(__name__)

# A batch's rows, inputs and outputs of a product that is tried, and how often: a tenth of a second in all.
SHAPE = (256, 1_024, 1_024)
REPEATS = 7
# What sets one processor apart from another, as Linux tells it.
_TOLD = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU part", "Features")
_KEPT = TypeAdapter(dict[str, float])


@cache
def bfloat16_speed_up() -> float:
    """How many times as fast a bfloat16 product is, its weights laid out for it, as one in float32.

    Tried once a processor and version of torch, and kept in the cache: all sweeps of a machine choose alike. Only where
    `packs_bfloat16`.
    """
    place = cache_folder() / "products" / f"{_processor()}.json"
    try:
        return _KEPT.validate_python(read_manifest(str(place)))["bfloat16_speed_up"]
    except (OSError, DamagedManifestError, ValidationError, KeyError):
        found = _measured()
    try:
        write_manifest(str(place), {"bfloat16_speed_up": found})
    except OSError as error:
        # `doctor` is asked what is wrong with a cache, and answers; a sweep has found it out before.
        log.warning("What was measured of this processor is not kept in %s: %s", place, error)
    return found


def _measured() -> float:
    rows, inputs, outputs = SHAPE
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    by_onednn, reorder = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight
    narrow, packed = x.bfloat16(), reorder(weight.bfloat16())
    # Each as a model of that dtype has it here.
    wide = partial(torch.nn.functional.linear, x, weight)
    if packs(torch.float32):
        wide = partial(by_onednn, x, reorder(weight), None, "none", [], "")
    with one_thread():
        # In turns, since a core's pace changes; the first of each is a rehearsal.
        pairs = [
            (
                _seconds(wide),
                _seconds(lambda: by_onednn(narrow, packed, None, "none", [], "")),
            )
            for _ in range(REPEATS)
        ][1:]
    return min(of_wide for of_wide, _ in pairs) / min(of_narrow for _, of_narrow in pairs)


def _seconds(work: Callable[[], object]) -> float:
    # Of this thread, which does all of it: while others have the core, nothing is counted.
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _processor() -> str:
    """16 hex digits that stand for this processor and this torch."""
    told = [torch.__version__, platform.machine(), platform.processor()]
    described = Path("/proc/cpuinfo")
    if described.exists():
        first = described.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        told += [line for line in first.splitlines() if line.partition(":")[0].strip() in _TOLD]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
