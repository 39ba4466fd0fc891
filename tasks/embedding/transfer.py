"""What a pass needs on its device, on the way there."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Numbers made on the CPU, on the device. To a GPU without a wait for what runs there."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
