"""Compares revisions of fastgw, each in its own worktree and virtual environment, in one run."""

import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.peers import Fastgw, Nginx, Peer
from bench.peers.peer import AT, without_revision
from bench.scenarios.scenario import P99, USER_US, Comparison, Figure, Scenario, Table

ROOT = Path(__file__).parents[1]


class CannotInstall(Exception):
    """A revision is unknown, or cannot be installed. The text has the reason, or the last output of the command."""


def check_known(revisions: Sequence[str]) -> None:
    """Raise `CannotInstall` for fewer than two revisions, or one that is not in this repository."""
    if len(set(revisions)) < 2:
        raise CannotInstall(f"{', '.join(revisions)}: expected two or more different revisions, such as main HEAD")
    if unknown := [revision for revision in revisions if not _is_known(revision)]:
        raise CannotInstall(f"no such revision: {', '.join(unknown)}")


def _is_known(revision: str) -> bool:
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def installed(revisions: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Yield the Python interpreter of each revision's environment. Worktrees and environments are removed
    afterwards.
    """
    with TemporaryDirectory(prefix="bench-") as scratch, ExitStack() as added:
        pythons = {}
        for number, revision in enumerate(revisions):
            tree, environment = Path(scratch) / f"tree{number}", Path(scratch) / f"venv{number}"
            _run("git", "-C", ROOT, "worktree", "add", "--detach", "--quiet", tree, revision)
            added.callback(_run, "git", "-C", ROOT, "worktree", "remove", "--force", tree)
            venv.create(environment, with_pip=True)
            pythons[revision] = environment / "bin" / "python"
            print(f"installing {revision}", file=sys.stderr, flush=True)
            _run(pythons[revision], "-m", "pip", "install", "--quiet", "--disable-pip-version-check", tree)
        yield pythons


def between(scenario: Scenario, pythons: dict[str, Path]) -> Scenario:
    """Return `scenario` with each of its fastgw contestants once per revision, with nginx, and with ratios to the first
    revision.

    Each runs in Python's isolated mode: otherwise a `PYTHONPATH` with a clone would select that clone for all of them.
    """
    peers: list[Peer] = [
        replace(peer, name=f"{peer.name}{AT}{revision}", command=(python, "-I", *peer.command[1:]))
        for peer in scenario.peers
        if isinstance(peer, Fastgw)
        for revision, python in pythons.items()
    ]
    peers += [peer for peer in scenario.peers if isinstance(peer, Nginx) and peer.logs]
    first = next(iter(pythons))

    def same_before(name: str) -> str | None:
        return f"{without_revision(name)}{AT}{first}" if AT in name else None

    def table(shown: Table) -> Table:
        figures = [column for column in shown.columns if isinstance(column, Figure)]
        compared = [figure for figure in figures if figure is figures[0] or figure in (USER_US, P99)]
        ratios = [Comparison(f"{figure.heading}: ratio to {first}", figure, same_before) for figure in compared]
        return replace(shown, columns=[*ratios, *figures])

    return replace(
        scenario,
        title=f"{scenario.title}, {' beside '.join(pythons)}",
        peers=peers,
        tables=[table(each) for each in scenario.tables],
        prove=lambda name, running: scenario.prove(without_revision(name), running),
        pictures=(),
    )


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotInstall(f"{' '.join(map(str, command))}: {done.stdout[-2000:].strip()}")
