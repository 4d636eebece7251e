"""Which torch device to use."""

from __future__ import annotations

import re

from sgdsim.common.checks import InputError, choice

DEVICES = ("auto", "cpu", "cuda")


def resolve(device: str) -> str:
    """The device "cpu", "cuda" or "cuda:K" that `device` stands for ("auto": CUDA where there is one).

    Raises InputError for any other word, and for a CUDA device that torch does not see. "cpu" loads no torch.
    """
    numbered = isinstance(device, str) and re.fullmatch(r"cuda:[0-9]+", device) is not None
    if not numbered and choice("device", device, DEVICES) == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise InputError(
            f"device: expected a CUDA device for {device!r}, got a torch that sees none; use 'cpu' or 'auto'"
        )
    if numbered and int(device[5:]) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise InputError(f"device: expected one from 'cuda:0' to 'cuda:{last}', got {device!r}")
    return device
