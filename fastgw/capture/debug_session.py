"""Debug session of a worker: requests with a valid debug token are answered with their stories.

It runs while there are tokens that have not expired. Rule: an invalid token is the same as none, to the client and to
the upstream; and no token reaches an upstream or a filter, valid or not (`reserved_fields.OWN_FIELDS`).
"""

import json
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final, final

import msgspec

from fastgw.capture.debug_token import debug_key, verify
from fastgw.capture.observed_tables import head_of, observer_link
from fastgw.capture.story_keeper import story_of
from fastgw.capture.story_record import DebugOrder, Story, encode
from fastgw.exchange import Exchange
from fastgw.exchange.chain import FilterInstance
from fastgw.exchange.hooks import Hooks
from fastgw.exchange.request_ids import made
from fastgw.exchange.route import Route
from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.http.messages import RequestHead
from fastgw.routing.entry import Routable

MOST_SHOWN: Final = 4096
"""Maximum bytes of a story in a response header; of a longer one the details are left out, then all of it."""
_SHOWN: Final = (
    *("route", "consumer", "upstream", "target", "retries", "cache", "fault", "fault_detail", "shadow"),
    *("subrequests", "trace_id"),
)


@final
class DebugSession:
    """`send`: takes each encoded story, never waits. `run_key`: key of the node."""

    def __init__(self, order: DebugOrder, run_key: bytes, send: Callable[[bytes], None]) -> None:
        self.order = order
        self._key, self._send = debug_key(run_key), send
        self._answered: dict[Exchange, bytes] = {}
        hooks = Hooks(response=self._answer_with_story, finish=self._finish)
        self.link: FilterInstance = observer_link("debug", hooks)
        self.early_link: FilterInstance | None = (
            self.link
        )  # it has no request step: the steps of others are left out as before

    def __repr__(self) -> str:
        return f"<DebugSession {len(self._answered)} open>"

    def wants(self, request: Routable, route: Route) -> bool:
        """Implements `ExchangeObserver.wants`."""
        return self._is_allowed(head_of(request), route.name)

    def _is_allowed(self, head: Any, route: str) -> bool:
        for value in head.received_values(DEBUG_TOKEN) if isinstance(head, RequestHead) else ():
            token = verify(self._key, value, time())
            if token is not None and token.route in ("", route):
                return True
        return False

    def _is_debugged(self, exchange: Exchange) -> bool:
        return self._is_allowed(exchange.head, "" if exchange.route is None else exchange.route.name)

    def _answer_with_story(self, exchange: Exchange) -> None:
        response = exchange.response
        if response is None or not self._is_debugged(exchange):
            return
        number = self._answered.get(exchange) or made()
        self._answered[exchange] = number
        story = story_of(exchange, monotonic(), time())
        response.dropped |= {b"cache-control", DEBUG_TOKEN, DEBUG_TOKEN + b"-story"}
        lines = b"X-Fastgw-Debug-Story: %b\r\nCache-Control: no-store\r\n" % number
        exchange.add_response_fields(lines + _story_line(story))

    def _finish(self, exchange: Exchange) -> None:
        number = self._answered.pop(exchange, None)
        if number is None:  # the client has left before a response
            if exchange.response is not None or not self._is_debugged(exchange):
                return
            number = made()
        story = story_of(exchange, monotonic(), time())
        story.reason, story.debug_id = "debug", number.decode()
        self._send(encode(story))


def _story_line(story: Story) -> bytes:
    """Return the header with what is known of the story when the response begins; b"": it is too long."""
    shown: dict[str, Any] = {name: value for name in _SHOWN if (value := getattr(story, name))}
    shown["duration_s"] = story.duration_s
    if story.upstream_s is not None:
        shown["upstream_s"] = story.upstream_s
    shown["filters"] = [msgspec.structs.asdict(each) for each in story.filters]
    shown["attempts"] = [msgspec.structs.asdict(each) for each in story.attempts]
    line = _rendered(shown)
    if len(line) > MOST_SHOWN:
        shown["filters"] = [{"name": each.name, "decision": each.decision} for each in story.filters]
        line = _rendered(shown)
    return line if len(line) <= MOST_SHOWN else b""


def _rendered(shown: dict[str, Any]) -> bytes:
    return b"X-Fastgw-Debug: %b\r\n" % json.dumps(shown, separators=(",", ":")).encode()  # ASCII alone
