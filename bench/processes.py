"""Processes of the benchmark: each pinned to its cores, timed by the kernel, and stopped by its own pid."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PASSING: Final = b"cache loader"

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds used by a process tree since its start.

    `total` is exact (scheduler, in nanoseconds). The kernel samples `user` and `system` by timer ticks, so only their
    ratio is used: the split of a difference is exact to a few per cent.
    """

    total: float
    user_ticks: int
    system_ticks: int

    def since(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(
            self.total - earlier.total,
            self.user_ticks - earlier.user_ticks,
            self.system_ticks - earlier.system_ticks,
        )

    @property
    def user(self) -> float:
        return self.total * self.user_ticks / max(1, self.user_ticks + self.system_ticks)

    @property
    def system(self) -> float:
        return self.total - self.user


@dataclass(frozen=True)
class Pinned:
    """A running program with its children, on its cores. `output`: what it printed."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def pids(self) -> list[int]:
        return list(_tree(self.process.pid))

    def cpu(self) -> CpuTime:
        total_ns = user = system = 0
        for pid in self.pids():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended between listing and reading
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                user += int(fields[11])
                system += int(fields[12])
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    total_ns += int((thread / "schedstat").read_text().split()[0])
        return CpuTime(total_ns / 1e9, user, system)

    def memory(self) -> int:
        """Return the bytes of anonymous memory; memory shared by its processes counts once."""
        total_kib = 0
        for pid in self.pids():
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name == "Pss_Anon":
                        total_kib += int(rest.split()[0])
        return total_kib * 1024

    def last_words(self) -> str:
        return self.output.read_text(errors="replace")[-2000:].strip() or "(it printed nothing)"


@contextmanager
def pinned(
    command: Sequence[str | Path],
    cores: Sequence[int],
    output: Path,
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Pinned]:
    """Run `command` on `cores` within the `with`; afterwards its whole process tree is gone."""
    with output.open("ab") as sink:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=output.parent,
            pass_fds=pass_fds,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops the programs
        )
    program = Pinned(Path(command[0]).name, process, output)
    try:
        yield program
    finally:
        _stop(program)


def lasting(pids: Iterable[int]) -> set[int]:
    """Return those processes that do not end by themselves, as the cache loader of nginx does after a minute."""
    return {pid for pid in pids if _PASSING not in _command_line(pid)}


def _command_line(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _stop(program: Pinned) -> None:
    tree = program.pids()
    program.process.terminate()
    try:
        program.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in tree:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.process.wait(STOP_SECONDS)
