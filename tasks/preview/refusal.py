"""What a sweep would refuse once its model is loaded, found out without loading it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import UserError
from tasks.embedding.backbone import find_blocks
from tasks.embedding.embed import check_layers, check_poolings
from tasks.embedding.families import FAMILIES
from tasks.embedding.model import ModelFolder, describe_whole
from tasks.embedding.settings import Settings


def refuse_early(model: ModelFolder, settings: Settings, token_counts: npt.NDArray[np.int32]) -> None:
    """Raises `UserError` where the sweep would: for weights that do not fill the model, a layer, a norm state or
    attention that it has not, a text of more tokens than it has positions.

    token_counts: int32 [N], uncut. Of a model whose weights are not on this machine, and of a family that has to be
    run to be known, less is found out.
    """
    row = FAMILIES.get(model.family)
    check_layers(
        model.family,
        model.layers,
        row is None or bool(row.final_norms),
        settings.norm_states,
        settings.max_layer,
    )
    check_poolings(model.family, model.tested and row is not None and row.packed, settings.poolings)
    if not any(Path(model.folder).glob("*.safetensors")):
        return
    body, owner, _ = find_blocks(describe_whole(model.folder, trust_remote_code=settings.trust_remote_code))
    if row is None:
        return
    has_final_norm = any(getattr(owner, norm, None) is not None for norm in row.final_norms)
    check_layers(model.family, model.layers, has_final_norm, settings.norm_states, settings.max_layer)
    longest = min(int(token_counts.max(initial=0)), settings.max_length)
    positions = row.positions(body.config)
    if positions is not None and longest > positions:
        raise UserError(
            f"Row {int(token_counts.argmax())} has {longest} tokens, but the model has positions for {positions}. "
            f"Set --max-length to {positions} or less."
        )
