"""Bodies for the access logs that show them (`request_body`, `response_body`): collected while requests pass, redacted
when a line is made.

Rule 1: requests that no such log can have are not observed. Rule 2: a body is available when its exchange ends, and
released with the line.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, final

from fastgw.capture.body_collector import BodyCollector, CollectedBody
from fastgw.capture.observed_tables import observer_link
from fastgw.capture.redaction import Redaction
from fastgw.config.base.settings_base import listed
from fastgw.config.settings.log_lines import LogCondition
from fastgw.exchange import Exchange
from fastgw.exchange.body_stages import StageFactory
from fastgw.exchange.hooks import Hooks, Outcome
from fastgw.exchange.route import Route
from fastgw.observe.access_log.formats import CUT
from fastgw.observe.access_log.log_fields import MOST_BODY, shows_bodies
from fastgw.observe.access_log.record import LoggedBodies
from fastgw.routing.entry import Routable


class BodyLog(Protocol):
    """The settings of an access log, as far as they decide about bodies."""

    @property
    def fields(self) -> Sequence[str]: ...
    @property
    def only(self) -> LogCondition | None: ...
    @property
    def always(self) -> LogCondition | None: ...


class _Wish(NamedTuple):
    """Requests that a log may have. Empty: all."""

    routes: frozenset[str]
    methods: frozenset[bytes]


@final
class _Bodies(NamedTuple):
    """Bodies of an exchange that has ended."""

    exchange: Exchange
    request: CollectedBody | None
    response: CollectedBody | None

    def request_text(self, redact: tuple[str, ...]) -> str | None:
        """Implements `LoggedBodies.request_text`."""
        return _text(self.request, self.exchange.head.received_fields, redact)

    def response_text(self, redact: tuple[str, ...]) -> str | None:
        """Implements `LoggedBodies.response_text`."""
        response = self.exchange.response
        return None if response is None else _text(self.response, response.sent_fields, redact)


@final
class LogBodies:
    """Observer of the exchanges of a worker for its access logs."""

    def __init__(self) -> None:
        self._wishes: tuple[_Wish, ...] = ()
        self._collector = BodyCollector(MOST_BODY)
        self._ended: _Bodies | None = None
        collector = self._collector
        self.early_link = None
        self.link: Final = observer_link(
            "log_bodies",
            Hooks(
                request=self._begin_collection,
                request_body=StageFactory(collector.request_body, reads_only=True),
                response_body=StageFactory(collector.response_body, reads_only=True),
                reply=collector.keep_reply,
                finish=self._end_collection,
            ),
        )

    def __repr__(self) -> str:
        return f"<LogBodies for {len(self._wishes)} conditions: {self._collector!r}>"

    def use_logs(self, logs: Iterable[BodyLog]) -> bool:
        """Collect what these logs show, from the next request on. False: they show no bodies."""
        wishes: list[_Wish] = []
        for log in logs:
            if shows_bodies(log.fields):
                wishes.append(_wish_of(log.only))
                if log.always is not None:
                    wishes.append(_wish_of(log.always))
        self._wishes = tuple(wishes)
        return bool(wishes)

    def wants(self, request: Routable, route: Route) -> bool:
        """Implements `ExchangeObserver.wants`."""
        return any(
            (not routes or route.name in routes) and (not methods or request.method in methods)
            for routes, methods in self._wishes
        )

    def take_bodies(self, ended: object) -> LoggedBodies | None:
        """Return the bodies of the exchange that has just ended, once; None: they were not collected."""
        bodies, self._ended = self._ended, None
        return bodies if bodies is not None and bodies.exchange is ended else None

    def _begin_collection(self, exchange: Exchange) -> Outcome:
        # It may run for a request that only another observer wants.
        if exchange.route is not None and self.wants(exchange, exchange.route):
            self._collector.begin_exchange(exchange)
        return None

    def _end_collection(self, exchange: Exchange) -> None:
        """Keep the bodies for the lines, which are made next."""
        collected = self._collector.end_exchange(exchange)
        if collected is not None:
            self._ended = _Bodies(exchange, collected.request, collected.response)


def _wish_of(condition: LogCondition | None) -> _Wish:
    if condition is None:
        return _Wish(frozenset(), frozenset())
    methods = frozenset(method.encode() for method in listed(condition.method))
    return _Wish(frozenset(listed(condition.route)), methods)


@lru_cache(16)
def _redaction(names: tuple[str, ...]) -> Redaction:
    return Redaction(names)


def _text(
    body: CollectedBody | None, fields: Callable[[], Iterable[tuple[bytes, bytes]]], redact: tuple[str, ...]
) -> str | None:
    """Return a body as it is shown; None: there is none."""
    if body is None or not body.bytes:
        return None
    shown = _redaction(redact).body(fields(), bytes(body.kept), MOST_BODY)
    if shown.omitted:
        return f"({shown.omitted} is not shown)"
    is_cut = shown.is_cut or body.bytes > len(body.kept)
    return shown.content[:MOST_BODY].decode(errors="backslashreplace") + (CUT if is_cut else "")
