"""A model whose blocks stay in their files, and its table of tokens with them: each block is read when it is asked for,
of the table the rows that texts need. Everything else is loaded."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from storage.errors import UserError
from tasks.embedding.backbone import find_backbone, find_blocks
from tasks.embedding.cpu_weights import pack_weights, packs
from tasks.embedding.description import headless, not_loaded, whole_config
from tasks.embedding.families import FAMILIES, family_row
from tasks.embedding.forward import Backbone
from tasks.machine import ANY_GPU

# Values of a tensor that are read at a time.
PIECE_VALUES = 2**22
# Of the free memory that weights may take: the rest is for what is computed with them.
WEIGHTS_SHARE = 0.8


class StoredTensors:
    """The tensors of a model folder's safetensors by name, mapped into memory and read when they are used."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where a file is not there, or is none."""
        self._file_of: dict[str, Any] = {}
        try:
            for name in _weight_files(folder):
                opened: Any = safe_open(folder / name, framework="pt")
                self._file_of |= dict.fromkeys(opened.keys(), opened)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise not_loaded(str(folder), error) from error

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Of all tensors, once they are in this dtype."""
        shapes = [file.get_slice(key).get_shape() for key, file in self._file_of.items()]
        return sum(torch.Size(shape).numel() for shape in shapes) * dtype.itemsize

    def name_of(self, tensor: str, prefix: str) -> str | None:
        """What a model's tensor is called here: with or without the name of the model that has a head; None where it
        is not here."""
        return next((name for name in (tensor, f"{prefix}.{tensor}") if name in self._file_of), None)

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One tensor, piece by piece: a table of embeddings in two dtypes at once may be most of a small memory."""
        file = self._file_of[name]
        stored = file.get_slice(name)
        shape = stored.get_shape()
        if not shape:
            number: Tensor = file.get_tensor(name)
            return number.to(device=device, dtype=dtype)
        found = torch.empty(shape, dtype=dtype, device=device)
        step = max(1, PIECE_VALUES * shape[0] // max(found.numel(), 1))
        for start in range(0, shape[0], step):
            found[start : start + step] = stored[start : start + step]
        return found

    def mapped(self, name: str) -> Tensor:
        """One tensor as its file has it, on the CPU: of its pages those are read that are looked at."""
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor


class StoredTable(nn.Module):
    """Token embeddings whose table stays in its file. It is the largest tensor of most models, and texts have few of
    its rows."""

    def __init__(self, table: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """table: [V, D], mapped, in whatever dtype it is stored."""
        super().__init__()
        self.num_embeddings = len(table)
        # In no list of weights: whoever moves or counts those would read all of it.
        self._kept = (table, dtype, device)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] → [..., D] on the device, as of a table in that dtype."""
        table, dtype, device = self._kept
        return nn.functional.embedding(ids.cpu(), table).to(device=device, dtype=dtype)


def _weight_files(folder: Path) -> list[str]:
    """Those that transformers loads: a repository may hold the same weights in another cut too."""
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if whole.exists():
        return [whole.name]
    if index.exists():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return sorted(file.name for file in folder.glob("*.safetensors"))


def fits(folder: str, dtype: str, device: str) -> bool:
    """Whether the whole model leaves room in the memory that the device has free now."""
    place = torch.device(device)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else psutil.virtual_memory().available
    return weights_bytes(folder, dtype) <= WEIGHTS_SHARE * free


def weights_bytes(folder: str, dtype: str) -> int:
    """Bytes of the folder's weights, once they are in this dtype; of quantised ones as they are stored."""
    place = Path(folder)
    # As it is written: a model's own code may not be trusted, and needs not be run for this.
    described = json.loads((place / "config.json").read_text(encoding="utf-8"))
    if described.get("quantization_config") is not None:
        return sum((place / name).stat().st_size for name in _weight_files(place))
    return StoredTensors(place).bytes_in(getattr(torch, dtype))


def is_spread(folder: str, dtype: str, device: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the layers of one copy go to several GPUs: none of those that may be taken holds the weights, and their
    blocks cannot be read one after the other."""
    if device != ANY_GPU or can_stream(folder, trust_remote_code=trust_remote_code):
        return False
    return held_by_none(weights_bytes(folder, dtype), gpus_memory())


def too_large(folder: str, dtype: str, device: str, *, trust_remote_code: bool = False) -> UserError | None:
    """What to say of weights that are more than the memory of the GPU, or of all that may be taken together; None where
    they are not, and of a CPU."""
    if torch.device(device).type != "cuda":
        return None
    needed, there = weights_bytes(folder, dtype), torch.cuda.get_device_properties(device).total_memory
    told = f"{device} has {there / 2**30:.1f} GiB of memory"
    if is_spread(folder, dtype, device, trust_remote_code=trust_remote_code):
        # Beyond that share accelerate would leave layers to the CPU.
        there = int(WEIGHTS_SHARE * sum(gpus_memory()))
        told = f"all {len(gpus_memory())} GPUs together have {there / 2**30:.1f} GiB of memory for weights"
    if needed <= there:
        return None
    way_out = "Leave out --no-stream-blocks: its blocks are then read one after the other."
    if not can_stream(folder, trust_remote_code=trust_remote_code):
        way_out = (
            "Its blocks cannot be read one after the other, which is done with plain weights of the families whose "
            "texts are packed. Take --device auto where there are more GPUs, --device cpu where memory holds it, or a "
            "smaller model."
        )
    return UserError(
        f"The model in {folder} has {needed / 2**30:.1f} GiB of weights in {dtype}, and {told}. {way_out}"
    )


def held_by_none(size: int, gpus: Sequence[int]) -> bool:
    """Whether there are several GPUs, and weights of so many bytes leave no room on any. gpus: bytes of each."""
    return len(gpus) > 1 and size > WEIGHTS_SHARE * max(gpus)


def gpus_memory() -> tuple[int, ...]:
    """Bytes that each GPU has, not what is free: to ask for that would take some of it on each."""
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(each.total_memory for each in properties)


def can_stream(folder: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the folder's model is of a family whose blocks can be run one after the other."""
    config = whole_config(Path(folder), folder, trust_remote_code=trust_remote_code)
    return family_row(config).packed and getattr(config, "quantization_config", None) is None


def open_backbone(folder: str, dtype: str, device: str, *, trust_remote_code: bool = False) -> Backbone:
    """The backbone of a folder, its blocks read by `read_block` whenever they are asked for.

    Raises:
        UserError: blocks of this family cannot be run one after the other, or tensors are not in the folder.
    """
    from accelerate import init_empty_weights  # slow to import
    from accelerate.utils import set_module_tensor_to_device

    if not can_stream(folder, trust_remote_code=trust_remote_code):
        families = ", ".join(sorted(name for name, row in FAMILIES.items() if row.packed))
        raise UserError(
            f"The blocks of the model in {folder} cannot be read one after the other: that is known for plain weights "
            f"of the families {families}. Leave out --stream-blocks, or choose another model."
        )
    config = whole_config(Path(folder), folder, trust_remote_code=trust_remote_code)
    number, place = getattr(torch, dtype), torch.device(device)
    # Shapes alone; what is computed and not stored, such as rotary frequencies, is there.
    with init_empty_weights(include_buffers=False), _WeightsWithoutMemory():
        model = headless(config).from_config(config, dtype=number, trust_remote_code=trust_remote_code)
    backbone = find_backbone(model)
    body, _, blocks = find_blocks(model)
    path = next(name for name, module in body.named_modules() if module is blocks)
    stored = StoredTensors(Path(folder))
    names = _stored_names(stored, model, body, folder)
    _leave_table(body, stored, names, number, place)
    for module in body.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(place))
    for name, _ in body.named_parameters():
        if not name.startswith(f"{path}."):
            value = stored.read(names[name], number, place)
            set_module_tensor_to_device(body, name, place, value=value)

    def read_block(index: int) -> nn.Module:
        block = copy.deepcopy(blocks[index])
        within = f"{path}.{index}."
        state = {
            name: stored.read(names[within + name], number, place) for name, _ in block.named_parameters()
        }
        # Buffers that are computed stay as they are.
        block.load_state_dict(state, strict=False, assign=True)
        block.eval().requires_grad_(False)
        if place.type == "cpu" and packs(number):
            pack_weights(nn.ModuleList([block]))
        return block

    return replace(backbone, device=place, devices=(place,), dtype=number, read_block=read_block)


def _leave_table(
    body: Any, stored: StoredTensors, names: dict[str, str], dtype: torch.dtype, device: torch.device
) -> None:
    """A plain table of tokens is looked up where it lies; one that does more than that is loaded as everything else."""
    table = body.get_input_embeddings()
    if type(table) is nn.Embedding and table.max_norm is None:
        path = next(name for name, module in body.named_modules() if module is table)
        body.set_input_embeddings(StoredTable(stored.mapped(names[f"{path}.weight"]), dtype, device))


class _WeightsWithoutMemory(TorchFunctionMode):
    """Tensors that are made to be filled later are made on the meta device at once; accelerate moves them there only
    when they have become a parameter, and would first take the memory of each."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is torch.empty and options.get("device") is None:
            options = options | {"device": "meta"}
        return func(*args, **options)


def _stored_names(stored: StoredTensors, model: Any, body: nn.Module, folder: str) -> dict[str, str]:
    """What each parameter of the model's body, by its name there, is called in the files."""
    path = next(name for name, module in model.named_modules() if module is body)
    within = f"{path}." if path else ""
    found = {
        name: stored.name_of(within + name, model.base_model_prefix) for name, _ in body.named_parameters()
    }
    missing = sorted(name for name, there in found.items() if there is None)
    if missing:
        raise UserError(
            f"{len(missing)} tensors of the model are not in {folder} under their names ({', '.join(missing[:3])}), so "
            "that its blocks cannot be read one after the other. Save it again with `model.save_pretrained(FOLDER)` on "
            "a machine that holds it whole, or leave out --stream-blocks."
        )
    return {name: there for name, there in found.items() if there is not None}
