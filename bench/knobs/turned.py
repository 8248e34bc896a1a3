"""Contestants for settings that are not a line of configuration."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.knobs.network import sysctl
from bench.peers import Fastgw, LeftOut, Place, Running

ROOT = Path(__file__).parents[2]
CPU_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CGROUP_V2 = Path("/sys/fs/cgroup")
CGROUP = "fastgw-bench"


def under(python: str, name: str) -> Fastgw:
    """Return fastgw run by another interpreter of the same version, with the files imported here."""
    path = f"PYTHONPATH={ROOT}:{sysconfig.get_path('platlib')}"
    return Fastgw(name, command=("env", path, python, "-m", "fastgw"))


def other_pythons() -> list[str]:
    """Return other interpreters of this version on this machine."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [f"{folder}/{name}" for folder in ("/usr/bin", "/usr/local/bin")]
    ask = "import sys; print(sys.base_prefix)"
    return [
        python
        for python in found
        if Path(python).exists()
        and subprocess.run([python, "-c", ask], stdout=subprocess.PIPE, text=True).stdout.strip() != sys.base_prefix
    ]


@dataclass(frozen=True)
class Unlogged(Fastgw):
    """No access log, so no lines are counted."""

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        unlogged = Fastgw(self.name, config={**self.config, "access_logs": []})
        with unlogged.running(place) as running:
            yield replace(running, access_log=None)


@dataclass(frozen=True)
class Elsewhere(Fastgw):
    """Another connection to the origin. In `url`, `{port}` is the origin's and `{folder}` is the run's."""

    url: str = ""

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        folder = place.folder.parent
        targets = [{"url": self.url.format(port=place.origin_port, folder=folder)}]
        upstream = {"targets": targets, **self.config.get("upstream", {})}
        if self.url.startswith("https:"):
            upstream["tls"] = {"ca": str(folder / "origin.pem")}
        with Fastgw(self.name, config={**self.config, "upstream": upstream}).running(place) as running:
            yield running


@dataclass(frozen=True)
class Queue(Fastgw):
    """Listening sockets with at most this backlog, by net.core.somaxconn."""

    length: int = 4096

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        with ExitStack() as started:
            with sysctl("core/somaxconn", str(self.length)):  # applies at listen(2)
                running = started.enter_context(super().running(place))
            yield running


@dataclass(frozen=True)
class Rationed(Fastgw):
    """In a cgroup with a CPU quota of `quota_us` per `period_us`. Needs root."""

    quota_us: int = 50_000
    period_us: int = 100_000

    def version(self) -> str | None:
        told = super().version()
        if told is not None:
            with self._cgroup():
                pass
        return told

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        with self._cgroup() as group, super().running(place) as running:
            for pid in running.program.pids():
                (group / "cgroup.procs").write_text(str(pid))
            yield running

    @contextmanager
    def _cgroup(self) -> Iterator[Path]:
        """Create a cgroup, removed afterwards. Raises `LeftOut`."""
        first = (CPU_CGROUP_V1 / "cpu.cfs_quota_us").exists()
        group = (CPU_CGROUP_V1 if first else CGROUP_V2) / f"{CGROUP}-{self.quota_us}-{self.period_us}"
        try:
            group.mkdir()
        except OSError as error:
            raise LeftOut(f"no cgroup can be made: {error.strerror}") from error
        try:
            self._ration(group, first)
            yield group
        finally:
            group.rmdir()

    def _ration(self, group: Path, first_version: bool) -> None:
        try:
            if first_version:
                (group / "cpu.cfs_period_us").write_text(str(self.period_us))
                (group / "cpu.cfs_quota_us").write_text(str(self.quota_us))
            else:
                (group / "cpu.max").write_text(f"{self.quota_us} {self.period_us}")
        except OSError as error:
            raise LeftOut(f"a cgroup without a CPU quota: {error.strerror}") from error
