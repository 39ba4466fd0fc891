"""What an embedding set leaves as JSON beside its shards: its plan, each shard's record, this machine's calibration.

They are read with suspicion: what a disk or a hand has damaged is as if it had never been written.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from storage.cache import cache_folder
from storage.errors import UserError
from storage.layout import Layout
from storage.manifest import DamagedManifestError, read_manifest
from tasks.embedding.calibration import Calibration
from tasks.embedding.shards import Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingSet:
    """A planned set. `tokens` counts non-padding tokens of all rows, `truncated_share` is a fraction 0–1.

    Where longer texts are split, none is truncated: `split_share` is the fraction of those, and `split_tokens` how many
    of the tokens are of windows after each text's first, which is what it costs.
    `last_is_normed` says that of `as_returned` the last layer alone has passed the model's final norm.
    """

    id: str
    token_budget: int
    rows: int
    tokens: int
    truncated_share: float
    last_is_normed: bool
    shards: tuple[Shard, ...]
    split_share: float = 0.0
    split_tokens: int = 0


@dataclass(frozen=True)
class ShardRecord:
    """What computing one shard cost, and what it is known by; kept when the embeddings are not."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rows: int
    tokens: int
    token_budget: int
    footer: str | None = None
    """Of `write_shard`; None where an older version wrote the shard."""


_PLAN = TypeAdapter(EmbeddingSet)
_RECORD = TypeAdapter(ShardRecord)
_CALIBRATION = TypeAdapter(Calibration)


def kept_plan(layout: Layout, set_id: str, rows: int) -> EmbeddingSet | None:
    """The plan that an earlier run wrote for so many rows; None where there is none, or a damaged one, which is logged.

    Raises:
        UserError: a newer version wrote it.
    """
    manifest = layout.manifest(set_id)
    try:
        plan = read_manifest(manifest)["plan"]
        found = _PLAN.validate_python(plan)
    except FileNotFoundError:
        return None
    except (DamagedManifestError, KeyError, ValidationError) as error:
        log.warning("The plan in %s is damaged: %s", manifest, error)
        return None
    if newer := sorted(plan.keys() - asdict(found).keys()):
        raise UserError(
            f"{manifest} was written by a newer version of layerscout: this one does not know {', '.join(newer)}. "
            "Upgrade layerscout, or use another --storage folder."
        )
    ends = [0, *(shard.stop for shard in found.shards)]
    starts = [*(shard.start for shard in found.shards), rows]
    if (found.id, found.rows) != (set_id, rows) or starts != ends:
        log.warning("The plan in %s is damaged: its shards are not those of its rows", manifest)
        return None
    return found


def shard_record(layout: Layout, planned: EmbeddingSet, shard: Shard) -> ShardRecord | None:
    """None where there is none, or one that cannot be read: the shard counts as not computed."""
    place = layout.shard_record(planned.id, shard.index)
    try:
        found = _RECORD.validate_python(read_manifest(place))
    except FileNotFoundError:
        return None
    except (DamagedManifestError, ValidationError) as error:
        log.warning("%s is damaged: %s", place, error)
        return None
    return found if found.rows == shard.stop - shard.start else None


def kept_calibration(set_id: str) -> Calibration | None:
    """What an earlier calibration of this set found on this machine; None where there was none."""
    try:
        return _CALIBRATION.validate_python(read_manifest(str(calibration_file(set_id))))
    except (FileNotFoundError, DamagedManifestError, ValidationError):
        return None


def calibration_file(set_id: str) -> Path:
    """Where this machine's calibration of a set is kept."""
    return cache_folder() / "calibrations" / f"{set_id}.json"
