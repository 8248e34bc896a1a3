"""The writer of an audit log: several processes, rotation, torn entries, and a file that cannot be written."""

import json
import os
import resource
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastgw.audit import log as log_module
from fastgw.audit.chain import AuditEntry, BrokenChain, chained_line, verify
from fastgw.audit.log import WAITING_MAX, AuditLog
from fastgw.operator_events import OUTAGE_REPORT_S


def _entry(text: str) -> AuditEntry:
    return AuditEntry(1_800_000_000.0, "uid 0", "reload", text)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.log"


@pytest.fixture
def make(path):
    made = []

    def make_log() -> AuditLog:
        made.append(AuditLog(str(path)))
        return made[-1]

    yield make_log
    for each in made:
        each.close()


def _write(log: AuditLog, *texts: str) -> None:
    for text in texts:
        log.record(_entry(text))
    log.write()


def _results(*paths: Path) -> list[str]:
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    list(verify(lines))
    return [json.loads(line)["result"] for line in lines]


def test_entries_of_several_processes_form_one_chain_in_a_file_of_the_owner(path, make):
    one, other = make(), make()
    _write(one, "a", "b")
    _write(other, "c")
    _write(one, "d")
    assert _results(path) == ["a", "b", "c", "d"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_after_a_restart(path, make):
    _write(make(), "a")
    _write(make(), "b")
    assert _results(path) == ["a", "b"]


def test_the_chain_goes_on_in_the_next_file_after_a_rotation_by_entries_of_any_process(path, make):
    one, other = make(), make()
    _write(one, "a")
    _write(other, "b")
    rotated = path.rename(path.with_suffix(".1"))
    _write(one, "c")
    _write(other, "d")
    assert _results(rotated, path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("left", [1, 2, 3])
def test_removing_or_rewriting_the_last_entries_of_a_running_gateway_breaks_the_chain(path, make, left, replaced):
    """Also by a program that writes a new file, such as `sed -i`."""
    log = make()
    _write(log, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    if left == 3:  # the last one is rewritten, with a hash of its own
        link = list(verify(lines))[1]
        lines[2] = chained_line(_entry("C"), link)[0]
    if replaced:
        path.unlink()
    path.write_bytes(b"".join(lines[:left]))
    _write(log, "d")
    _write(log, "e")
    with pytest.raises(BrokenChain) as broken:
        _results(path)
    assert broken.value.line == left + 1
    results = [json.loads(line)["result"] for line in path.read_bytes().splitlines()[left:]]
    assert results == [f"entries behind {min(left, 2)} were removed or rewritten; the last was 3", "d", "e"]


def test_the_log_of_another_path_has_a_chain_of_its_own(path, make, tmp_path):
    log, other = make(), make()
    other.path = str(tmp_path / "other.log")
    _write(log, "a", "b", "c")
    _write(other, "A")
    log.path = other.path
    _write(log, "d")
    assert _results(tmp_path / "other.log") == ["A", "d"]


def test_an_entry_of_a_killed_process_is_removed_and_the_log_says_so(path, make):
    _write(make(), "a", "b")
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    _write(make(), "c")
    assert _results(path)[0] == "a"
    assert "incomplete entry" in _results(path)[1]
    assert _results(path)[2] == "c"


def test_a_first_entry_that_is_incomplete_is_removed_too(path, make):
    path.write_bytes(b'{"number":1,"time":"20')
    _write(make(), "a")
    assert _results(path) == ["an incomplete entry of 22 bytes was removed", "a"]


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"x", b"x" * 200_000, b"{}\n"])
def test_a_file_that_is_no_audit_log_stays_as_it_is(path, make, content, capfd):
    path.write_bytes(content)
    log = make()
    _write(log, "a")
    assert path.read_bytes() == content
    assert log.due_at < float("inf")
    assert "is not an audit log" in capfd.readouterr().err


@pytest.mark.parametrize("restarted", [False, True])
def test_a_log_whose_end_is_damaged_is_set_aside_and_a_new_one_says_so(path, make, restarted, capfd):
    """A line that was changed, and a file system that has lost the end: nothing of the file is lost."""
    before = make()
    _write(before, "a", "b")
    whole = path.read_bytes()
    for damaged in (whole.replace(b'"b"', b'"c"'), whole + b"\0" * 200_000):
        path.write_bytes(damaged)
        _write(make() if restarted else before, "d")
        (aside,) = [each for each in path.parent.iterdir() if each != path]
        assert aside.name.startswith("audit.log.damaged-")
        assert aside.read_bytes() == damaged
        repair, result = _results(path)
        assert repair.startswith(f"the log before is damaged, and was renamed to {aside.name}: its last line")
        assert result == "d"
        assert f"{path} is damaged (its last line" in capfd.readouterr().err
        aside.unlink()


def test_entries_that_are_lost_at_the_end_are_told(path, make, capfd):
    path.mkdir()
    log = make()
    _write(log, "a", "b")
    log.close()
    assert f"2 entries could not be written to {path}, and are lost" in capfd.readouterr().err


@pytest.mark.parametrize("make_other", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), Path.mkdir])
def test_what_is_no_regular_file_is_refused(path, make, make_other, capfd):
    make_other(path)
    _write(make(), "a")
    assert "cannot be written" in capfd.readouterr().err


def test_entries_wait_while_the_file_cannot_be_written_and_losses_are_told(path, make, capfd):
    path.mkdir()
    log = make()
    _write(log, *map(str, range(WAITING_MAX + 3)))
    _write(log)
    path.rmdir()
    log.write()
    assert _results(path) == [*map(str, range(WAITING_MAX)), "3 entries were lost while the file could not be written"]
    messages = capfd.readouterr().err
    assert messages.count("audit_not_written") == messages.count("audit_written") == 1
    assert log.due_at == float("inf")


def test_another_cause_of_an_outage_is_told(path, make, capfd, monkeypatch):
    """Once a minute at most; the same cause is not repeated."""
    now = time.monotonic()
    monkeypatch.setattr(log_module, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now}))
    path.mkdir()
    log = make()
    _write(log, "a")
    path.rmdir()
    os.mkfifo(path)
    for passed in (OUTAGE_REPORT_S - 1, 1, 2 * OUTAGE_REPORT_S):
        now += passed
        log.write()
    path.unlink()
    log.write()
    told = [line for line in capfd.readouterr().err.splitlines() if "audit_not_written" in line]
    assert len(told) == 2
    assert "Is a directory" in told[0]
    assert "it is not a regular file" in told[1]


def test_a_full_disk_leaves_whole_entries_only(path, make, capfd):
    log = make()
    _write(log, "a")
    size, limits, handler = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE), None
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
        _write(log, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == size
    log.write()
    assert _results(path) == ["a", "b"]


def test_a_lock_that_another_process_holds_is_waited_for_only_so_long(path, make, monkeypatch, capfd):
    monkeypatch.setattr(log_module, "LOCK_S", 0.0)
    one = make()
    _write(one, "a")
    held = os.open(path, os.O_RDWR)
    try:
        log_module._acquire(held)
        _write(one, "b")
        assert "another process holds its lock" in capfd.readouterr().err
    finally:
        os.close(held)
    one.write()
    assert _results(path) == ["a", "b"]


def test_without_a_path_nothing_is_kept():
    log = AuditLog(None)
    _write(log, "a")
    log.path = "/nonexistent/file"
    log.write()
    assert log.due_at == float("inf")
