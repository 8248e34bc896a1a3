"""The operator log: what is told once a minute at most, and what becomes of lines that cannot be written."""

from __future__ import annotations

import ast
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Literal
from unittest import mock

import pytest

import fastgw
from fastgw import operator_log
from fastgw.config.settings.gateway import Log
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, call_process, configure, notice
from tests.support.small_file_system import full_disk

FORMATS: list[Literal["text", "json"]] = ["text", "json"]


@pytest.fixture
def usual_form() -> Iterator[None]:
    name = operator_log._Form.process
    call_process("worker 1")
    yield
    configure(Log())
    call_process(name)


def messages(written: bytes, form: str) -> list[str]:
    """The messages of whole lines, with their events."""
    assert written.endswith(b"\n")
    if form == "json":
        return [f"{each['event']}: {each['message']}" for each in map(json.loads, written.splitlines())]
    return [line.split("] ", 1)[1] for line in written.decode().splitlines()]


@pytest.mark.usefixtures("usual_form")
@pytest.mark.parametrize("flags", [0, os.O_APPEND])
@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_costs_whole_lines_that_are_counted(
    form: Literal["text", "json"], flags: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | flags)
    monkeypatch.setattr(operator_log, "STDERR", fd)
    configure(Log(format=form, level="error"))
    notice(OperatorEvent.PROCESS_FAILED, "the first")
    before = file.read_bytes()
    with full_disk(len(before) + 30):
        for _ in range(3):
            notice(OperatorEvent.PROCESS_FAILED, "too many")
    assert file.read_bytes() == before
    notice(OperatorEvent.PROCESS_FAILED, "the last")
    notice(OperatorEvent.PROCESS_FAILED, "another")
    os.close(fd)
    assert messages(file.read_bytes(), form) == [
        "process_failed: the first",
        "messages_lost: 3 messages were lost: stderr could not be written",
        "process_failed: the last",
        "process_failed: another",
    ]


@pytest.mark.usefixtures("usual_form")
def test_a_line_of_which_the_beginning_stays_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append-only file cannot be made shorter."""
    file = tmp_path / "log"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    monkeypatch.setattr(operator_log, "STDERR", fd)
    with full_disk(30), mock.patch.object(os, "ftruncate", side_effect=PermissionError):
        notice(OperatorEvent.PROCESS_FAILED, "too many")
        notice(OperatorEvent.PROCESS_FAILED, "too many")
    notice(OperatorEvent.PROCESS_FAILED, "the last")
    os.close(fd)
    torn, rest = file.read_bytes().split(b"\n", 1)
    assert len(torn) == 30
    assert messages(rest, "text") == [
        "messages_lost: 2 messages were lost: stderr could not be written",
        "process_failed: the last",
    ]


@pytest.mark.usefixtures("usual_form")
def test_a_full_pipe_costs_lines_that_are_counted_by_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(operator_log, "STDERR", writer)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    notice(OperatorEvent.PROCESS_FAILED, "too many")
    with suppress(BlockingIOError):
        while os.read(reader, 1 << 16):
            pass
    notice(OperatorEvent.PROCESS_FAILED, "the last")
    assert messages(os.read(reader, 1 << 16), "text") == [
        "messages_lost: 1 message was lost: stderr could not be written",
        "process_failed: the last",
    ]
    monkeypatch.setattr(operator_log._Losses, "count", 5)
    call_process("worker 2")  # in a child: it has lost none
    notice(OperatorEvent.PROCESS_FAILED, "of a child")
    assert messages(os.read(reader, 1 << 16), "text") == ["process_failed: of a child"]
    os.close(reader)
    os.close(writer)


def test_each_kind_is_told_and_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    now = [100.0]
    monkeypatch.setattr(operator_log, "notice", lambda event, text: told.append(text))
    monkeypatch.setattr(operator_log, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now[0]}))
    complain = RareNotice()
    for _ in range(3):
        complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "one is revoked", "revoked")
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "the list has expired", "expired")
    assert told == ["one is revoked", "the list has expired"]
    now[0] += RareNotice.INTERVAL
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "one is revoked", "revoked")
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "the list has expired", "expired")
    assert told[2:] == ["one is revoked (2 more since the last such line)", "the list has expired"]


def test_of_many_kinds_those_that_are_too_many_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(operator_log, "notice", lambda event, text: told.append(text))
    complain = RareNotice()
    for number in range(RareNotice.KINDS + 5):
        complain(OperatorEvent.CONNECTION_REFUSED, f"{number}", f"{number}")
    assert told == [f"{number}" for number in range(RareNotice.KINDS + 1)]


def test_the_text_of_a_line_begins_with_nothing_that_the_line_has() -> None:
    """Level, event and program are written before each text."""
    said = re.compile(r"(fastgw|debug|info|note|warning|error)\s*:", re.IGNORECASE)
    twice = []
    for file in Path(fastgw.__file__).parent.rglob("*.py"):
        source = file.read_text()
        for call in ast.walk(ast.parse(source)) if "OperatorEvent." in source else ():
            if not isinstance(call, ast.Call) or len(call.args) < 2:
                continue
            event, text = call.args[:2]
            start = text.values[0] if isinstance(text, ast.JoinedStr) and text.values else text
            is_event = isinstance(event, ast.Attribute) and ast.unparse(event.value) == "OperatorEvent"
            if is_event and isinstance(start, ast.Constant) and said.match(str(start.value)):
                twice.append(f"{file.name}:{call.lineno}: {start.value}")
    assert twice == []
