"""What memory there is, from files as Linux writes them; what needs more is refused."""

import math
from pathlib import Path

import pytest

from sgdsim.common import memory
from sgdsim.common.checks import InputError

INFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files of a machine, by their paths below /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def write(**files: str) -> None:
        for name, text in files.items():
            path = Path(tmp_path, *name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def group(folder: str, most: str, used: int, cached: int = 0) -> dict[str, str]:
    """Files of a control group of version 2."""
    names = {"memory.max": most, "memory.current": str(used), "memory.stat": f"anon 7\ninactive_file {cached}\n"}
    return {f"{folder}__{name}": f"{text}\n" for name, text in names.items()}


def test_without_groups(machine):
    machine(proc__meminfo=INFO)
    assert memory.available() == 20_000_000 * 1024


def test_the_groups_above_count_too(machine):
    machine(proc__meminfo=INFO, proc__self__cgroup="0::/outer/inner\n")
    machine(**group("groups__outer__inner", "max", 5), **group("groups__outer", "6000000000", 5_000_000_000, 10_000))
    assert memory.available() == 1_000_010_000


def test_a_group_without_a_limit(machine):
    machine(proc__meminfo=INFO, proc__self__cgroup="0::/\n", **group("groups", "max", 3))
    assert memory.available() == 20_000_000 * 1024


def test_a_group_beyond_its_limit(machine):
    machine(proc__meminfo=INFO, proc__self__cgroup="0::/\n", **group("groups", "100", 300))
    assert memory.available() == 0


def test_groups_of_version_1(machine):
    machine(proc__meminfo=INFO, proc__self__cgroup="9:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/\n0::/\n")
    machine(
        groups__memory__job__memory_limit="unused",
        **{
            "groups__memory__job__memory.limit_in_bytes": "3000000000\n",
            "groups__memory__job__memory.usage_in_bytes": "1000000000\n",
            "groups__memory__job__memory.stat": "total_inactive_file 500\n",
        },
    )
    assert memory.available() == 2_000_000_500


def test_a_container_that_does_not_see_its_path(machine):
    """Its own group is at the root there."""
    machine(proc__meminfo=INFO, proc__self__cgroup="4:memory:/docker/1234\n")
    machine(
        **{"groups__memory__memory.limit_in_bytes": "1000\n", "groups__memory__memory.usage_in_bytes": "400\n"},
    )
    assert memory.available() == 600


def test_where_it_is_not_known(machine, monkeypatch):
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available() == math.inf
    memory.require("anything", 1e300, "")


def test_where_the_system_tells_no_more_than_its_size(machine):
    assert 1e8 < memory.available() < math.inf


def test_this_machine():
    assert 0 < memory.available() < 1e15


def test_one_line_with_what_to_do(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 16e9)
    memory.require("a thing", 15.9e9, "")
    words = "memory: expected at most the 16 GB that are available here, got a thing of about 17 GB; take less"
    with pytest.raises(InputError) as refused:
        memory.require("a thing", 17e9, "take less")
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("count", "text"), [(7e6, "7 MB"), (8e12, "8 TB"), (24e9, "24 GB"), (1.0, "1e-06 MB"), (7.2e18, "7.2e+06 TB")]
)
def test_bytes_in_words(count, text):
    assert memory.size(count) == text
