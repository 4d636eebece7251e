"""Which machine made a result: another type of CPU, BLAS or number of threads may change the last bits of a number."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

import threadpoolctl

from sgdsim.common.compiled import threads


def describe() -> dict[str, str | int | None]:
    """CPU, BLAS and thread layout of this process, JSON-able; None for what this system does not tell."""
    from llvmlite import binding

    loops, torch = threads() if "numba" in sys.modules else None, sys.modules.get("torch")
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "compiled_for": os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas": "; ".join(sorted(_libraries("blas"))) or None,
        "openmp": "; ".join(sorted(_libraries("openmp"))) or None,
        "numba_threads": loops,
        "torch": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads" if torch else None,
    }


def _libraries(kind: str) -> set[str]:
    """The loaded libraries of a kind, such as "openblas 0.3.30 SkylakeX, 2 threads"."""
    return {
        " ".join(filter(None, (entry["internal_api"], entry.get("version"), entry.get("architecture"))))
        + f", {entry['num_threads']} threads"
        for entry in threadpoolctl.threadpool_info()
        if entry["user_api"] == kind
    }


def _cpu_model() -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or None
