"""The device that a name means, for whoever learns, tokenizes or inspects. Knows nothing of what goes there."""

import torch


def pick_device(name: str | torch.device, key: str = "training.device") -> torch.device:
    """The device that a config means, with its number: a reading thread would else send batches to the first one.

    Args:
        name: cpu, cuda, or auto: cuda where there is one.
        key: of the config, as the user says it.
    Raises:
        ValueError: no such device, or none here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{key}={name}: say cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{key}={name}: torch sees no such device here; say cpu, or install a CUDA torch")
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
