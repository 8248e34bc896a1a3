"""How many workers `auto` starts, on made-up cgroup trees, and when the file limit is called too low."""

from pathlib import Path

import pytest

from fastgw.runtime.process.machine_capacity import OWN_FILES, auto_workers, file_limit_warning

MIB = 1024 * 1024


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


V2 = "0::/pod/app\n"
V1 = "5:memory:/pod/app\n4:cpu,cpuacct:/pod/app\n"

CASES = [
    ("nothing is limited", V2, {}, 8),
    ("the affinity alone", V2, {"pod/app/cpu.max": "max 100000\n", "pod/app/memory.max": "max\n"}, 8),
    ("a quota of 2 CPUs", V2, {"pod/app/cpu.max": "200000 100000\n"}, 2),
    ("a quota of 2.5 CPUs is rounded up", V2, {"pod/app/cpu.max": "250000 100000\n"}, 3),
    ("a quota of a tenth of a CPU", V2, {"pod/app/cpu.max": "10000 100000\n"}, 1),
    ("an ancestor's quota holds too", V2, {"pod/app/cpu.max": "400000 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
    ("seen from inside, our cgroup is the root", "0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    ("the path is the host's and not mounted here", "0::/docker/1f2e\n", {"cpu.max": "200000 100000\n"}, 2),
    ("memory for three", V2, {"pod/app/memory.max": f"{200 * MIB}\n"}, 3),
    ("memory for less than one", V2, {"pod/app/memory.max": f"{32 * MIB}\n"}, 1),
    (
        "version 1",
        V1,
        {"cpu/pod/app/cpu.cfs_quota_us": "150000\n", "cpu/pod/app/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    (
        "version 1 without limits",
        V1,
        {
            "cpu/pod/app/cpu.cfs_quota_us": "-1\n",
            "cpu/pod/app/cpu.cfs_period_us": "100000\n",
            "memory/pod/app/memory.limit_in_bytes": "9223372036854771712\n",
        },
        8,
    ),
    ("version 1 memory", V1, {"memory/memory.limit_in_bytes": f"{128 * MIB}\n"}, 2),
]


@pytest.mark.parametrize(("membership", "files", "workers"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_auto_is_the_least_of_affinity_quota_and_memory(tmp_path, membership, files, workers):
    own = tmp_path / "membership"
    own.write_text(membership)
    assert auto_workers(8, tree(tmp_path / "cgroup", files), own) == workers


def test_without_cgroups_the_affinity_decides(tmp_path):
    assert auto_workers(3, tmp_path / "none", tmp_path / "none") == 3


def test_a_file_limit_that_holds_all_connections_is_not_mentioned():
    assert file_limit_warning(connections=1000, workers=2, files=1000 + OWN_FILES) is None


def test_a_file_limit_that_does_not_is_told_with_what_would_do():
    warning = file_limit_warning(connections=1000, workers=2, files=500 + OWN_FILES)
    assert warning is not None
    assert "hold about 500 connections" in warning
    assert warning.endswith(f"ulimit -n {1000 + OWN_FILES}")
