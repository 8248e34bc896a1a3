"""Recording of an exchange: counted, formatted, and queued for the log's thread."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.micro.heads import REQUESTS
from bench.micro.timing import Room
from fastgw.config.settings.gateway import AccessLog
from fastgw.exchange import Exchange, Response, Route
from fastgw.exchange.action import Action
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.access_log.formats import LineFormat, Mask
from fastgw.observe.access_log.line_formats import FORMATS
from fastgw.observe.access_log.line_queue import LineQueue
from fastgw.observe.access_log.record import Record
from fastgw.observe.access_log.secret_names import SecretNames
from fastgw.observe.log import Log
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.series_layout import WORDS, Series
from fastgw.observe.recorder import Recorder
from fastgw.shm.slot_assignment import SlotNames, first

PEER = Peer("192.0.2.1", 40000, 443, trusted=False)
MOST = 1 << 40  # queued bytes: nothing is dropped, because drops would be timed instead


@dataclass(slots=True)
class Name:
    name: str


def rooms() -> Iterator[Room]:
    action = Action()
    routes = {f"svc{number}": Route(f"svc{number}", action, NO_FILTERS, ()) for number in range(100)}
    listener = Name("public")
    exchanges: list[FinishedExchange] = []
    for raw in REQUESTS:
        head = parse_request(raw)
        route = routes[head.path.split(b"/")[1].decode()]
        exchange = Exchange(head, Nobody(), listener, PEER, NO_FILTERS)
        exchange.route, exchange.request_id = route, head.first(b"x-request-id") or b""
        exchange.response, exchange.response_bytes = Response(200, None), 1000
        exchange.upstream, exchange.target, exchange.upstream_s = "origin", "127.0.0.1:9001", 0.001
        exchanges.append(exchange)
    series = Series(first(SlotNames(["public"], list(routes), {"origin": ()})), [])
    for logs in ([], [AccessLog()]):
        recorder = _recorder(series, logs)
        yield Room("count it and hold its line" if logs else "count it", recorder.finish, exchanges)
    now, date = time.monotonic(), time.time()
    yield Room("make a record", lambda ended: record_of(ended, now, date), exchanges)
    records = [record_of(ended, now, date) for ended in exchanges]
    mask = SecretNames(()).mask
    for name, make in FORMATS.items():
        yield Room(f"make a {name} line of a record", partial(_line, make, mask), records)
    yield Room("  mask a referer", mask, [record.referer for record in records])


def _line(make: LineFormat, mask: Mask, record: Record) -> bytes:
    return make(record, mask)


def _recorder(series: Series, logs: list[AccessLog]) -> Any:
    counters = ExchangeCounters(series, memoryview(bytearray(8 * WORDS)).cast("Q"))
    made = [Log(settings, counters) for settings in logs]
    for log in made:
        log.held = _emptied(LineQueue)
    return Recorder(counters, made)


def _emptied(held: Any) -> Any:
    """Queue that is emptied when it is large, as a thread would."""

    def empty() -> None:
        while made.pop_lines():
            pass

    made = held(MOST, lambda: None, empty)
    return made
