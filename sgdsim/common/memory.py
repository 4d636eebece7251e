"""How much memory there is for this process, and the refusal of what needs more, before it begins."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from sgdsim.common.checks import InputError

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Files of a control group: limit, use, and the line of memory.stat with cached files that are given back when needed.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def require(what: str, needed: float, advice: str) -> None:
    """InputError if `what` needs more bytes than are `available`; `advice`: what to do then."""
    if needed > (left := available()):
        raise InputError(
            f"memory: expected at most the {size(left)} that are available here, got {what} of about {size(needed)}; "
            f"{advice}"
        )


def size(count: float) -> str:
    """Bytes in words: "8 GB", "7.2e+06 TB"."""
    unit, name = next(pair for pair in _BYTES if count >= pair[0] or pair is _BYTES[-1])
    return f"{count / unit:.2g} {name}"


def available() -> float:
    """Bytes that this process may still take without swapping, the least of what the system has free and what every
    control group above it leaves; infinite where nothing is known.

    On Linux from `MemAvailable` and from control groups of both versions. Elsewhere all of the machine's memory.
    """
    return min(_free(), *_left_by_groups(), math.inf)


def _free() -> float:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_PROC / "meminfo"), re.MULTILINE)
    if found is not None:
        return 1024.0 * int(found[1])
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return math.inf


def _left_by_groups() -> list[float]:
    """What each limited group that this process is in leaves it. Limits of the groups above hold as well."""
    left = []
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (_GROUPS / "memory", _V1) if controllers else (_GROUPS, _V2)
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            left += _left(group, *names)
            if group == root:
                break
    return left


def _left(group: Path, limit: str, use: str, cached: str) -> list[float]:
    """None where the group has no limit, or its files are not seen from here, as a container's own group."""
    most, used = _text(group / limit).strip(), _text(group / use).strip()
    if not (most.isdigit() and used.isdigit()):  # "max" is none
        return []
    given_back = re.search(rf"^{cached} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    return [max(0.0, float(most) - int(used) + (int(given_back[1]) if given_back else 0))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
