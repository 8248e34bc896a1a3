"""Operator messages: each is of an event of one list, and a line that people and programs can read."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fastgw import operator_log
from fastgw.config.settings.gateway import Log
from fastgw.operator_events import LEVELS, OUTAGE_REPORT_S, OperatorEvent, OutageReports, log_event
from fastgw.operator_log import LINE_MAX, NoticeLog, configure, line_of

PACKAGE = Path(__file__).parents[3] / "fastgw"
TELLERS = {"say", "notice", "._complain", ".complain"}
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}  # of loggers
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error) ([a-z0-9 ]+)\[(\d+)\] ([a-z_]+): (.*)"
)


@cache
def _calls() -> list[tuple[str, ast.Call]]:
    """Calls by which operators may be told something. The package is parsed once: its whole tree would take 200 MiB."""
    return [
        (where, call)
        for where, call in _all_calls()
        if where.rpartition(" ")[2] in TELLERS or (isinstance(call.func, ast.Attribute) and call.func.attr in METHODS)
    ]


def _all_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call):
                called = node.func
                name = f".{called.attr}" if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {name}", node


def _is_event(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_event(node.body) and _is_event(node.orelse)
    if isinstance(node, ast.Name):
        return node.id == "event"  # handed on by one of them
    return (
        isinstance(node, ast.Attribute)
        and getattr(node.value, "id", "") == "OperatorEvent"
        and hasattr(OperatorEvent, node.attr)
    )


def test_every_message_names_its_event() -> None:
    """Whoever tells operators something does so by `say` or `notice`, with a member of `OperatorEvent`."""
    told = [(where, call) for where, call in _calls() if where.rpartition(" ")[2] in TELLERS]
    assert len(told) > 60
    assert not [where for where, call in told if not (call.args and _is_event(call.args[0]))]


def test_nobody_logs_past_the_list() -> None:
    """No `log.warning(...)` anywhere: its message would have no event."""
    found = []
    for where, call in _calls():
        called = call.func
        if isinstance(called, ast.Attribute) and called.attr in METHODS and "log" in getattr(called.value, "id", ""):
            found.append(where)
    assert not found


def test_every_event_is_told_somewhere() -> None:
    """None is left that nobody tells of."""
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert not [each.name for each in OperatorEvent if f"Event.{each.name}" not in text]


def test_names_and_levels() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", each.label) for each in OperatorEvent)
    assert {each.level for each in OperatorEvent} <= set(LEVELS.values())


def test_a_line_of_text() -> None:
    """Time, level, process with pid, event, text; one line whatever is in it."""
    line = line_of(OperatorEvent.TARGET_FAILED, "target a:80\nforged \x1b[31m", logging.WARNING, 1_700_000_000.5)
    assert line.count(b"\n") == 1
    found = LINE.fullmatch(line.decode().rstrip("\n"))
    assert found is not None
    assert found.groups() == ("warning", "fastgw", f"{os.getpid()}", "target_failed", "target a:80 forged  [31m")
    assert line.startswith(b"2023-11-14T22:13:20.500Z ")


def test_a_line_of_json() -> None:
    configure(Log(format="json"))
    told = json.loads(line_of(OperatorEvent.STOPPED, 'said "bye"\n', logging.INFO, 1_700_000_000.0))
    assert told == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "info",
        "process": "fastgw",
        "pid": os.getpid(),
        "event": "stopped",
        "message": 'said "bye"\n',
    }


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("sign", ["x", "\x00", "é", "\udc80"])
def test_a_long_text_is_cut_and_the_line_stays_whole(form: str, sign: str) -> None:
    """So that one write is atomic, and JSON is JSON."""
    configure(Log(format=form))  # type: ignore[arg-type]  # one of the two
    line = line_of(OperatorEvent.DEFECT, sign * 100_000, logging.ERROR, 0.0)
    assert len(line) <= LINE_MAX
    assert line.endswith(b"\n")
    if form == "json":
        assert json.loads(line)["event"] == "defect"


def test_what_is_less_important_than_the_level_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(operator_log.os, "write", lambda descriptor, line: told.append(line) or len(line))
    # Commands that tests call in this process may have left one, here or at the root.
    monkeypatch.setattr(logging.getLogger("fastgw"), "handlers", [NoticeLog()])
    monkeypatch.setattr(logging.getLogger("fastgw"), "propagate", False)
    configure(Log(level="error"))
    log_event(OperatorEvent.TARGET_FAILED, "not %s", "this")
    log_event(OperatorEvent.DEFECT, "but %s", "this")
    configure(Log(level="warning"))
    log_event(OperatorEvent.TARGET_FAILED, "and %s", "this")
    assert [LINE.fullmatch(line.decode().rstrip("\n"))[4] for line in told] == ["defect", "target_failed"]  # type: ignore[index]


def test_a_message_of_a_library_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(operator_log.os, "write", lambda descriptor, line: told.append(line) or len(line))
    NoticeLog().emit(logging.LogRecord("asyncio", logging.ERROR, __file__, 1, "slow %s", ("callback",), None))
    assert b" error fastgw[" in told[0]
    assert told[0].endswith(b" library: asyncio: slow callback\n")


def test_an_outage_is_reported_with_its_first_cause_and_others_once_in_a_while() -> None:
    reports = OutageReports()
    assert reports.is_due("refused", 0.0)
    assert not reports.is_due("refused", 2 * OUTAGE_REPORT_S)
    assert reports.is_due("timed out", 2 * OUTAGE_REPORT_S)
    assert not reports.is_due("refused", 3 * OUTAGE_REPORT_S - 1.0)
    assert reports.is_due("refused", 3 * OUTAGE_REPORT_S)
    assert reports.has_ended()
    assert not reports.has_ended()
    assert reports.is_due("refused", 3 * OUTAGE_REPORT_S)
