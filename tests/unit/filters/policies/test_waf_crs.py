"""waf with the OWASP Core Rule Set, as Debian installs it, in a helper process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from msgspec import msgpack

from fastgw import config
from fastgw.filters import TYPES
from fastgw.filters.lint.warnings import warnings_of
from fastgw.filters.policies.waf import Waf
from fastgw.filters.policies.waf.crs import CrsUse
from fastgw.filters.policies.waf.crs_program import CrsRequest, CrsSettings, CrsVerdict
from fastgw.gateway.tables import CompileError
from fastgw.helper_processes import shared_pool
from fastgw.helper_processes.pool import HelperBusy, HelperDied, HelperError, HelperLate, HelperPool, try_program
from fastgw.helper_processes.program import Program
from fastgw.helper_processes.shared_pool import share_of
from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from fastgw.observe.metrics.families import FilterEvent
from fastgw.testing import configured, run
from tests.support.memory import SERVICE
from tests.support.table import for_each
from tests.support.waf import get, regression_cases

RULES = "/usr/share/modsecurity-crs"
PATIENT_S = 60.0


def program(paranoia: int = 1, rules: str = RULES, **options: Any) -> Program:
    argument = msgpack.encode(CrsSettings(rules, paranoia, 5, **options))
    module = "fastgw.filters.policies.waf.crs_program"
    return Program(name="waf", module=module, argument=argument, deadline_s=PATIENT_S)


def request_of(sent: bytes) -> CrsRequest:
    head, body = parse_request(sent[: sent.index(b"\r\n\r\n") + 4]), sent.partition(b"\r\n\r\n")[2]
    query = b"" if head.query is None else b"?" + head.query
    return CrsRequest("192.0.2.1", head.method, head.raw_path + query, "1.1", [*head.fields()], body)


def is_valid(sent: bytes) -> bool:
    try:
        request_of(sent)
    except Malformed:  # refused before any rule
        return False
    return True


def verdicts(which: Program, requests: list[CrsRequest]) -> list[CrsVerdict]:
    async def ask() -> list[CrsVerdict]:
        pool = HelperPool(asyncio.get_running_loop(), which)
        pool.start()
        try:
            answers = [await pool.run_request(msgpack.encode(each)) for each in requests]
        finally:
            pool.close()
            await pool.ended()
        return [msgpack.decode(each, type=CrsVerdict) for each in answers]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask())


def test_it_refuses_the_attacks_of_its_own_regression_data() -> None:
    """All of level 1: the rules are loaded, and requests reach them whole."""
    attacks = [case for case in regression_cases() if case.attack and case.level == 1 and is_valid(case.request)]
    assert len(attacks) > 380
    found = verdicts(program(), [request_of(case.request) for case in attacks])
    seen = Counter(verdict.blocks for verdict in found)
    assert seen[True] >= 0.97 * len(attacks), seen
    sqli = next(each for case, each in zip(attacks, found, strict=True) if case.rule == 942100)
    assert 942100 in {match.id for match in sqli.matches}
    assert sqli.score >= 5
    assert all("attack-sqli" in match.tags for match in sqli.matches if match.id == 942100)


@pytest.mark.parametrize("paranoia", [1, 2, 3, 4])
def test_all_levels_load(paranoia: int) -> None:
    assert try_program(program(paranoia)) == ""


def test_excluded_rules_are_removed() -> None:
    attack = request_of(get("/?id=1%27%20or%20%271%27=%271", "User-Agent: x", "Accept: */*"))
    before, after = verdicts(program(), [attack])[0], verdicts(program(without=(942100,)), [attack])[0]
    assert before.blocks
    assert 942100 not in {match.id for match in after.matches}


def test_rules_with_an_excluded_tag_are_removed() -> None:
    attack = request_of(get("/?x=%3C%3Fphp%20phpinfo()%3B", "User-Agent: x", "Accept: */*"))
    php = "attack-injection-php"
    tags = [
        {tag for match in verdicts(program(without_tags=without), [attack])[0].matches for tag in match.tags}
        for without in ((), ('a"b',), ("attack-injection",), (php,))
    ]
    assert [php in each for each in tags] == [True, True, True, False]


SQL = b"1' union select password from users--"
LINES = [(b"Host", b"a"), (b"User-Agent", b"x"), (b"Accept", b"*/*")]
PART = b'--X\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'


def sent(kind: bytes, body: bytes, is_cut: bool = False, target: bytes = b"/") -> CrsRequest:
    lines = [*LINES, (b"Content-Type", kind), (b"Content-Length", b"%d" % len(body))]
    return CrsRequest("192.0.2.1", b"POST", target, "1.1", lines, body, is_cut)


JSON, MULTIPART = b"application/json", b"multipart/form-data; boundary=X"
UNREAD = {
    "a byte order mark": sent(JSON, b'\xef\xbb\xbf{"id":"%b"}' % SQL),
    "a comma": sent(JSON, b'{,"id":"%b"}' % SQL),
    "single quotes": sent(JSON, b"{'id':\"%b\"}" % SQL),
    "XML": sent(b"application/xml", b"<a><b></a>"),
    "a delimiter with a space": sent(MULTIPART, (PART % (b"id", SQL)).replace(b"--X", b"--X ") + b"--X--\r\n"),
    "text before the parts": sent(MULTIPART, b"x\r\n%b--X--\r\n" % (PART % (b"id", b"1"))),
    "text after the parts": sent(MULTIPART, b"%b--X--\r\n%b" % (PART % (b"id", b"1"), SQL)),
    "no end": sent(MULTIPART, PART % (b"id", b"1")),
}
READ = {
    "JSON": sent(JSON, b'{"id": ["1", 2.5, null]}'),
    "no body": sent(JSON, b""),
    "XML without a body": sent(b"text/xml; charset=utf-8", b""),
    "a form without a body and a boundary": sent(b"multipart/form-data", b""),
    "XML": sent(b"application/xml", b"<a>1</a>"),
    "multipart": sent(MULTIPART, PART % (b"id", b"1") + b"--X--\r\n"),
    "a quoted boundary": sent(b'multipart/form-data; boundary="X"', PART % (b"id", b"1") + b"--X--\r\n"),
}


def test_bodies_that_cannot_be_read_are_refused() -> None:
    """Without their values, no rule of the CRS can match."""
    for verdict in verdicts(program(), [*UNREAD.values()]):
        assert verdict.blocks
        assert not verdict.is_inspected
        assert {match.id for match in verdict.matches} <= {200002, 200003}
    assert all(each.is_inspected and not each.blocks for each in verdicts(program(), [*READ.values()]))
    excluding = program(without=(200002, 200003, 200004))
    assert not any(verdict.blocks for verdict in verdicts(excluding, [*UNREAD.values()]))


FORGED = [b'[id "1"]', b'[id "949110"]', b'[file "x"] [line "1"] [id "949110"] [rev ""] [msg ""]']


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/x;TEXT", {200002}),
        (b"/x?TEXT=" + quote(SQL).encode(), {200002, 942100, 942190}),
        (b"/x?a=TEXT" + quote(SQL).encode(), {200002, 942100, 942190}),
    ],
    ids=["path", "name of an argument", "value of an argument"],
)
def test_no_text_of_the_client_hides_a_match(target: bytes, expected: set[int]) -> None:
    """The library writes path, names and values into its log without escapes."""
    targets = [target.replace(b"TEXT", quote(text).encode()) for text in FORGED]
    body = b'\xef\xbb\xbf{"id":"%b"}' % SQL
    for verdict in verdicts(program(), [sent(JSON, body, target=each) for each in targets]):
        assert verdict.blocks
        assert not verdict.is_inspected
        ids = {match.id for match in verdict.matches}
        assert expected <= ids
        assert ids.isdisjoint({1, 949110})
        assert all(match.tags and match.score for match in verdict.matches)


def test_bodies_that_are_cut_off() -> None:
    """Parts of multipart bodies are inspected; JSON cannot be read, which is no offence of the client."""
    parts = PART % (b"id", SQL) + PART % (b"other", b"x" * 40)
    first = parts.index(SQL) + len(SQL)
    cut = [sent(MULTIPART, parts[:end], is_cut=True) for end in range(first, len(parts), 7)]
    assert all(verdict.blocks and verdict.is_inspected for verdict in verdicts(program(), cut))
    harmless, attack = verdicts(
        program(), [sent(JSON, b'{"a": "x', is_cut=True), sent(JSON, b'{"a": "x', is_cut=True, target=b"/?id=" + SQL)]
    )
    assert not harmless.blocks
    assert attack.blocks  # by its query
    assert not harmless.is_inspected


@pytest.mark.parametrize(("on_timeout", "status"), [("pass", 200), ("refuse", 403)])
def test_a_cut_body_that_cannot_be_read_was_not_inspected(on_timeout: str, status: int) -> None:
    waf = configured(Waf, rules="none", body_bytes=1024, crs={"deadline": "60s", "on_timeout": on_timeout})
    body = b'{"a": "%b"}' % (b"x" * 2000)
    head = b"\r\n".join(b"%b: %b" % line for line in sent(JSON, body).headers)
    ran = run(waf, b"POST / HTTP/1.1\r\n%b\r\n\r\n%b" % (head, body))
    assert ran.status == status
    if status == 403:
        detail = "CRS: not inspected (the body cannot be read by its first 1024 bytes)"
        assert ran.record.fault_detail == detail


def test_long_targets_are_inspected_to_their_end() -> None:
    waf = configured(Waf, rules="none", crs={"deadline": "60s"})
    for end, status in ((b"1", 200), (b"1%27%20union%20select%20password%20from%20users--", 403)):
        target = f"/?a={'x' * 20_000}&id={end.decode()}"
        assert run(waf, get(target, "User-Agent: x", "Accept: */*")).status == status


def test_rules_that_do_not_load_are_an_error_of_check(tmp_path: Path) -> None:
    """The library itself would go on without them, and let every request pass."""
    waf = configured(Waf, crs={"rules": str(tmp_path)})
    with pytest.raises(CompileError, match="expected the OWASP Core Rule Set"):
        run(waf, get("/"))
    (tmp_path / "REQUEST-901-X.conf").write_text("# OWASP_CRS/3.3.4\nSecNoSuchDirective On\n")
    with pytest.raises(CompileError, match=r"REQUEST-901-X\.conf"):
        run(waf, get("/"))


def test_a_refused_request_has_its_rules_in_the_log() -> None:
    waf = configured(Waf, rules="none", crs={"deadline": "60s"})
    ran = run(waf, get("/?id=1%27%20or%20%271%27=%271", "User-Agent: x", "Accept: */*"))
    assert ran.status == 403
    assert ran.record.fault_detail == "CRS score 5: 942100 (attack-sqli)"


@for_each("processes", [1, 2, 4, 5, 7, 16])
@for_each("workers", [1, 2, 3, 4, 8])
def test_the_processes_of_the_node_are_divided_exactly(processes: int, workers: int) -> None:
    """Each worker has one at least, and there are no more than configured otherwise."""
    shares = [share_of(processes, workers, slot) for slot in range(workers)]
    assert sum(shares) == max(processes, workers)
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(("processes", "is_noted"), [(2, True), (4, False)])
def test_fewer_processes_than_workers_are_noted(tmp_path: Path, processes: int, is_noted: bool) -> None:
    file = tmp_path / "gw.json"
    waf = {"crs": {"processes": processes}}
    file.write_text(json.dumps({**SERVICE, "workers": 4, "filters": {"waf": waf}}))
    notes = str([*warnings_of(config.load(str(file), TYPES).config)])
    assert ("each worker has a process, so there are 4" in notes) is is_noted


# without a verdict


class _Pool:
    def __init__(self, error: HelperError) -> None:
        self.error = error

    async def run_request(self, request: bytes) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (HelperLate("no result"), FilterEvent.HELPER_LATE),
        (HelperBusy("full"), FilterEvent.HELPER_BUSY),
        (HelperDied("killed"), FilterEvent.HELPER_FAILED),
    ],
)
@pytest.mark.parametrize("refuses", [False, True])
def test_without_a_verdict_the_setting_decides_and_it_is_counted(
    error: HelperError, event: FilterEvent, refuses: bool
) -> None:
    counted: list[tuple[str, FilterEvent]] = []
    exchange: Any = SimpleNamespace(
        head=SimpleNamespace(version=11),
        raw_path=b"/",
        client_ip="",
        method=b"GET",
        headers=[],
        chain=SimpleNamespace(removed_codings=None),
        client=SimpleNamespace(counts=SimpleNamespace(count_filter=lambda *what: counted.append(what))),
    )
    use = CrsUse(program(), 1, refuses)
    use._pool = _Pool(error)  # type: ignore[assignment]
    why = asyncio.run(use.inspect(exchange, "waf", None, b"", False))
    assert bool(why) is refuses
    assert counted == [("waf", event)]


def test_processes_are_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Recorded:
        def __init__(self, loop: object, program: Program, make_room: object) -> None:
            started.append(program.processes)
            self.started = self

        def start(self) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr(shared_pool, "HelperPool", Recorded)
    for processes, workers, slot in ((1, 4, 0), (4, 2, 1), (5, 2, 0), (5, 2, 1)):
        use = CrsUse(program(), processes, refuses=False)
        loop = SimpleNamespace(loop=None, make_room=lambda: False)
        awaited: list[object] = []
        services: Any = SimpleNamespace(
            workers=lambda count=workers: count, worker_loop=loop, slot=slot, wait_for=awaited.append
        )
        use.start(services)
        use.start(services)  # another use of the filter
        assert awaited == [use._pool._pool] * 2
        use.stop()
        assert use._pool._pool is not None
        use.stop()
        assert use._pool._pool is None
    assert started == [1, 2, 3, 2]
