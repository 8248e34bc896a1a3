"""The table of quotas, and the periods of the calendar that they count in."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fastgw.config import load
from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES
from fastgw.runtime.node import quota_persistence
from fastgw.runtime.node.quota_persistence import QuotaKeeper, end_reading, keep_all, restore, restore_all
from fastgw.shm import quota_store, quota_table
from fastgw.shm.calendar_periods import calendar_of
from fastgw.shm.quota_store import CannotKeep, Claim, InUse, QuotaFile
from fastgw.shm.quota_table import NOT_OURS, USED_UP, KeyDigest, Period, QuotaTable, StoredCount, own_quotas
from tests.support.quota_races import NOW, begin_together, span
from tests.support.small_file_system import full_disk, small_file_system
from tests.support.small_process import run_in_small_process

TODAY = Period(20_000, NOW, NOW + 86_400)
TOMORROW = Period(20_001, NOW + 86_400, NOW + 2 * 86_400)
SHARED = KeyDigest.of(b"shared")


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Databases of files that a test drops, as one that is killed does, are closed at its end."""
    with ExitStack() as opened:
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *to, **how: opened.enter_context(closing(connect(*to, **how))))
        yield


@pytest.fixture
def table() -> QuotaTable:
    return own_quotas(1024)


def slot_of(table: QuotaTable, key: bytes) -> tuple[int, KeyDigest]:
    return table.assign_slot(KeyDigest.of(key), SHARED)


def test_it_admits_exactly_the_limit_and_begins_anew_with_the_period(table):
    alice = slot_of(table, b"alice")
    assert [table.spend(*alice, TODAY, 1, 3) for _ in range(5)] == [2, 1, 0, USED_UP, USED_UP]
    assert table.spend(*slot_of(table, b"bob"), TODAY, 1, 3) == 2
    assert table.spend(*alice, TOMORROW, 1, 3) == 2
    assert table.look_up(KeyDigest.of(b"alice"), TOMORROW) == 1


def test_what_is_in_use_is_told(table):
    """Slots that cannot be given to another key."""
    assert table.occupied(NOW) == (0, 0)
    for number in range(20):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
    assert (table.occupied(NOW), table.slots) == ((20, 0), 1024)
    table.spend(*slot_of(table, b"1"), TOMORROW, 1, 3)
    assert table.occupied(TODAY.ends_date + quota_table.GRACE_S + 1) == (1, 0)
    for number in range(3000):
        with contextlib.suppress(quota_table.Full):
            table.spend(*slot_of(table, b"many %d" % number), TODAY, 1, 3)
    own, shared = table.occupied(NOW)
    assert 1000 <= own <= 1024
    assert shared == 1  # all that found none are counted together


def test_what_costs_more_than_is_left_spends_nothing(table):
    alice = slot_of(table, b"alice")
    assert table.spend(*alice, TODAY, 2, 3) == 1
    assert table.spend(*alice, TODAY, 2, 3) == USED_UP
    assert table.spend(*alice, TODAY, 1, 3) == 0


def test_what_is_given_back_is_of_its_period_alone(table):
    alice = slot_of(table, b"alice")
    table.spend(*alice, TODAY, 1, 3)
    table.refund(*alice, TODAY, 1)
    table.refund(*alice, TODAY, 1)
    assert table.count(*alice, TODAY) == 0
    table.spend(*alice, TOMORROW, 1, 3)
    table.refund(*alice, TODAY, 1)
    assert table.count(*alice, TOMORROW) == 1


def test_a_clock_that_is_a_little_behind_counts_in_the_period_that_has_begun(table):
    alice = slot_of(table, b"alice")
    table.spend(*alice, TOMORROW, 1, 3)
    assert table.spend(*alice, TODAY, 1, 3) == 1
    assert table.count(*alice, TOMORROW) == 2


def test_a_clock_that_was_wrong_forgets_nothing(table):
    alice = slot_of(table, b"alice")
    wrong = Period(TODAY.number + 400, NOW, NOW)
    table.spend(*alice, wrong, 2, 3)
    assert table.spend(*alice, TODAY, 1, 3) == 0
    assert table.spend(*alice, TODAY, 1, 3) == USED_UP
    assert table.spend(*alice, TOMORROW, 1, 3) == 2


@pytest.mark.parametrize(
    "idle", [1, 2, 2**18, 2**18 + 2, 2**19 - 1, 2**19, 2**19 + 1, 2**20 - 2, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**19 + 1]
)
def test_a_key_begins_anew_however_long_it_was_idle(table, idle):
    """Also when the number of its period looks like the present one, or one to come."""
    alice = slot_of(table, b"alice")
    assert [table.spend(*alice, span(0), 1, 2) for _ in range(3)] == [1, 0, USED_UP]
    assert table.count(*alice, span(idle)) == table.look_up(KeyDigest.of(b"alice"), span(idle)) == 0
    assert [table.spend(*alice, span(idle), 1, 2) for _ in range(3)] == [1, 0, USED_UP]
    assert table.count(*alice, span(idle)) == 2
    assert table.spend(*alice, span(idle + 1), 1, 2) == 1


@pytest.mark.parametrize("idle", [2**19 + 1, 2**20 - 1, 2**20])
def test_processes_that_begin_anew_at_once_admit_the_limit_together(idle):
    run_in_small_process(begin_together, str(idle))


def test_reset(table):
    alice = slot_of(table, b"alice")
    table.spend(*alice, TODAY, 3, 3)
    assert table.reset(KeyDigest.of(b"alice"))
    assert table.spend(*alice, TODAY, 1, 3) == 2
    assert not table.reset(KeyDigest.of(b"nobody"))


def test_keys_that_find_no_slot_share_one_and_none_is_forgotten(table):
    """Far more keys than slots: each spends, and none is ever admitted twice."""
    admitted = [0] * 3000
    for _ in range(2):
        for number in range(3000):
            slot = slot_of(table, b"%d" % number)
            admitted[number] += table.spend(*slot, TODAY, 1, 1) >= 0
    assert max(admitted) == 1
    assert sum(admitted) > 900
    assert table.overflowed


def test_a_slot_whose_period_is_long_over_is_given_to_another_key(monkeypatch):
    table = own_quotas(quota_table.PROBED)
    first = [slot_of(table, b"%d" % number) for number in range(quota_table.PROBED)]
    for each in first:
        table.spend(*each, TODAY, 1, 5)
    assert slot_of(table, b"one more")[1] == SHARED
    monkeypatch.setattr(quota_table, "time", lambda: NOW + 86_400 + 2 * quota_table.GRACE_S)
    slot, id_ = slot_of(table, b"another")
    assert id_ == KeyDigest.of(b"another")
    assert table.spend(slot, id_, TOMORROW, 1, 5) == 4
    (evicted,) = [each for each in first if each[0] == slot]
    assert table.spend(*evicted, TOMORROW, 1, 5) == NOT_OURS


def test_a_slot_that_nobody_has_spent_in_yet_is_given_to_nobody_else():
    """Who was given it is about to."""
    table = own_quotas(quota_table.PROBED)
    for number in range(quota_table.PROBED):
        assert slot_of(table, b"%d" % number)[1] != SHARED
    assert slot_of(table, b"one more")[1] == SHARED
    for number in range(quota_table.PROBED):
        assert table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 5) == 4


def test_what_is_given_back_is_of_its_key_alone(table):
    """Also where half of the digest is the same: the slot may have been given to that key meanwhile."""
    own = KeyDigest(7, 9)
    slot, _ = table.assign_slot(own, SHARED)
    assert table.spend(slot, own, TODAY, 3, 5) == 2
    for other in (KeyDigest(8, 9), KeyDigest(7, 8)):
        table.refund(slot, other, TODAY, 3)
        assert table.count(slot, other, TODAY) == 0
        assert table.spend(slot, other, TODAY, 1, 5) == NOT_OURS
    assert table.count(slot, own, TODAY) == 3


def test_each_table_has_a_secret_of_its_own():
    """Else a client could choose keys that all fall into the same few slots."""
    keys = [b"key %d" % number for number in range(50)]
    first, second = ([slot_of(table, key)[0] for key in keys] for table in (own_quotas(1024), own_quotas(1024)))
    assert first != second


def rows(table: QuotaTable) -> dict[KeyDigest, tuple[int, int, StoredCount]]:
    return {each[2].id: each for block in table.marked() for each in table.unkept(block)}


def test_what_is_kept_can_be_restored_and_only_what_changed_is_kept_again(table):
    alice, bob = slot_of(table, b"alice"), slot_of(table, b"bob")
    table.spend(*alice, TODAY, 2, 9)
    table.spend(*bob, TODAY, 3, 9)
    found = rows(table)
    assert {row.used for _, _, row in found.values()} == {2, 3}
    for slot, state, _ in found.values():
        table.mark_saved(slot, state)
    assert rows(table) == {}
    table.spend(*bob, TODAY, 1, 9)
    ((_, _, row),) = rows(table).values()
    assert (row.id, row.used, row.until) == (KeyDigest.of(b"bob"), 4, int(TODAY.ends_date))

    other = own_quotas(1024)
    for _, _, row in found.values():
        other.restore(row)
    assert other.spend(*slot_of(other, b"alice"), TODAY, 7, 9) == 0
    assert other.look_up(KeyDigest.of(b"bob"), TODAY) == 3
    other.restore(found[KeyDigest.of(b"alice")][2])  # it is behind by now
    assert other.look_up(KeyDigest.of(b"alice"), TODAY) == 9
    assert [row.id for _, _, row in rows(other).values()] == [KeyDigest.of(b"alice")]


def test_what_a_file_says_of_a_period_that_is_over_does_not_count(table):
    alice = slot_of(table, b"alice")
    table.spend(*alice, TOMORROW, 1, 9)
    table.restore(StoredCount(KeyDigest.of(b"alice"), TODAY.number, 9, int(NOW)))
    assert table.count(*alice, TOMORROW) == 1


def test_a_slot_is_not_given_to_another_key_while_a_count_is_restored_to_it(monkeypatch):
    """Another process tries to at the moment before the count is there, unless it would have to wait."""
    table, row = own_quotas(quota_table.PROBED), StoredCount(KeyDigest.of(b"0"), 20_001, 90, int(TOMORROW.ends_date))
    for number in range(quota_table.PROBED):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 5)
    monkeypatch.setattr(quota_table, "time", lambda: NOW + 86_400 + 2 * quota_table.GRACE_S)
    swap, lock, tried = table._swap, quota_table.fcntl.lockf, []

    def lock_at_once(fd: int, command: int, *where: int) -> None:
        lock(fd, command | (fcntl.LOCK_NB if command == fcntl.LOCK_EX else 0), *where)

    def give_away() -> None:
        monkeypatch.setattr(quota_table.fcntl, "lockf", lock_at_once)
        with contextlib.suppress(BlockingIOError):
            slot_of(table, b"another")

    def give_away_and_swap(at: int, old: int, new: int) -> bool:
        tried.append(at)
        if len(tried) == 1:
            table._swap = swap
            if not (pid := os.fork()):
                give_away()
                os._exit(0)
            os.waitpid(pid, 0)
        return swap(at, old, new)

    table._swap = give_away_and_swap
    table.restore(row)
    assert tried
    assert table.look_up(KeyDigest.of(b"another"), TOMORROW) == 0
    assert table.look_up(row.id, TOMORROW) == 90


# --- the calendar ---


def stamp(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-28", 24),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-11-01", 25),
        ("Asia/Kathmandu", "2026-06-01", 24),
        ("Asia/Beirut", "2026-03-29", 23),  # midnight is skipped: the day begins at one
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("UTC", "2026-03-29", 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_there_say(zone, day, hours):
    calendar = calendar_of("day", ZoneInfo(zone))
    noon = calendar(stamp(f"{day}T12:00", zone))
    assert (noon.ends_date - noon.begins_date) / 3600 == hours
    assert calendar(noon.begins_date) == calendar(noon.ends_date - 1) == noon
    assert calendar(noon.ends_date).number == noon.number + 1
    assert calendar(noon.begins_date - 1).number == noon.number - 1
    assert calendar(noon.begins_date - 1).ends_date == noon.begins_date


def test_months_follow_each_other_in_the_zone():
    calendar = calendar_of("month", ZoneInfo("Pacific/Auckland"))
    december = calendar(stamp("2026-12-31T23:59:59", "Pacific/Auckland"))
    january = calendar(december.ends_date)
    assert january.number == december.number + 1
    assert january.begins_date == stamp("2027-01-01T00:00", "Pacific/Auckland")
    assert (calendar(stamp("2027-02-10T00:00", "Pacific/Auckland")).ends_date - january.ends_date) / 86_400 == 28


def test_spans_are_counted_from_1970():
    assert calendar_of(900.0, ZoneInfo("Asia/Tokyo"))(1800.5) == Period(2, 1800, 2700)


# --- the file ---


def written(file: QuotaFile, count: int = 1) -> None:
    file.write([StoredCount(KeyDigest.of(b"%d" % number), 7, number, int(NOW)) for number in range(count)], NOW)


def test_what_was_written_is_read_but_for_what_is_over(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    assert [*file.read(NOW)] == []
    written(file, 3)
    assert sorted(row.used for row in file.read(NOW - 1)) == [0, 1, 2]
    assert [*file.read(NOW)] == []
    file.close()
    assert (tmp_path / "q").stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["q"]


def test_a_full_disk_is_told_and_nothing_of_the_writing_is_half_done(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    written(file)
    assert file._database is not None
    file._database.execute("PRAGMA max_page_count=4")
    with pytest.raises(CannotKeep, match="q cannot be written: database or disk is full"):
        written(file, 10_000)
    assert len([*file.read(0)]) == 1
    written(file, 10_000)  # by another connection: there is room again
    assert len([*file.read(0)]) == 10_000
    file.close()


def test_counts_are_forgotten_a_day_after_their_period(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    written(file, 3)
    file.write([], NOW + 90_000)
    assert [*file.read(0)] == []
    file.close()


def test_a_file_of_another_version_is_left_alone(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    written(file)
    assert file._database is not None
    file._database.execute("PRAGMA user_version=9")
    file.close()
    with pytest.raises(CannotKeep, match="another version"):
        written(file)


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path, capfd):
    (tmp_path / "q").write_bytes(b"something else" * 100)
    table, settings = own_quotas(1024), config_of(tmp_path)
    restore_all(table, settings)
    told = capfd.readouterr().err
    assert "q cannot be read: file is not a database; the counters are kept in memory only, and the file is not" in told
    table.spend(*slot_of(table, b"a"), TODAY, 1, 3)
    keep_all(table, settings, b"run", None)
    assert "q cannot be " in (told := capfd.readouterr().err)
    assert "file is not a database; the counts since the last write are lost" in told
    assert (tmp_path / "q").read_bytes() == b"something else" * 100


def damaged(path: Path, damage: str) -> bytes:
    """Damage a file, and return its contents then."""
    whole = path.read_bytes()
    contents = whole[: len(whole) // 2] if damage == "half" else whole[:4096] + b"\xaa" * (len(whole) - 4096)
    path.write_bytes(contents)
    return contents


def set_aside(tmp_path: Path) -> list[Path]:
    return [each for each in tmp_path.iterdir() if each.name.startswith("q.damaged-")]


@pytest.mark.parametrize("damage", ["half", "pages"])
def test_a_file_that_is_damaged_while_the_gateway_runs_is_set_aside_and_all_counts_are_in_the_new_one(
    tmp_path, capfd, damage
):
    table, settings = own_quotas(1024), config_of(tmp_path)

    async def write_changes() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        await keeper.write_changes()  # `run` does so at once
        keeper.close()

    for number in range(500):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
    asyncio.run(write_changes())
    contents = damaged(tmp_path / "q", damage)
    table.spend(*slot_of(table, b"0"), TODAY, 1, 3)
    asyncio.run(write_changes())
    (aside,) = set_aside(tmp_path)
    assert aside.read_bytes() == contents
    assert f"q is damaged, and is {aside} now" in capfd.readouterr().err
    file = QuotaFile(str(tmp_path / "q"))
    assert Counter(row.used for row in file.read(0)) == {1: 499, 2: 1}
    file.close()


def test_a_damaged_file_is_set_aside_at_the_start_and_by_the_last_write(tmp_path, capfd):
    path, settings = tmp_path / "q", config_of(tmp_path)
    for is_start in (True, False):
        table = own_quotas(1024)
        for number in range(500):
            table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
        keep_all(table, settings, b"run", None)
        contents = damaged(path, "pages")
        if is_start:
            table = own_quotas(1024)
            restore_all(table, settings)
        table.spend(*slot_of(table, b"0"), TODAY, 1, 3)
        keep_all(table, settings, b"run", None)
        assert capfd.readouterr().err.count("a new one begins with the counts in memory") == 1
        aside = max(set_aside(tmp_path), key=lambda each: each.stat().st_ctime_ns)
        assert aside.read_bytes() == contents
        file = QuotaFile(str(path))
        found = {row.id: row.used for row in file.read(0)}
        file.close()
        assert found[KeyDigest.of(b"0")] == (1 if is_start else 2)
        assert len(found) == (1 if is_start else 500)
        path.unlink()


def test_a_new_file_that_is_damaged_before_its_log_was_copied_into_it_is_known_as_the_gateways(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    written(file)  # it stays open: what was written last is in the log
    path = tmp_path / "left"  # by a gateway that was killed, on a disk that lost some of it
    path.write_bytes((tmp_path / "q").read_bytes())
    contents = damaged(path, "half")
    later = QuotaFile(str(path))
    assert list(later.read(0)) == []
    later.close()
    file.close()
    assert Path(later.aside).read_bytes() == contents


def test_the_file_of_an_earlier_version_is_known_as_the_gateways_once_it_was_opened(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    written(file)
    file.close()
    with closing(sqlite3.connect(tmp_path / "q")) as database:
        database.execute("PRAGMA application_id=0")
        written(file)
        file.close()
        assert database.execute("PRAGMA application_id").fetchone() == (0x66677771,)
        database.execute("PRAGMA application_id=1")
    with pytest.raises(CannotKeep, match="a database of another program"):
        written(file)


def config_of(tmp_path: Path) -> Config:
    """Counts are kept in `q`."""
    file = tmp_path / "gateway.yaml"
    main = "listeners: {main: {address: '127.0.0.1:0'}}\nroutes: [{name: x, respond: {body: ok}}]\n"
    file.write_text(f"version: 1\n{main}quotas: {{file: '{tmp_path}/q'}}\n")
    return load(str(file), TYPES).config


ID = KeyDigest.of(b"a").digest
NOT_UTF_8, SIXTEEN = "\udcff", "0123456789abcdef"


@pytest.mark.parametrize(
    "row",
    [
        ("text", 7, 1, int(NOW)),
        (b"short", 7, 1, int(NOW)),
        (ID, -1, 1, int(NOW)),
        (ID, 1 << 20, 1, int(NOW)),
        (ID, 7, -1, int(NOW)),
        (ID, 7, 1 << 44, int(NOW)),
        (ID, 7, 1, "later"),
        (ID, 7, 1.5, int(NOW)),
        (ID, 7, 1, (1 << 63) - 1),
        (NOT_UTF_8, 7, 1, int(NOW)),
        (ID, NOT_UTF_8, 1, int(NOW)),
        (ID, 7, NOT_UTF_8, int(NOW)),
        (ID, 7, 1, NOT_UTF_8),
        (SIXTEEN, 7, 1, int(NOW)),
    ],
)
def test_rows_that_no_gateway_has_written_count_for_nothing(tmp_path, capfd, row):
    """What is read goes into words of memory as it is: a count that is too large would be another period."""
    file = QuotaFile(str(tmp_path / "q"))
    written(file)
    assert file._database is not None
    written_as = ", ".join("CAST(? AS TEXT)" if isinstance(each, str) else "?" for each in row)
    values = [os.fsencode(each) if isinstance(each, str) else each for each in row]
    file._database.execute(f"INSERT INTO quota VALUES ({written_as})", values)
    file.close()
    file, table = QuotaFile(file.path), own_quotas(1024)
    end_reading(table, file, restore(table, file.read(NOW - 1)))
    file.close()
    assert file.strange == 1
    assert b"q holds 1 invalid rows" in capfd.readouterr().err.encode()
    assert [row.id for block in table.in_use() for _, _, row in table.unkept(block)] == []
    assert table.look_up(KeyDigest.of(b"0"), Period(7, NOW - 86_400, NOW)) == 0


@pytest.mark.parametrize("is_on_a_full_disk", [False, True])
def test_a_row_with_text_that_is_not_utf_8_does_not_keep_the_others_from_being_read_and_written(
    tmp_path, is_on_a_full_disk
):
    settings, table = left_by_an_earlier_run(tmp_path), own_quotas(1024)
    until = int(TODAY.ends_date)
    with closing(sqlite3.connect(tmp_path / "q")) as database, database:
        database.execute("INSERT INTO quota VALUES (CAST(x'ff' AS TEXT), 7, 1, ?)", (until,))
    with full_disk() if is_on_a_full_disk else contextlib.nullcontext():
        restore_all(table, settings)
    assert used(table, b"a", b"b") == [50, 7]
    spend(table, b"a", 1)
    keep_all(table, settings, b"run", None)
    assert kept_in(tmp_path) == 58


def test_a_count_that_is_as_large_as_any_is_the_one_of_its_period(tmp_path):
    file = QuotaFile(str(tmp_path / "q"))
    row = StoredCount(KeyDigest.of(b"a"), (1 << 20) - 1, (1 << 44) - 1, int(NOW) + 1)
    file.write([row], NOW)
    table = own_quotas(1024)
    restore(table, file.read(NOW))
    file.close()
    assert table.look_up(row.id, Period((1 << 20) - 1, NOW - 86_400, NOW + 1)) == (1 << 44) - 1


def test_a_file_is_one_runs_whichever_of_its_processes_has_the_lock(tmp_path):
    path = str(tmp_path / "q")
    first, beside, other = Claim(path, b"one"), Claim(path, b"one"), Claim(path, b"two")
    first.acquire()
    beside.acquire()
    assert beside.fd == -1
    with pytest.raises(InUse, match="q is used by another gateway"):
        other.acquire()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(InUse):
        Claim(str(tmp_path / "link"), b"two").acquire()
    first.close()
    beside.acquire()
    with pytest.raises(InUse):
        other.acquire()
    beside.close()
    other.acquire()
    with pytest.raises(InUse):
        first.acquire()
    other.close()
    with pytest.raises(CannotKeep, match="cannot be written: No such file or directory"):
        Claim(str(tmp_path / "nowhere" / "q"), b"one").acquire()


def removed(tmp_path: Path) -> None:
    for each in tmp_path.glob("q*"):
        each.unlink()


@pytest.mark.parametrize("is_seen_by", ["a write", "the next look", "the last write"])
def test_a_file_that_is_removed_while_the_gateway_runs_is_written_again_with_all_counts(tmp_path, capfd, is_seen_by):
    table, settings = own_quotas(1024), config_of(tmp_path)

    async def run() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        removed(tmp_path)
        if is_seen_by == "a write":
            table.spend(*slot_of(table, b"0"), TODAY, 1, 3)
            await keeper.write_changes()
            await keeper.write_changes()  # `run` does so at once
        elif is_seen_by == "the next look":
            keeper._is_tried = False
            await keeper.write_changes()
        keeper.close()

    for number in range(500):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
    asyncio.run(run())
    if is_seen_by == "the last write":
        keep_all(table, settings, b"run", None)
    else:
        assert "q was removed or replaced while it was in use" in capfd.readouterr().err
    file = QuotaFile(str(tmp_path / "q"))
    assert sum(row.used for row in file.read(0)) == 500 + (is_seen_by == "a write")
    file.close()


@pytest.mark.parametrize("is_replaced", ["after a failed write", "before the next control process", "before the end"])
def test_a_file_that_is_replaced_while_it_is_closed_is_written_again_with_all_counts(tmp_path, capfd, is_replaced):
    table, settings = own_quotas(1024), config_of(tmp_path)
    older = QuotaFile(str(tmp_path / "backup"))
    older.write((), 0.0)
    older.close()

    async def run() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        await keeper.write_changes()  # `run` does so at once
        if is_replaced == "after a failed write":
            table.spend(*slot_of(table, b"0"), TODAY, 1, 3)
            with full_disk():
                await keeper.write_changes()
            assert keeper.file_info.problem
        else:
            keeper.close()
        removed(tmp_path)
        (tmp_path / "backup").rename(tmp_path / "q")
        if is_replaced == "before the next control process":
            keeper = QuotaKeeper(table, b"run")
            keeper.use_configuration(settings, begins=True)
        if is_replaced != "before the end":
            await keeper.write_changes()
            await keeper.write_changes()
            keeper.close()

    for number in range(500):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
    asyncio.run(run())
    if is_replaced == "before the end":
        keep_all(table, settings, b"run", None)
    assert "q was removed or replaced while it was in use" in capfd.readouterr().err
    file = QuotaFile(str(tmp_path / "q"))
    assert sum(row.used for row in file.read(0)) == 500 + (is_replaced == "after a failed write")
    file.close()


@pytest.mark.parametrize("is_replaced", ["after a failed write", "before the next control process", "before the end"])
def test_a_file_that_is_replaced_by_its_own_backup_is_written_again_with_all_counts(tmp_path, capfd, is_replaced):
    """In place, so that device and inode are the same."""
    table, settings = own_quotas(1024), config_of(tmp_path)

    async def keep(before_the_end: Callable[[QuotaKeeper], Awaitable[None]]) -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        await keeper.write_changes()  # `run` does so at once
        await before_the_end(keeper)
        keeper.close()

    async def fail(keeper: QuotaKeeper) -> None:
        table.spend(*slot_of(table, b"0"), TODAY, 1, 3)
        with full_disk():
            await keeper.write_changes()
        assert keeper.file_info.problem
        put_back(tmp_path, backup)
        await keeper.write_changes()
        await keeper.write_changes()

    async def go_on(keeper: QuotaKeeper) -> None: ...

    table.spend(*slot_of(table, b"one of few"), TODAY, 1, 3)
    asyncio.run(keep(go_on))
    backup = (tmp_path / "q").read_bytes()
    for number in range(500):
        table.spend(*slot_of(table, b"%d" % number), TODAY, 1, 3)
    asyncio.run(keep(fail if is_replaced == "after a failed write" else go_on))
    if is_replaced != "after a failed write":
        put_back(tmp_path, backup)
    if is_replaced == "before the next control process":
        asyncio.run(keep(go_on))
    elif is_replaced == "before the end":
        keep_all(table, settings, b"run", None)
    assert "q was removed or replaced while it was in use" in capfd.readouterr().err
    assert kept_in(tmp_path) == 501 + (is_replaced == "after a failed write")


@pytest.mark.parametrize("first", [1, 2])
def test_a_process_that_is_killed_at_any_line_loses_no_count(tmp_path, first):
    """It follows a file that was replaced by its own backup; the next process goes on."""
    table, settings = own_quotas(1024), config_of(tmp_path)

    async def follow() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        for _ in range(3):
            table.spend(*slot_of(table, b"busy"), TODAY, 1, 1_000_000)
            await keeper.write_changes()
        keeper.close()

    asyncio.run(follow())
    backup = (tmp_path / "q").read_bytes()
    for line in count(first, 13):
        table.spend(*slot_of(table, b"idle"), TODAY, 1, 1_000_000)
        asyncio.run(follow())
        put_back(tmp_path, backup)
        is_killed = is_killed_at(line, lambda: asyncio.run(follow()))
        asyncio.run(follow())
        spent = sum(table.look_up(KeyDigest.of(key), TODAY) for key in (b"idle", b"busy"))
        assert kept_in(tmp_path) == spent, f"killed at line {line}"
        if not is_killed:
            break
    assert line > 100


def put_back(tmp_path: Path, backup: bytes) -> None:
    for each in tmp_path.glob("q-[ws]*"):  # not the lock
        each.unlink()
    (tmp_path / "q").write_bytes(backup)


def kept_in(tmp_path: Path) -> int:
    file = QuotaFile(str(tmp_path / "q"))
    used = sum(row.used for row in file.read(0))
    file.close()
    return used


def is_killed_at(line: int, act: Callable[[], None], *files: str) -> bool:
    """Do this in another process, which is killed at so many lines of the code of the file, unless it ends before.
    `files`: of the code; none: those that write.
    """
    files = files or ("quota_store.py", "quota_persistence.py")
    pid = os.fork()
    if not pid:
        left = line

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(files):
                return None
            left -= event == "line"
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        threading.settrace(trace)
        sys.settrace(trace)
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def spend(table: QuotaTable, key: bytes, cost: int) -> None:
    table.spend(*slot_of(table, key), TODAY, cost, 1_000_000)


def used(table: QuotaTable, *keys: bytes) -> list[int]:
    return [table.look_up(KeyDigest.of(key), TODAY) for key in keys]


def left_by_an_earlier_run(tmp_path: Path, *, is_killed: bool = False) -> Config:
    """Its file has 50 of `a` and 7 of `b`. `is_killed`: the last commits are in the write-ahead log."""
    tmp_path.mkdir(exist_ok=True)
    table, settings = own_quotas(1024), config_of(tmp_path)
    spend(table, b"a", 50)
    if is_killed:
        file = QuotaFile(str(tmp_path / "q"))
        file.try_to_write()
        file.close()
        spend(table, b"b", 7)
        assert is_killed_at(10**9, lambda: write_and_die(table, settings))
        (tmp_path / "q-shm").unlink()  # else it needs no space
        assert (tmp_path / "q-wal").stat().st_size
    else:
        spend(table, b"b", 7)
        keep_all(table, settings, b"run", None)
    return settings


def write_and_die(table: QuotaTable, settings: Config) -> None:
    async def write() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(write())


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_start_on_a_full_disk_reads_the_counts(tmp_path, capfd, is_killed):
    settings, table = left_by_an_earlier_run(tmp_path, is_killed=is_killed), own_quotas(1024)

    async def run() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        with full_disk():
            await keeper.write_changes()
        assert keeper.file_info.problem
        spend(table, b"b", 1)
        await keeper.write_changes()
        assert "q is written again" in capfd.readouterr().err
        keeper.close()

    with full_disk():
        restore_all(table, settings)
    assert used(table, b"a", b"b") == [50, 7]
    spend(table, b"a", 2)
    asyncio.run(run())
    assert kept_in(tmp_path) == 60
    assert sorted(each.name for each in tmp_path.glob("q*")) == ["q", "q-lock"]


def test_a_disk_that_is_full_is_said_to_be(tmp_path):
    with small_file_system(tmp_path):
        if not tmp_path.is_mount():
            pytest.skip("nothing may be mounted here")
        file = QuotaFile(str(tmp_path / "q"))
        written(file)
        file.close()
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "large").write_bytes(bytes(5_000_000))
        with pytest.raises(CannotKeep, match="q cannot be written: database or disk is full"):
            written(file)
        assert len([*file.read(0)]) == 1


@pytest.mark.parametrize("is_read", ["by control", "by a reload and control", "by the last write"])
def test_a_file_that_cannot_be_read_at_the_start_is_not_written_until_it_is(tmp_path, capfd, is_read):
    """Another program locks it. The higher count of each key holds then."""
    settings, table = left_by_an_earlier_run(tmp_path), own_quotas(1024)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def run() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        with locked(tmp_path):
            await keeper.write_changes()
        assert "is not written until it can be read" in capfd.readouterr().err
        if is_read == "by a reload and control":
            keeper.use_configuration(config_of(elsewhere))
            await keeper.write_changes()
            keeper.use_configuration(settings)
        if is_read != "by the last write":
            await keeper.write_changes()
        keeper.close()

    with locked(tmp_path):
        restore_all(table, settings)
    assert (
        "q cannot be read: database is locked; the counters are kept in memory only, and the file is not written until "
        "it can be read" in capfd.readouterr().err
    )
    for key, cost in ((b"a", 10), (b"c", 3)):
        spend(table, key, cost)
    asyncio.run(run())
    if is_read == "by the last write":
        keep_all(table, settings, b"run", None)
    assert used(table, b"a", b"b", b"c") == [50, 7, 3]
    assert kept_in(tmp_path) == 60


def test_a_count_of_a_period_that_ended_before_the_file_can_be_read_does_not_count(tmp_path):
    settings, table = left_by_an_earlier_run(tmp_path), own_quotas(1024)
    with locked(tmp_path):
        restore_all(table, settings)
    table.spend(*slot_of(table, b"a"), TOMORROW, 10, 1_000)
    keep_all(table, settings, b"run", None)
    assert table.look_up(KeyDigest.of(b"a"), TOMORROW) == 10
    assert used(table, b"b") == [7]


@pytest.mark.parametrize("first", [1, 6])
def test_a_process_that_is_killed_while_it_restores_the_counts_of_the_file_loses_none(tmp_path, first):
    settings = left_by_an_earlier_run(tmp_path)
    backup = (tmp_path / "q").read_bytes()

    async def add() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        keeper.close()

    for line in count(first, 17):
        table = own_quotas(1024)
        table.is_file_unread = True
        spend(table, b"a", 10)
        is_killed = is_killed_at(line, lambda: asyncio.run(add()), "quota_persistence.py", "quota_table.py")
        spend(table, b"c", 1)
        asyncio.run(add())
        assert used(table, b"a", b"b", b"c") == [50, 7, 1], f"killed at line {line}"
        assert kept_in(tmp_path) == 58, f"killed at line {line}"
        put_back(tmp_path, backup)
        if not is_killed:
            break
    assert line > 100


def test_counts_of_a_file_that_was_replaced_by_its_backup_before_an_upgrade_are_written_again(tmp_path, capfd):
    settings, table = config_of(tmp_path), own_quotas(1024)
    restore_all(table, settings)
    spend(table, b"a", 1)
    keep_all(table, settings, b"run", None)
    backup = (tmp_path / "q").read_bytes()
    spend(table, b"a", 49)
    keep_all(table, settings, b"run", None)
    put_back(tmp_path, backup)
    restore_all(table, settings)  # by the next program, with the same table
    assert "was removed or replaced" in capfd.readouterr().err
    keep_all(table, settings, b"run", None)
    assert kept_in(tmp_path) == 50


def write_by_control(table: QuotaTable, settings: Config) -> None:
    async def write() -> None:
        keeper = QuotaKeeper(table, b"run")
        keeper.use_configuration(settings, begins=True)
        await keeper.write_changes()
        await keeper.write_changes()  # `run` does so at once
        keeper.close()

    asyncio.run(write())


@pytest.mark.parametrize("is_read", ["at once", "by control", "by the last write"])
@pytest.mark.parametrize("change", ["reset", "refund"])
def test_a_reset_that_is_not_in_the_file_yet_outlives_an_upgrade(tmp_path, change, is_read):
    """The file is the one that this memory was written to, so it knows nothing of a key that memory does not know."""
    settings, table = config_of(tmp_path), own_quotas(1024)
    restore_all(table, settings)
    spend(table, b"a", 50)
    write_by_control(table, settings)
    if change == "reset":
        assert table.reset(KeyDigest.of(b"a"))
    else:
        table.refund(*slot_of(table, b"a"), TODAY, 50)
    left_out = KeyDigest.of(b"left out").digest, TODAY.number, 3, int(TODAY.ends_date)  # memory was full
    with closing(sqlite3.connect(tmp_path / "q")) as database, database:
        database.execute("INSERT INTO quota VALUES (?, ?, ?, ?)", left_out)
    with locked(tmp_path) if is_read != "at once" else contextlib.nullcontext():
        restore_all(table, settings)  # by the next program, with the same table
    if is_read != "by the last write":
        write_by_control(table, settings)
    keep_all(table, settings, b"run", None)
    assert used(table, b"a", b"left out") == [0, 3]
    assert kept_in(tmp_path) == 3


def test_a_write_of_the_former_control_process_at_an_upgrade_does_not_make_the_file_another_one(
    tmp_path, capfd, monkeypatch
):
    """It is committed between the look at the tokens in memory and that at the one in the file."""
    settings, table = config_of(tmp_path), own_quotas(1024)
    restore_all(table, settings)
    spend(table, b"a", 50)
    spend(table, b"b", 1)
    write_by_control(table, settings)
    identity = quota_store._identity_of
    spend(table, b"b", 1)

    def identity_after_a_write(database: sqlite3.Connection) -> tuple[int, int]:
        monkeypatch.setattr(quota_store, "_identity_of", identity)
        write_by_control(table, settings)
        assert table.reset(KeyDigest.of(b"a"))
        return identity(database)

    monkeypatch.setattr(quota_store, "_identity_of", identity_after_a_write)
    restore_all(table, settings)  # by the next program, with the same table
    assert quota_store._identity_of is identity
    assert used(table, b"a", b"b") == [0, 2]
    assert [row.id for block in table.in_use() for _, _, row in table.unkept(block)] == [KeyDigest.of(b"a")]
    write_by_control(table, settings)
    assert kept_in(tmp_path) == 2
    assert "removed or replaced" not in capfd.readouterr().err


def test_a_file_whose_directory_is_there_later_is_read_before_it_is_written(tmp_path):
    settings, table = left_by_an_earlier_run(tmp_path / "later"), own_quotas(1024)
    (tmp_path / "later").rename(tmp_path / "elsewhere")
    restore_all(table, settings)
    spend(table, b"a", 1)
    (tmp_path / "elsewhere").rename(tmp_path / "later")
    keep_all(table, settings, b"run", None)
    assert kept_in(tmp_path / "later") == 57


def test_a_claim_that_is_given_up_while_it_is_acquired_is_released(tmp_path, monkeypatch):
    """The file system is slow: the configuration changes before the file of the lock is open."""
    for name in ("former", "next"):
        (tmp_path / name).mkdir()
    former, settings = config_of(tmp_path / "former"), config_of(tmp_path / "next")
    acquire, loop_is_done = Claim.acquire, threading.Event()

    async def run() -> None:
        loop, keeper = asyncio.get_running_loop(), QuotaKeeper(own_quotas(1024), b"run")

        def change_configuration() -> None:
            keeper.use_configuration(settings)
            loop_is_done.set()

        def acquire_late(claim: Claim) -> None:
            monkeypatch.setattr(Claim, "acquire", acquire)
            loop.call_soon_threadsafe(change_configuration)
            loop_is_done.wait()
            acquire(claim)

        monkeypatch.setattr(Claim, "acquire", acquire_late)
        keeper.use_configuration(former)
        await keeper.write_changes()
        await keeper.write_changes()
        other = Claim(str(tmp_path / "former" / "q"), b"another gateway")
        other.acquire()
        other.close()
        with pytest.raises(InUse):
            Claim(str(tmp_path / "next" / "q"), b"another gateway").acquire()
        keeper.close()

    asyncio.run(run())
    assert loop_is_done.is_set()


def test_a_claim_on_a_full_disk_keeps_no_other_process_of_the_gateway_out(tmp_path):
    claim, beside = Claim(str(tmp_path / "q"), b"one"), Claim(str(tmp_path / "q"), b"one")
    with full_disk(), pytest.raises(CannotKeep):
        claim.acquire()
    beside.acquire()
    claim.acquire()
    beside.close()
    claim.close()


def test_counts_of_a_file_that_is_no_longer_configured_while_it_is_read_are_written_to_the_next_one(
    tmp_path, monkeypatch
):
    """The configuration changes between two turns in which counts of the former file are restored."""
    former, table = left_by_an_earlier_run(tmp_path / "former"), own_quotas(1024)
    (tmp_path / "next").mkdir()
    settings = config_of(tmp_path / "next")
    monkeypatch.setattr(quota_persistence, "ROWS_PER_TURN", 1)

    async def run() -> None:
        keeper = QuotaKeeper(table, b"run")

        def restore_and_reload(quotas: QuotaTable, rows: list[StoredCount]) -> int:
            asyncio.get_running_loop().call_soon(keeper.use_configuration, settings)
            return restore(quotas, rows)

        monkeypatch.setattr(quota_persistence, "restore", restore_and_reload)
        keeper.use_configuration(former)
        await keeper.write_changes()
        monkeypatch.setattr(quota_persistence, "restore", restore)
        await keeper.write_changes()
        keeper.close()

    asyncio.run(run())
    keep_all(table, settings, b"run", None)
    in_memory = sum(used(table, b"a", b"b"))
    assert in_memory in (7, 50), "one of the two was restored"
    assert kept_in(tmp_path / "next") == in_memory


@contextlib.contextmanager
def locked(tmp_path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(tmp_path / "q", isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("COMMIT")
