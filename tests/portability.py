"""The suite as other CPUs would run it: `python tests/portability.py [old] [haswell] [skylake] [--threads 1 2] [-- …]`.

A number's last digits depend on the code that BLAS, torch, numba, numpy and the C library choose for the CPU that they
find, and on the number of threads. All of them can be told to take that for an older one; what the CPU lacks cannot be
emulated, and such a machine is left out with a line. Each gets a folder of its own for compiled code. What stands after
`--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

_CPU = Path("/proc/cpuinfo")
_AVX2 = {"AVX", "F16C", "FMA3", "AVX2", "X86_V3"}  # numpy's names, of all its versions, for code that needs no more

# What each machine has (flags of /proc/cpuinfo), which of numpy's features stay, and its variables.
MACHINES: dict[str, tuple[set[str], set[str], dict[str, str]]] = {
    "old": (
        set(),
        set(),
        {
            "OPENBLAS_CORETYPE": "Prescott",
            "ATEN_CPU_CAPABILITY": "default",
            "NUMBA_CPU_NAME": "generic",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-FMA4,-AVX512F",
        },
    ),
    "haswell": (
        {"avx2", "fma"},
        _AVX2,
        {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "NUMBA_CPU_NAME": "haswell"},
    ),
    "skylake": (
        {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"},
        _AVX2 | {"AVX512F", "AVX512CD", "AVX512_SKX", "X86_V4"},
        {"OPENBLAS_CORETYPE": "SkylakeX", "ATEN_CPU_CAPABILITY": "avx512", "NUMBA_CPU_NAME": "skylake-avx512"},
    ),
}


def environment(machine: str, threads: int, compiled: Path) -> dict[str, str]:
    """The variables of a machine. `compiled`: a folder for what numba and torch compile for it."""
    _, stay, variables = MACHINES[machine]
    there = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
    return {
        **variables,
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in there if name not in stay),
        "NUMBA_CACHE_DIR": str(compiled / machine / "numba"),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled / machine / "torch"),
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")},
    }


def missing(machine: str) -> set[str]:
    """What the machine has and this CPU has not."""
    flags = next(line for line in _CPU.read_text().splitlines() if line.startswith("flags"))
    return MACHINES[machine][0] - set(flags.split())


def main() -> int:
    """Run the suite once for each machine and number of threads; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("machines", nargs="*", default=list(MACHINES), help=f"of {', '.join(MACHINES)}; default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:own])
    if platform.machine() not in {"x86_64", "AMD64"} or not _CPU.exists():
        parser.error("expected Linux on an x86-64 CPU: these are its older ones")
    if unknown := set(args.machines) - set(MACHINES):
        parser.error(f"machines: expected some of {', '.join(MACHINES)}, got {', '.join(sorted(unknown))}")
    ends: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="sgdsim-portability-") as compiled:
        for machine in args.machines:
            for threads in args.threads:
                name = f"{machine}, {threads} thread{'s' * (threads > 1)}"
                if lacking := missing(machine):
                    ends[name] = f"left out: this CPU has no {', '.join(sorted(lacking))}"
                    continue
                print(f"== {name}", flush=True)
                variables = {**os.environ, **environment(machine, threads, Path(compiled))}
                command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", *words[own + 1 :]]
                done = subprocess.run(command, env=variables)
                ends[name] = "passed" if done.returncode == 0 else f"failed (exit code {done.returncode})"
    print("\n".join(f"{name}: {end}" for name, end in ends.items()))
    return int(any(end.startswith("failed") for end in ends.values()))


if __name__ == "__main__":
    sys.exit(main())
