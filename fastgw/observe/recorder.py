"""Recorder: counts and logs an exchange as soon as it has ended.

Common exchanges are counted in words that are looked up once, and their JSON lines come from a template, equal to those
of `json_line`. All others are logged from a `Record` by the format's function.
"""

from collections.abc import Callable, Container, Sequence
from math import inf
from time import monotonic, time
from typing import Any, Final, NamedTuple, final

import orjson

from fastgw.observe.access_log.formats import (
    EQUALS,
    JSON_SLOTS,
    MAX_LINE,
    json_line,
    json_pieces,
    json_template,
    may_hide,
    second_text,
)
from fastgw.observe.access_log.log import Log
from fastgw.observe.access_log.record import LoggedBodies, Record
from fastgw.observe.finished_exchange import (
    CLIENT_LEFT,
    FinishedExchange,
    record_of,
)
from fastgw.observe.metrics.counters import ExchangeCounters, SeriesWords, Words
from fastgw.observe.metrics.families import METHOD_INDEXES
from fastgw.observe.metrics.request_meter import RequestMeter

KeepStory = Callable[[FinishedExchange, float, float], None]
"""Function that keeps the story of a request that has ended; monotonic and epoch seconds."""
TakeBodies = Callable[[FinishedExchange], LoggedBodies | None]
"""Function that returns the bodies of an exchange that has just ended."""
_NO_STATUS: Final = 1000
MAX_KINDS: Final = 16_384
ERRORS: Final = 500
"""Statuses from here on are errors of the gateway or an upstream."""


class SeriesKey(NamedTuple):
    """Key of a series: attributes with few combinations. "" = none."""

    listener: str
    route: str
    upstream: str
    target: str
    method: bytes
    """One of `METHOD_INDEXES`: clients can send any method."""
    scheme: bytes
    status: int
    fault: str
    version: int


# Attributes that vary within a kind, with a placeholder in the line.
_VARYING: Final[dict[str, Any]] = {
    "ended_date": 0.0,
    "client": "",
    "host": b"",
    "path": b"",
    "query": None,
    "request_bytes": 0,
    "response_bytes": 0,
    "duration_s": 0.0,
}


class LazyDisposal:
    """Gradual disposal of invalid cache entries: freeing all of them at once could take milliseconds."""

    def __init__(self) -> None:
        self._learned: list[dict[Any, Any]] = []

    def instead_of(self, learned: dict[Any, Any]) -> dict[Any, Any]:
        """Return an empty dictionary, and dispose of this one later."""
        if learned:
            self._learned.append(learned)
        return {}

    def thin_out(self) -> None:
        """Free up to four entries. Each new entry frees more than one old one, so the disposal ends."""
        for _ in range(4):
            if self._learned:
                self._learned[-1].popitem()
                if not self._learned[-1]:
                    self._learned.pop()


@final
class Recorder:
    """Counts and logs exchanges. Compiled module: `fastgw.observe._recorder`."""

    def __init__(
        self,
        counters: ExchangeCounters,
        logs: list[Log],
        meters: Sequence[RequestMeter] = (),
        take_bodies: TakeBodies | None = None,
    ) -> None:
        """Create the recorder. `take_bodies`: None: no bodies are collected."""
        self._counters, self._take_bodies = counters, take_bodies
        self.column = counters.column
        self.count_consumer = counters.count_consumer
        self.count_cache, self.count_grpc = counters.count_cache, counters.count_grpc
        self.count_cache_miss, self.cache_miss_words = counters.count_cache_miss, counters.cache_miss_words
        self.cache_words, self.grpc_words = counters.cache_words, counters.grpc_words
        self._kinds: dict[tuple[object, ...], tuple[Words, bytes]] = {}
        self._forgotten = LazyDisposal()
        self.keep_stories(None, inf)
        self.adopt(logs, meters)

    def adopt(self, logs: list[Log], meters: Sequence[RequestMeter] = ()) -> None:
        """Change to these logs and meters, and look up all words again."""
        self.json_logs = [log for log in logs if log.is_plain_json]
        self.other_logs: list[Log | RequestMeter] = [*(log for log in logs if not log.is_plain_json), *meters]
        self._kinds = self._forgotten.instead_of(self._kinds)
        self.consumers = self._counters.consumers

    def keep_stories(self, keep: KeepStory | None, slower_than: float) -> None:
        """Call `keep` for requests with errors, and for those that take longer than this number of seconds. None: for
        none.
        """
        self.keep_story = keep
        self.story_status, self.slower_than = (ERRORS, slower_than) if keep is not None else (_NO_STATUS, inf)

    def count_subrequest(self, ended: FinishedExchange, status: int) -> None:
        """Count a sub-request for its upstream. `status`: 0 = no complete response."""
        words = self._counters.upstream_words(ended.upstream, ended.target, status)
        self._counters.count_upstream(*words, ended.upstream_s, ended.retries)

    def count_content_coding(
        self, ended: FinishedExchange, operation: int, coding: int, bytes_in: int, bytes_out: int
    ) -> None:
        """Count the bytes of a body before and after an operation with a content coding."""
        route = "" if ended.route is None else ended.route.name
        self._counters.count_content_coding(route, operation, coding, bytes_in, bytes_out)

    def coding_words(self, route: str, operation: int, coding: int) -> tuple[int | None, int | None]:
        """Return the words of `count_content_coding`. None: the column has no free cell."""
        return self._counters.coding_words(route, operation, coding)

    def upstream_rows(self, upstream: str, target: str) -> tuple[int, int]:
        """Return the rows of an upstream and of its target."""
        return self._counters.upstream_words(upstream, target, 0)[:2]

    def finish(self, ended: FinishedExchange) -> None:
        """Count and log an exchange. Once per exchange, when it ends; never waits."""
        self.finish_at(ended, monotonic(), time())

    def finish_at(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Count and log an exchange. `now`: monotonic seconds. `date`: epoch seconds."""
        head, response, route, fault, body = ended.head, ended.response, ended.route, ended.fault, ended.request_body
        # PERF: one look-up by all attributes with few combinations instead of one for each: 0.5 us (CPython 3.11,
        # micro/observe).
        kind = (
            ended.listener.name,
            "" if route is None else route.name,
            ended.upstream,
            ended.target,
            b"CONNECT" if head.connect_protocol else head.method,
            ended.scheme,
            CLIENT_LEFT if response is None else response.status,
            "" if fault is None else fault.label,
            head.version,
        )
        words, template = self._kinds.get(kind) or self._learn(SeriesKey(*kind))
        status = kind[6]
        request_bytes = ended.request_bytes if body is None else body.bytes
        # PERF: as `first_byte_at` and `upstream_s_of`, without a call of each.
        received_s, upstream_s = head.received_s, ended.upstream_s
        duration_s = now - (ended.begun_at - received_s)
        if upstream_s >= 0.0:
            upstream_s += received_s
        self._counters.count(words, duration_s, request_bytes, ended.response_bytes, upstream_s, ended.retries)
        if fault is not None and status >= ERRORS and route is not None:
            self.remember(ended)
        trace = ended.trace
        if trace is not None and trace.is_kept(status, duration_s):
            trace.record(ended, now, date)
        if (status >= self.story_status or duration_s > self.slower_than) and self.keep_story is not None:
            self.keep_story(ended, now, date)
        if ended.consumer is not None:
            self.count_consumer(
                ended.consumer.name, status, duration_s, request_bytes, ended.response_bytes, ended.cache_result
            )
        if ended.cache_result:
            self.count_cache(kind[1], ended.cache_result)
        if ended.grpc_status:
            self.count_grpc(kind[1], ended.grpc_status)
        if self.other_logs:
            self.log_others(ended, now, date)
        if self.json_logs:
            line, searched = (
                self._plain_line(ended, template, date, duration_s, upstream_s, request_bytes)
                if template
                else (b"", b"")
            )
            for log in self.json_logs:
                if line and log.secrets.none_in(searched):
                    log.add(line)
                else:
                    log.add(json_line(record_of(ended, now, date), log.secrets.mask))

    def remember(self, ended: FinishedExchange) -> None:
        """Record a fault that the client did not cause."""
        assert ended.route is not None
        assert ended.fault is not None
        self._counters.remember(ended.route.name, ended.target, ended.fault.label, ended.why)

    def series_words(self, kind: SeriesKey) -> SeriesWords:
        """Return the words that count exchanges of this kind."""
        return self._counters.series_words(
            kind.listener, kind.route, kind.upstream, kind.method, kind.status, kind.fault, kind.target
        )

    def pieces(self, kind: SeriesKey, slots: Container[str] = JSON_SLOTS) -> tuple[bytes, ...]:
        """Return the `json_pieces` of exchanges of this kind."""
        return json_pieces(Record(**kind._asdict(), **_VARYING), slots)

    def log_others(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Log an exchange in the formats other than JSON, with chosen fields, and in logs of some exchanges; and tell
        the meters.
        """
        record = record_of(ended, now, date)
        record.exchange = ended
        if self._take_bodies is not None:
            record.bodies = self._take_bodies(ended)
        for log in self.other_logs:
            log.add_record(record)

    def _learn(self, kind: SeriesKey) -> tuple[Words, bytes]:
        """Cache words and template of a kind. An unknown method is counted as `other`, and has no template."""
        if kind.method not in METHOD_INDEXES:
            other = kind._replace(method=b"other")
            words, _ = self._kinds.get(other) or self._learn(other)
            return words, b""
        self._forgotten.thin_out()
        if len(self._kinds) >= MAX_KINDS:
            self._kinds = self._forgotten.instead_of(self._kinds)
        self._kinds[kind] = learned = (*self.series_words(kind),), json_template(self.pieces(kind))
        return learned

    def _plain_line(
        self,
        ended: FinishedExchange,
        template: bytes,
        date: float,
        duration_s: float,
        upstream_s: float,
        request_bytes: int,
    ) -> tuple[bytes, bytes]:
        """Return the line, and the text for `SecretNames.none_in`. Both empty: the line must be made from a record."""
        head, request_id = ended.head, ended.request_id
        host, path, query = head.host, head.raw_path, head.query
        user_agent, referer = head.first(b"user-agent") or b"", head.first(b"referer") or b""
        client = ended.client_ip.encode()
        consumer = b"" if ended.consumer is None else ended.consumer.name.encode(errors="backslashreplace")
        # PERF: bytes are joined by `+` and not by `%`: 300 instructions less each time (CPython 3.11, callgrind,
        # micro/observe).
        searched = referer + b"&" + (query or b"") + b"="
        if EQUALS in path:
            searched = path + b"&" + searched
        shown = b" ".join((searched, path, user_agent))
        if EQUALS in user_agent or may_hide(shown):  # hardly any user agent has parameters
            return b"", b""
        asked = ended.subrequests
        subrequests = b"" if asked is None else str(asked).encode(errors="backslashreplace")
        sent = b" ".join((shown, host, request_id, client, consumer, subrequests))
        if not (host and path and client and sent.isascii()) or ended.why or ended.shadowed:
            return b"", b""
        if head.upgrade:  # tunnels have more attributes
            return b"", b""
        # PERF: the JSON encoder itself detects what needs escaping: 0.15 us for 240 bytes, 0.9 by a pattern (CPython
        # 3.11, orjson 3.11, micro/observe).
        if len(orjson.dumps(sent.decode())) != len(sent) + 2:
            return b"", b""
        second, ms = divmod(int(date * 1000), 1000)
        line = template % (
            second_text(second),
            ms,
            client,
            b'"' + consumer + b'"' if consumer else b"null",
            host,
            path,
            b'"' + query + b'"' if query else b"null",
            request_bytes,
            ended.response_bytes,
            duration_s,
            b"%.6f" % upstream_s if upstream_s >= 0.0 else b"null",
            ended.retries,
            b'"' + request_id + b'"' if request_id else b"null",
            b'"' + user_agent + b'"' if user_agent else b"null",
            b'"' + referer + b'"' if referer else b"null",
        )
        if ended.cache_result:
            line = b'%b,"cache":"%b"}\n' % (line[:-2], ended.cache_result.encode())
        if ended.grpc_status:
            line = b'%b,"grpc_status":"%b"}\n' % (line[:-2], ended.grpc_status.encode())
        if ended.trace is not None:
            line = b'%b,"trace_id":"%b","span_id":"%b"}\n' % (line[:-2], ended.trace.trace_id, ended.trace.span_id)
        if subrequests:
            line = b'%b,"subrequests":"%b"}\n' % (line[:-2], subrequests)
        return (line, searched) if len(line) <= MAX_LINE else (b"", b"")
