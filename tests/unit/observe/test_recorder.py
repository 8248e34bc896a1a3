"""Counts and lines made at once, against the model: those of a record."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from fastgw.config.settings.gateway import AccessLog
from fastgw.errors import Fault
from fastgw.exchange import Chain
from fastgw.exchange import Exchange as RealExchange
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import stand_in_head
from fastgw.http.malformed import Malformed
from fastgw.observe.access_log.finished_exchange import record_of
from fastgw.observe.access_log.formats import JSON_SLOTS, json_line
from fastgw.observe.access_log.record import TCP, UDP
from fastgw.observe.access_log.secret_names import masker
from fastgw.observe.log import Log
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.families import BOUNDS_S, CodingOperation, ContentCoding
from fastgw.observe.metrics.series_layout import ROUTES_AT, WORDS, Series
from fastgw.observe.recorder import Recorder
from fastgw.observe.series_kinds import SeriesKey
from fastgw.shm.slot_assignment import SlotNames, first
from tests.support.counted import assert_line, count_content_coding, count_record
from tests.unit.observe.access_log.test_finished_exchange import Body, Exchange, Named, Response, over

REDACT = ("sid", "Session id", "straße")
ROUTES = [None, *map(Named, ("user", "files", "gone", 'a"%b', "ü"))]
LISTENERS = [Named("public"), Named("gone")]


def series_of(*routes: str) -> Series:
    return Series(first(SlotNames(["public"], routes, {"users": ()})), [fault.label for fault in Fault])


class Traced:
    """The trace of a request that is not sampled."""

    trace_id, span_id = b"0123456789abcdef0123456789abcdef", b"0123456789abcdef"

    def is_kept(self, status: int, duration_s: float) -> bool:
        return False


class Told:
    """A recorder with its column and one JSON log."""

    def __init__(self, *formats: Any, redact: tuple[str, ...] = REDACT) -> None:
        self.column = memoryview(bytearray(8 * WORDS)).cast("Q")
        self.counters = ExchangeCounters(series_of("user", "files"), self.column)
        wanted = [AccessLog(format=each, redact=redact) for each in formats or ("json",)]
        self.logs = [Log(each, self.counters) for each in wanted]
        self.recorder = Recorder(self.counters, self.logs)

    def lines(self) -> list[bytes]:
        return [log.held.pop_lines() for log in self.logs]


def expect(told: Told, ended: Exchange, now: float, date: float, line: bytes) -> None:
    """The line is that of its record, of which all is counted here."""
    record = record_of(ended, now, date)
    count_record(told.counters, record)
    assert_line(line, record, REDACT)


URL_TEXT = st.text(st.sampled_from('aZ09/-._~%+&;=?#:\\"é'), max_size=30).map(str.encode)
NAMES = st.sampled_from(
    [b"page", b"token", b"TOKEN", b"to%6Ben", b"sid", b"+sid", b"Session+id", b"code", b"x", b"", b"strasse", b"a b"]
)
QUERIES = st.one_of(
    URL_TEXT.map(lambda text: text.replace(b"#", b"")),
    st.lists(st.tuples(NAMES, st.sampled_from([b"=", b"==", b""]), URL_TEXT, st.sampled_from([b"&", b";", b"?"]))).map(
        lambda parts: b"".join(map(b"".join, parts)).replace(b"#", b"").replace(b" ", b"")
    ),
)
LONG = st.integers(0, 4000).map(lambda length: b"p" * length)
VALUES = st.one_of(URL_TEXT, NAMES.map(lambda name: b"http://h/p?a=1&%b=2" % name), st.binary(max_size=40)).map(
    lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
)
SECONDS = st.one_of(
    st.floats(0.0, 100.0),
    st.floats(0.0, 1e9),
    st.sampled_from([0.0, *BOUNDS_S, 5e-7, 1.5e-6, 2.5e-6, 1e-6, 0.1234565, 999999.9999999]),
)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Whatever a client can send that is no refusal, with whatever becomes of it."""
    path = b"/" + draw(st.one_of(URL_TEXT, QUERIES.map(lambda it: b"x;" + it), LONG))
    target = path + (b"?" + draw(QUERIES) if draw(st.booleans()) else b"")
    fields = b"".join(
        b"%b: %b\r\n" % (name, draw(VALUES).strip())
        for name in draw(st.lists(st.sampled_from([b"User-Agent", b"Referer", b"referer", b"X-Request-Id", b"A"])))
    )
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"DELETE", b"PROPFIND"]))
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    try:
        ended = over(
            fields,
            b"%b %b HTTP/1.%d" % (method, bytes(byte for byte in target if byte not in b" #"), minor),
            listener=draw(st.sampled_from(LISTENERS)),
            route=draw(st.sampled_from(ROUTES)),
            scheme=draw(st.sampled_from([b"http", b"https"])),
            client_ip=draw(st.sampled_from(["192.0.2.7", "2001:db8::1", "unix:", ""])),
            consumer=draw(st.sampled_from([None, Named("alice"), Named('ü "x"'), Named("c" * 4000)])),
            request_body=draw(st.sampled_from([None, Body(7)])),
            request_bytes=draw(st.sampled_from([0, 5, 2**40])),
            response=draw(st.sampled_from([None, Response(200), Response(404), Response(503)])),
            response_bytes=draw(st.sampled_from([0, 1000, 2**40])),
            begun_at=0.0,
            upstream=draw(st.sampled_from(["", "users", "gone"])),
            target=draw(st.sampled_from(["", "users-1:9001", "[::1]:9001"])),
            upstream_s=draw(st.one_of(st.just(-1.0), SECONDS)),
            retries=draw(st.sampled_from([0, 0, 2])),
            fault=draw(st.sampled_from([None, None, Fault.ROUTE_NOT_FOUND, Fault.CONNECT_REFUSED])),
            why=draw(st.sampled_from(["", "", 'a "reason"'])),
            grpc_status=draw(st.sampled_from(["", "", "OK", "UNAVAILABLE"])),
            cache_result=draw(st.sampled_from(["", "", "hit", "collapsed"])),
            shadowed=draw(st.sampled_from(["", "", "", 'ip: refuse 403 forbidden (a "reason")'])),
            trace=draw(st.sampled_from([None, None, Traced()])),
            subrequests=draw(st.sampled_from([None, None, "", "a b:1 200 0.1", 'users "a":1 200 0.1', "s" * 4000])),
            request_id=draw(st.one_of(st.just(b""), st.just(b"01JD4Z"), st.binary(max_size=10))),
        )
    except Malformed:
        reject()
    if draw(st.booleans()):
        ended.head.fields().set(b"User-Agent", b"edited")
    ended.head.received_s = draw(st.one_of(st.just(0.0), SECONDS))
    return ended


@given(finished=st.lists(st.tuples(exchanges(), SECONDS, st.floats(0.0, 4e9)), min_size=1, max_size=5))
def test_lines_and_counts_are_those_of_a_record(finished: list[tuple[Exchange, float, float]]) -> None:
    """Field by field and word by word, whatever clients send and however it ended."""
    told, expected = Told(), Told()
    for ended, now, date in finished:
        told.recorder.finish_at(ended, now, date)
        (line,) = told.lines()
        expect(expected, ended, now, date, line)
    assert told.column == expected.column


HOSTS = st.sampled_from([b"", b"a.example", b"*.b", "straße.example".encode(), b'a"b', b"x" * 5000])


@given(
    host=HOSTS,
    kind=st.sampled_from([(b"tcp", TCP), (b"udp", UDP)]),
    known=st.fixed_dictionaries(
        {
            "scheme": st.sampled_from([b"tcp", b"tls", b"udp"]),
            "client_ip": st.sampled_from(["192.0.2.7", "2001:db8::1", "unix:"]),
            "request_bytes": st.sampled_from([0, 5, 2**40]),
            "response_bytes": st.sampled_from([0, 5, 2**40]),
            "response": st.sampled_from([None, Response(200), Response(502)]),
            "fault": st.sampled_from([None, Fault.CONNECT_REFUSED, Fault.CLIENT_LEFT]),
            "why": st.sampled_from(["", "ECONNREFUSED"]),
            "target": st.sampled_from(["", "users-1:9001"]),
            "upstream_s": st.one_of(st.just(-1.0), SECONDS),
            "retries": st.sampled_from([0, 2]),
        }
    ),
)
def test_a_connection_that_is_no_request_is_one_line(
    host: bytes, kind: tuple[bytes, int], known: dict[str, Any]
) -> None:
    """As TCP and UDP are logged: with no path, no query and no headers."""
    told, expected = Told(), Told()
    method, version = kind
    ended = Exchange(stand_in_head(method, host, version=version), route=Named("user"), upstream="users", **known)
    told.recorder.finish_at(ended, 3.0, 1e9)
    (line,) = told.lines()
    expect(expected, ended, 3.0, 1e9, line)
    assert told.column == expected.column


PIECES = (
    b"token sid zipcode a x-amz-signature SIG %74oken %5B %5D [ ] = = %3D %3d %253D %25253d & %26 ; %3B ? %3F / // %2F "
    b"%2f%2F : %3A :// @ %40 %2540 + %20 %09 . - _ % %2 ( , user:pw@host https://u:p@h/ https%3A%2F%2Fu%3Ap%40h%2F "
    b"token%3D api key author auth- otp SAMLResponse PHPSESSID s"
).split(b" ")
HIDING = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)
WORDS_HIDING = st.lists(st.sampled_from([*PIECES, b" ", b" = "]), max_size=8).map(b"".join).map(bytes.strip)


@example(path=b"", query=b"", referer=b"", user_agent=b"token[%3D")
@example(path=b"", query=b"", referer=b"", user_agent=b"token%5Buser:pw@host%3D")
@example(path=b"", query=b"", referer=b"", user_agent=b"a=1 token=x")
@example(path=b"", query=b"", referer=b"", user_agent=b"probe sid=1")
@given(path=HIDING, query=HIDING, referer=HIDING, user_agent=WORDS_HIDING)
@settings(max_examples=600)
def test_what_is_masked_is_what_a_record_masks(path: bytes, query: bytes, referer: bytes, user_agent: bytes) -> None:
    """Encoded or not, in each of the four places where a URL or a query may be; the names are all plain ones."""
    told = Told(redact=("sid",))
    fields = b"User-Agent: %b\r\nReferer: %b\r\n" % (user_agent, referer)
    try:
        ended = over(fields, b"GET /%b?%b HTTP/1.1" % (path.replace(b"?", b""), query))
    except Malformed:
        reject()
    told.recorder.finish_at(ended, 1.0, 1.0)
    assert_line(told.lines()[0], record_of(ended, 1.0, 1.0), ["sid"])


@given(st.floats(0.0, 1e-3) | st.integers(0, 4000).map(lambda halves: halves * 5e-7))
@example(0.0000005)
@example(0.0000015)
def test_durations_are_rounded(seconds: float) -> None:
    """To microseconds, also where two are equally near."""
    told = Told()
    told.recorder.finish_at(over(upstream_s=seconds), seconds, 0.0)
    fields = orjson.loads(told.lines()[0])
    assert fields["duration_s"] == fields["upstream_s"] == round(seconds, 6)


def test_a_line_that_is_nearly_too_long_is_whole_and_one_that_is_is_cut() -> None:
    """At every length around the bound, and whatever makes it so long."""
    for length in range(3300, 4200, 7):
        for ended in (
            over(b"", b"GET /" + b"p" * length + b" HTTP/1.1"),
            over(b"Referer: http://h/" + b"r" * length + b"\r\n"),
            over(route=Named("r" * length)),
        ):
            told = Told()
            told.recorder.finish_at(ended, 1.0, 1.0)
            assert_line(told.lines()[0], record_of(ended, 1.0, 1.0), REDACT)


def test_the_exchange_itself_can_be_recorded() -> None:
    """Not only its double: by its own slots and properties."""
    head = over(b"User-Agent: probe/1\r\n", b"GET /a?b=c HTTP/1.1").head
    peer = Peer("192.0.2.9", 1, 80, False)
    ended = RealExchange(head, Nobody(), Named("public"), peer, Chain(()))
    told = Told()
    told.recorder.finish(ended)
    fields = orjson.loads(told.lines()[0])
    assert (fields["client"], fields["path"], fields["query"], fields["user_agent"]) == (
        "192.0.2.9",
        "/a",
        "b=c",
        "probe/1",
    )


def test_the_clocks_are_those_of_python() -> None:
    told = Told()
    ended = over(begun_at=time.monotonic())
    before = time.time()
    told.recorder.finish(ended)
    after, ended_at = time.time(), time.monotonic()
    fields = orjson.loads(told.lines()[0])
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before)), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(after))
    assert at[0] <= fields["time"] <= at[1] + ".999Z"
    assert 0.0 <= fields["duration_s"] <= ended_at - ended.begun_at + 1e-6


def test_other_formats_are_made_beside() -> None:
    """Each log has its line, and each exchange is counted once."""
    told = Told("ecs", "json", "combined", "json")
    told.recorder.finish(over(line=b"GET /beside HTTP/1.1", route=ROUTES[1]))
    assert all(b"/beside" in line and line.count(b"\n") == 1 for line in told.lines())
    assert sum(told.column[ROUTES_AT:]) > 0
    told.recorder.finish(over(b"User-Agent: \xff\r\n", b"GET /odd HTTP/1.1"))
    assert all(b"/odd" in line and line.count(b"\n") == 1 for line in told.lines())


def test_each_log_masks_its_own_names() -> None:
    """One that masks more than another does not mask for it."""
    told = Told()
    more = Log(AccessLog(redact=("other",)), told.counters)
    recorder = Recorder(told.counters, [*told.logs, more])
    recorder.finish(over(line=b"GET /a;sid=1?sid=1&other=2 HTTP/1.1"))
    first, second = orjson.loads(told.lines()[0]), orjson.loads(more.held.pop_lines())
    assert (first["path"], first["query"]) == ("/a;sid=***", "sid=***&other=2")
    assert (second["path"], second["query"]) == ("/a;sid=1", "sid=1&other=***")


@pytest.mark.parametrize("name", ["held", "secrets"])
def test_logs_that_cannot_be_adopted_change_nothing(name: str) -> None:
    """The lines stay those of the logs before."""
    told = Told("json", "combined")
    (log,) = Told().logs
    setattr(log, name, SimpleNamespace(names=frozenset()))
    with pytest.raises(TypeError):
        told.recorder.adopt([*Told("json", "json").logs, log])
    told.recorder.finish(over(line=b"GET /a;sid=1 HTTP/1.1"))
    json, combined = told.lines()
    assert orjson.loads(json)["path"] == "/a;sid=***"
    assert b"/a;sid=***" in combined


def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that come and go are not remembered for ever; each exchange is told all the same."""
    monkeypatch.setattr("fastgw.observe.series_kinds.MOST_SORTS", 8)
    told = Told()
    before = remembered_kinds()
    for number in range(50):
        told.recorder.finish(over(target=f"t-{number}"))
    assert [orjson.loads(line)["target"] for line in told.lines()[0].splitlines()] == [f"t-{n}" for n in range(50)]
    assert 0 < remembered_kinds() - before <= 8


def remembered_kinds() -> int:
    """The number of kinds that anything in this process holds."""
    gc.collect()
    return sum(isinstance(each, SeriesKey) for each in gc.get_objects())


def test_kinds_that_differ_in_the_target_share_the_rest_of_their_lines() -> None:
    """As there may be one for each place, it decides about the memory: with pieces of its own one takes 1,340 bytes."""
    told = Told()
    tracemalloc.start()
    try:
        for number in range(1000):
            told.recorder.finish(over(target=f"t-{number}"))
            told.lines()
            if number == 99:
                before, _ = tracemalloc.get_traced_memory()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 900 < 1000


def test_a_kind_that_could_not_be_learned_is_learned_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of the attempt, whether its pieces could not be made or were of another form."""
    told = Told()
    ended = over(target="t-1")
    for failure in (MemoryError, ValueError):
        with monkeypatch.context() as patched:
            patched.setattr("fastgw.observe.series_kinds.pieces_of", pieces_that_fail(failure))
            with pytest.raises(failure):
                told.recorder.finish(ended)
    told.recorder.finish_at(ended, 1.0, 1.0)
    assert_line(told.lines()[0], record_of(ended, 1.0, 1.0), REDACT)


def pieces_that_fail(failure: type[Exception]) -> Callable[[object], tuple[bytes, ...]]:
    """`pieces_of` for which there is no memory, or whose pieces are too few."""

    def pieces_of(kind: object) -> tuple[bytes, ...]:
        if failure is MemoryError:
            raise MemoryError
        return (b"{", b"}\n")

    return pieces_of


class Unnamed:
    """A route whose name is made whenever it is asked for."""

    @property
    def name(self) -> str:
        return "".join(("us", "er"))


def again(text: str) -> str:
    """An equal text that is another object."""
    return text.encode().decode()


def test_kinds_are_told_apart_by_all_that_they_differ_in() -> None:
    """Each twice, with texts that are equal and not the same, in any order."""
    names = ["user", "files", *("n" * length for length in (1, 31, 32, 33, 300))]
    routes = [None, Unnamed(), *(Named(again(name)) for name in names * 2)]
    finished = [
        over(route=route, target=again(target), upstream=again(upstream), response=Response(status), scheme=scheme)
        for route in routes
        for target, upstream in (("t-1", "users"), ("t-2", "users"), ("t-1", ""))
        for status, scheme in ((200, b"http"), (404, b"https"))
    ]
    told, expected = Told(), Told()
    for ended in finished + finished[::-1]:
        told.recorder.finish_at(ended, 1.0, 1.0)
        (line,) = told.lines()
        expect(expected, ended, 1.0, 1.0, line)
    assert told.column == expected.column


def test_what_has_a_slot_is_in_the_line() -> None:
    """In this order, which the recorder relies on."""
    fields = list(orjson.loads(json_line(record_of(over(), 0.0, 0.0), masker(()))))
    assert tuple(name for name in fields if name in JSON_SLOTS) == JSON_SLOTS


def in_several_reads(ended: Exchange, seconds: float) -> Exchange:
    """Its head took this long from its first byte."""
    ended.head.received_s = seconds
    return ended


ORDINARY = [
    over(b"User-Agent: probe/1\r\nReferer: http://h/a%20b?c=d%20e\r\n", b"GET /a?b=c%20d&e HTTP/1.1", request_id=b"7"),
    over(upstream="users", target="t", upstream_s=0.25, retries=1, request_body=Body(7)),
    over(response=Response(404), fault=Fault.ROUTE_NOT_FOUND),
    over(response=None, fault=Fault.CLIENT_LEFT),
    over(line=b"GET / HTTP/1.0"),
    over(line=b"GET /a;v=1/token HTTP/1.1"),
    in_several_reads(over(upstream="users", target="t", upstream_s=0.25), 0.5),
]


@pytest.mark.parametrize("ended", ORDINARY)
def test_what_is_ordinary_is_told_the_short_way(ended: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record: else it would be right, and no faster."""
    told = Told()
    with monkeypatch.context() as patched:
        patched.setattr("fastgw.observe.recorder.record_of", None)
        told.recorder.finish_at(ended, 1.0, 1.0)
    assert_line(told.lines()[0], record_of(ended, 1.0, 1.0), REDACT)


class NoCells:
    """Cells of a column that has none free."""

    def word(self, name: int) -> None:
        return None


def test_content_codings_are_counted_by_route_operation_and_coding_also_after_a_reload() -> None:
    told, expected = Told(), Told()

    def count_all(codings: Iterable[ContentCoding] = ContentCoding) -> None:
        for route in ROUTES:
            for operation in CodingOperation:
                for coding in codings:
                    sizes = 1000 + operation, 100 + coding
                    told.recorder.count_content_coding(SimpleNamespace(route=route), operation, coding, *sizes)
                    name = "" if route is None else route.name
                    count_content_coding(expected.counters, name, operation, coding, *sizes)
        assert told.column == expected.column

    count_all()
    count_all(codings=[ContentCoding.ZSTD])
    for each in (told, expected):
        each.counters.adopt(series_of("gone", "user"))
        each.recorder.adopt(each.logs)
    count_all()
    counted = bytes(told.column)
    told.counters.adopt(series_of("user"))
    told.recorder.adopt(told.logs)
    told.counters.cells = NoCells()  # type: ignore[assignment]
    told.recorder.count_content_coding(SimpleNamespace(route=None), 0, 2, 1000, 100)
    assert bytes(told.column) == counted
