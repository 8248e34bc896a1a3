"""Machine capacity: number of workers (`workers: auto`), and number of files that a process may open."""

import math
import os
import re
import resource
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

WORKER_MEMORY: Final = 64 * 1024 * 1024
"""Bytes of memory that a worker needs for itself under load; memory loaded before the fork is shared."""

OWN_FILES: Final = 64
"""Files of a worker other than connections and listening sockets: logs and those of its event loop."""

SPARE_FILES: Final = 8
"""Files that a worker has to be able to open when it is ready: a connection with that to its upstream, and those that
a reload and the replacement of another worker pass to it.
"""

USUAL_FILES: Final = 1024
"""Default number of files that a process may open, if it is neither configured nor known."""

LIMITS: Final = Path("/proc/self/limits")
CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def auto_workers(cpus: int, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return one worker per available CPU, but at most as many as the container's CPU quota (rounded up) and memory
    allow.

    `cpus`: number of CPUs in the affinity mask. A quota of a cgroup applies to all cgroups below it, so ancestors
    count.
    """
    allowed = float(cpus)
    for directory in _directories("cpu", cgroups, membership):
        allowed = min(allowed, _cpu_quota(directory))
    for directory in _directories("memory", cgroups, membership):
        allowed = min(allowed, _memory_limit(directory) // WORKER_MEMORY)
    return max(1, math.ceil(allowed))


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _directories(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the directories of this controller: our cgroup and its ancestors, in cgroup version 1 and 2
    (cgroups(7)).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controller
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the path may be that of the host, which is not mounted: then only the root is found.
        while group != root:
            yield group
            group = group.parent
        yield root


def _cpu_quota(directory: Path) -> float:
    """Return the CPU quota of the cgroup in CPUs; infinite without a quota."""
    match _numbers(directory / "cpu.max"):
        case [quota, period]:
            return quota / period
    match _numbers(directory / "cpu.cfs_quota_us"), _numbers(directory / "cpu.cfs_period_us"):
        case [[quota], [period]] if quota > 0:  # -1: none
            return quota / period
    return math.inf


def _memory_limit(directory: Path) -> float:
    """Return the memory limit in bytes; infinite (or, in version 1, huge) without a limit."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        match _numbers(directory / name):
            case [limit]:
                return limit
    return math.inf


def _numbers(file: Path) -> list[int]:
    """Return the numbers in the file; none if it is missing or contains `max`."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def raise_file_limit() -> int:
    """Raise the limit of open files for this process and its children as far as allowed; return the limit.

    Unchanged if a seccomp profile refuses `prlimit`.
    """
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return file_limit()


def file_limit(limits: Path = LIMITS) -> int:
    """Return how many files this process may open. `limits`: file with the limit, for a refused system call
    (proc(5)).
    """
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:
        pass
    with suppress(OSError):
        if found := re.search(r"^Max open files +(\d+)", limits.read_text(), re.MULTILINE):
            return int(found[1])
    return USUAL_FILES


def verify_spare_files() -> None:
    """Try whether this process can open `SPARE_FILES`. Raises `OSError`, which says what to do."""
    with ExitStack() as opened:
        try:
            for _ in range(SPARE_FILES):
                opened.callback(os.close, os.eventfd(0, os.EFD_CLOEXEC))
        except OSError as error:
            limit = file_limit()
            why = f"{error.strerror}: with at most {limit} (ulimit -n) none would be left for connections; raise it"
            raise OSError(error.errno, why) from error


def connections_held(files: int) -> int:
    """Return how many client connections a process can hold with this many files: each may need another one to an
    upstream.
    """
    return max(1, (files - OWN_FILES) // 2)


def file_limit_warning(connections: int, workers: int, files: int) -> str | None:
    """Return the warning that `files` per process cannot hold `limits.connections`, or None."""
    held = workers * connections_held(files)
    if held >= connections:
        return None
    needed = 2 * -(-connections // workers) + OWN_FILES
    return (
        f"limits.connections is {connections}, but {files} open files per process hold about {held} connections with "
        f"{workers} worker{'s' * (workers > 1)}; more connections wait in the accept queue. To serve them all: "
        f"ulimit -n {needed}"
    )
