"""Clients and targets that do anything in any order: nothing raises, nothing is left, little is held."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.downstream.http1.states import ClientPhase
from fastgw.errors import Fault
from tests.support.memory import Plane, Wire

HOST = b"Host: a.test\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /own HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /own HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 80000\r\n\r\n" + b"p" * 80_000,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"p" * 100_000,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n11170\r\n" + b"p" * 70_000 + b"\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"POST /own HTTP/1.1\r\n" + HOST + b"Content-Length: 70000\r\n\r\n" + b"p" * 70_000,
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"raw" * 1000,
    b"nonsense\r\n\r\n",
    (b"GET /own HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 2_000,
    (b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n" + b"p" * 5_000) * 30,
    (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") * 1_500,
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"r" * 100_000,
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    b"nonsense\r\n\r\n",
]
SETTINGS = {
    "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}, {"url": "http://127.0.0.1:10"}]}},
    "routes": [
        {"name": "own", "paths": ["/own"], "respond": {"body": "own"}},
        {"name": "all", "upstream": "u", "filters": {"size": {"body": "90KiB"}}},
    ],
    "filters": {"request_id": {}},
}
OTHERS = [
    SETTINGS,
    {**SETTINGS, "routes": [{"name": "all", "upstream": "u"}], "filters": {}},
    {**SETTINGS, "listeners": {"other": {"address": "127.0.0.1:1", "trusted_proxies": ["127.0.0.0/8"]}}},
    {**SETTINGS, "limits": {"body_bytes": 1000}, "timeouts": {"keepalive": "1s", "response_idle": "1s"}},
]
"""What may take the place of `SETTINGS`, and they of each other."""
MOST = 4 * 65_536  # of what a connection may hold: a read in hand, one in the transport, what came ahead
AHEAD = 65_536  # of what came ahead

CUTS = [10**6, 10**6, 1, 20, 80, 150, 66_000]  # after how many bytes a message is cut in two

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("client"), st.integers(0, 1)),
        st.tuples(st.just("request"), st.integers(0, len(REQUESTS) - 1), st.sampled_from(CUTS)),
        st.tuples(st.just("response"), st.integers(0, len(RESPONSES) - 1), st.sampled_from(CUTS)),
        st.tuples(st.sampled_from(["connects", "cannot"]), st.just(0)),
        st.tuples(st.just("takes"), st.booleans(), st.sampled_from([0, 1, 100, 10**9])),
        st.tuples(st.sampled_from(["ends", "resets"]), st.booleans()),
        st.tuples(st.just("passes"), st.sampled_from([0.05, 1.5, 31.0])),
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("drains"), st.just(0)),
        st.tuples(st.just("adopts"), st.integers(0, len(OTHERS) - 1)),
    ),
    max_size=40,
)


def alive(wires: list[Wire]) -> list[Wire]:
    return [wire for wire in wires if not wire.lost and not wire.aborted]


class Play:
    def __init__(self) -> None:
        self.plane = Plane(SETTINGS)
        self.clients: list[Wire] = []
        self.targets: list[Wire] = []
        self.rests: dict[Wire, bytes] = {}  # what each end will send next of what it has begun
        self.turn = 0

    def end(self, of_client: bool) -> Wire | None:
        wires = alive(self.clients if of_client else self.targets)
        return wires[self.turn % len(wires)] if wires else None

    def send(self, wire: Wire | None, message: bytes, cut: int) -> None:
        """Send what is left of the message before, or the first `cut` bytes of this one."""
        if wire is None:
            return
        rest = self.rests.pop(wire, b"")
        if rest:
            wire.sends(rest)
        else:
            self.rests[wire] = message[cut:]
            if message[:cut]:
                wire.sends(message[:cut])

    def step(self, act: str, first: int, second: int = 0) -> None:
        if act == "client":
            self.clients.append(self.plane.client())
        elif act == "request":
            self.send(self.end(True), REQUESTS[first], second)
        elif act == "response":
            self.send(self.end(False), RESPONSES[first], second)
        elif act == "connects" and self.plane.pool.waiting:
            self.targets.append(self.plane.connects())
        elif act == "cannot" and self.plane.pool.waiting:
            self.plane.cannot_connect(Fault.CONNECT_TIMEOUT)
        elif act == "takes" and (wire := self.end(bool(first))):
            wire.takes(second)
        elif act in ("ends", "resets") and (wire := self.end(bool(first))):
            getattr(wire, act)()
        elif act == "passes":
            self.plane.passes(first)
        elif act == "turn":
            self.turn = first
        elif act == "drains" and not self.plane.server.draining:
            self.plane.server.begin_drain()
            self.plane.settle()
        elif act == "adopts":
            self.plane.adopts(OTHERS[first])
            self.plane.listener = self.plane.gateway.listeners[0]
            self.plane.settle()

    def assert_reading(self) -> None:
        """Whoever waits for bytes of a client reads; and that is so as the connection knows it."""
        for wire in alive(self.clients):
            connection = wire.protocol
            if connection.phase < ClientPhase.CLOSING and not wire.over:
                assert wire.reading is not connection.paused
                assert wire.reading or connection.phase in (
                    ClientPhase.ACTIVE,
                    ClientPhase.FLUSHING,
                    ClientPhase.TUNNEL,
                )
                assert connection.phase is not ClientPhase.IDLE or not connection._ahead

    def held(self) -> Iterator[int]:
        """Bytes in our hands, by connection."""
        for wire in alive(self.clients):
            connection = wire.protocol
            body = connection.exchange.request_body if connection.exchange else None
            kept = sum(map(len, body.kept)) if body is not None and body.kept is not None else 0
            assert len(connection._ahead) <= AHEAD
            yield wire.get_write_buffer_size() + len(connection._ahead) + kept
        for wire in alive(self.targets):
            yield wire.get_write_buffer_size()


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_happens_nothing_is_left(steps: list[tuple[str, int]]) -> None:
    play = Play()
    plane = play.plane
    for step in [("client", 0), ("request", 0, 10**6), ("connects", 0), *steps]:
        play.step(*step)
        assert max(play.held(), default=0) <= MOST
        play.assert_reading()
        assert plane.limit.taken == len(plane.server.connections)
    for wire in play.clients:
        wire.takes()
    plane.passes(1)
    for wire in play.clients:
        wire.resets()
    assert plane.limit.taken == 0
    plane.assert_quiet()
    for record in plane.records:
        assert record.status in (101, 200, 204, 304, 400, 408, 411, 413, 499, 502, 504), record
    for wire in play.targets:
        wire.resets()
    assert not plane.pool.open
