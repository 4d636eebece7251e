"""Which torch device to use."""

from __future__ import annotations

from sgdsim.checks import InputError, choice

DEVICES = ("auto", "cpu", "cuda")


def resolve(device: str) -> str:
    """The device "cpu" or "cuda" that `device` stands for ("auto": CUDA where there is one).

    Raises InputError for any other word, and for "cuda" where torch sees none.
    """
    import torch

    choice("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: expected a CUDA device for 'cuda', got a torch that sees none; use 'cpu' or 'auto'")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
