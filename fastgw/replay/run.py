"""Replay of a recording against one configuration, compared with another one or with the recorded responses."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from fastgw.config import Loaded
from fastgw.filters.api import secret_names
from fastgw.gateway.compiler import uses
from fastgw.recording.file import Recording
from fastgw.recording.records import RecordedRequest
from fastgw.recording.redaction import RecordRedaction
from fastgw.replay.comparison import compare, slower
from fastgw.replay.rules import DifferenceRule
from fastgw.replay.sandbox import NotComparable, Sandbox

NO_ROUTE: Final = "-"
"""Name in reports for requests that no route takes."""


class RouteReport(msgspec.Struct):
    """Requests of one route, by the recording."""

    requests: int = 0
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    """Responses of the new configuration, by status."""


class DifferenceReport(msgspec.Struct, frozen=True):
    """A difference, and how many requests have it."""

    route: str
    where: str
    name: str
    count: int


class LeftOutReport(msgspec.Struct, frozen=True):
    """Requests that could not be replayed as they were, and why."""

    route: str
    why: str
    count: int


class ReplayReport(msgspec.Struct):
    """Result of a replay."""

    requests: int
    """Requests of the recording, also those that are left out."""
    routes: dict[str, RouteReport]
    differences: list[DifferenceReport]
    """Differences that no rule allows."""
    allowed: list[DifferenceReport]
    """Differences that a rule allows."""
    left_out: list[LeftOutReport]
    """Requests that were not compared."""


def replay(
    recording: Recording,
    new: Loaded,
    old: Loaded | None,
    rules: Sequence[DifferenceRule],
    *,
    live: bool,
) -> ReplayReport:
    """Replay a recording. `old` None: compare with the recorded responses. Raises `CompileError`."""
    return asyncio.run(_replay(recording, new, old, rules, live))


async def _replay(
    recording: Recording,
    new: Loaded,
    old: Loaded | None,
    rules: Sequence[DifferenceRule],
    live: bool,
) -> ReplayReport:
    names = {
        name
        for loaded in (new, old)
        if loaded is not None
        for use in uses(loaded.config)
        for name in secret_names(use.settings)
    }
    redaction = RecordRedaction(sorted(names), keeps_cookies=True)
    sandboxes = [Sandbox(new, redaction, live)]
    if old is not None:
        sandboxes.append(Sandbox(old, redaction, live))
    try:
        for sandbox in sandboxes:
            sandbox.start()
        return await _compare_all(recording, sandboxes, rules)
    finally:
        for sandbox in sandboxes:
            await sandbox.stop()


async def _compare_all(
    recording: Recording, sandboxes: Sequence[Sandbox], rules: Sequence[DifferenceRule]
) -> ReplayReport:
    counts: Counter[tuple[str, str, str]] = Counter()
    left_out: Counter[tuple[str, str]] = Counter()
    routes: dict[str, RouteReport] = {}
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    is_recorded = len(sandboxes) == 1
    for recorded in sorted(recording.requests, key=_received_at):
        route = recorded.route or NO_ROUTE
        try:
            after, *others = await _replay_in_all(recorded, sandboxes)
        except NotComparable as error:
            left_out[route, str(error)] += 1
            continue
        before: RecordedRequest | None = others[0] if others else recorded
        report = routes.setdefault(route, RouteReport())
        report.requests += 1
        status = "none" if after is None or not after.status else str(after.status)
        report.statuses[status] = report.statuses.get(status, 0) + 1
        if before is not None:
            for each in compare(before, after, recorded=is_recorded):
                counts[route, each.where, each.name] += 1
            if after is not None and not is_recorded:
                taken = seconds.setdefault(route, ([], []))
                taken[0].append(before.seconds)
                taken[1].append(after.seconds)
    for route, (first, second) in seconds.items():
        if slower(first, second):
            counts[route, "latency", "p95"] += len(second)
    listed = [DifferenceReport(*key, count) for key, count in sorted(counts.items())]
    allowed = [each for each in listed if any(rule.allows(each.route, each.where, each.name) for rule in rules)]
    return ReplayReport(
        len(recording.requests),
        dict(sorted(routes.items())),
        [each for each in listed if each not in allowed],
        allowed,
        [LeftOutReport(*key, count) for key, count in sorted(left_out.items())],
    )


async def _replay_in_all(recorded: RecordedRequest, sandboxes: Sequence[Sandbox]) -> list[RecordedRequest | None]:
    """Replay a request in each sandbox, also if it cannot be compared: limits count it. Raises `NotComparable`."""
    done: list[RecordedRequest | None] = []
    wrong: NotComparable | None = None
    for sandbox in sandboxes:
        try:
            done.append(await sandbox.replay(recorded))
        except NotComparable as error:
            wrong = error
    if wrong is not None:
        raise wrong
    return done


def _received_at(recorded: RecordedRequest) -> float:
    return recorded.date - recorded.seconds


def as_text(report: ReplayReport) -> str:
    """Describe the result for people."""
    rows = [("ROUTE", "REQUESTS", "STATUSES")]
    rows += [
        (
            name,
            str(each.requests),
            ", ".join(f"{status}: {count}" for status, count in sorted(each.statuses.items())),
        )
        for name, each in report.routes.items()
    ]
    lines = _table(rows)
    for title, differences in (("Differences", report.differences), ("Allowed by rules", report.allowed)):
        if differences:
            lines += ["", f"{title}:"]
            table = [("ROUTE", "WHERE", "NAME", "REQUESTS")]
            table += [(each.route, each.where, each.name or NO_ROUTE, str(each.count)) for each in differences]
            lines += _table(table)
    if report.left_out:
        lines += ["", "Left out:"]
        rows = [("ROUTE", "WHY", "REQUESTS"), *((each.route, each.why, str(each.count)) for each in report.left_out)]
        lines += _table(rows)
    count = sum(each.count for each in report.left_out)
    compared = f"{report.requests - count} of {report.requests}" if count else str(report.requests)
    lines += ["", f"{compared} requests replayed: {_verdict(report)}"]
    return "\n".join(lines)


def _verdict(report: ReplayReport) -> str:
    if not report.differences:
        return "no differences" if not report.allowed else "no differences that are not allowed"
    return f"{len(report.differences)} difference{'s' if len(report.differences) > 1 else ''}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
