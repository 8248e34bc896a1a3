"""Stories: what happened to one failed or slow request, with its filters, attempts and timings.

A story is built after a request has ended, of what the exchange knows anyway. Rule: other requests cost nothing; and
when everything fails, no more than `rate` stories per second of a worker are built.
"""

from collections.abc import Callable
from typing import Any, Final, final

from fastgw.capture.story_record import Story, StoryAttempt, StoryFilter, StoryOrder, encode
from fastgw.exchange.chain import Chain, FilterInstance
from fastgw.exchange.filter_steps import before_any, by_path
from fastgw.observe.access_log.finished_exchange import CLIENT_LEFT, FinishedExchange, first_byte_at, upstream_s_of
from fastgw.observe.tracing.trace import EndedAttempt, EndedWait

MOST_TEXT: Final = 1024
"""Maximum length of a text in a story; longer ones are cut."""
MOST_PARTS: Final = 64
"""Maximum number of filters, and of attempts."""
ERRORS: Final = 500


@final
class StoryKeeper:
    """Builds stories in a worker. `send`: takes each encoded story, never waits; `drop`: counts one that is not
    built.
    """

    def __init__(self, order: StoryOrder, send: Callable[[bytes], None], drop: Callable[[], None]) -> None:
        self.slower_than = order.slower_than
        self._rate, self._send, self._drop = order.rate, send, drop
        self._tokens, self._filled_at = order.rate, 0.0

    def keep_story(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Build and send the story of a request that has ended. `now`: monotonic seconds; `date`: epoch seconds."""
        self._tokens = min(self._rate, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1.0:
            self._drop()
            return
        self._tokens -= 1.0
        if ended.head.version in (10, 11, 20):
            self._send(encode(story_of(ended, now, date)))


def story_of(ended: FinishedExchange, now: float, date: float) -> Story:
    """Return the story of a request that has ended."""
    head, route, body, fault, trace = ended.head, ended.route, ended.request_body, ended.fault, ended.trace
    status = CLIENT_LEFT if ended.response is None else ended.response.status
    timeline = getattr(ended, "timeline", ())
    ended_waits = [each for each in timeline if type(each) is EndedWait]
    attempts = [each for each in timeline if type(each) is EndedAttempt]
    if trace is not None:
        attempts = [*getattr(trace, "attempts", ())] or attempts
        ended_waits += getattr(trace, "waits", ())
    waits = {each.name: _seconds(each.begun_at, each.ended_at) for each in ended_waits}
    begun_at = max((each.ended_at for each in ended_waits), default=ended.begun_at)
    return Story(
        date=round(date, 6),
        duration_s=_seconds(first_byte_at(ended), now),
        reason="error" if status >= ERRORS else "slow",
        listener=ended.listener.name,
        client=ended.client_ip,
        consumer=None if ended.consumer is None else ended.consumer.name,
        method=_text(head.method),
        scheme=_text(ended.scheme),
        host=_text(head.host),
        path=_text(head.raw_path),
        query=None if head.query is None else _text(head.query),
        protocol=head.version,
        status=status,
        route=None if route is None else route.name or None,
        fault=None if fault is None else fault.label,
        fault_detail=ended.why[:MOST_TEXT] or None,
        upstream=ended.upstream or None,
        target=ended.target or None,
        upstream_s=_seconds(0.0, upstream_s_of(ended)) if ended.upstream_s >= 0.0 else None,
        retries=ended.retries,
        cache=ended.cache_result or None,
        grpc_status=ended.grpc_status or None,
        shadow=ended.shadowed[:MOST_TEXT] or None,
        subrequests=None if ended.subrequests is None else str(ended.subrequests)[:MOST_TEXT] or None,
        request_bytes=ended.request_bytes if body is None else body.bytes,
        response_bytes=ended.response_bytes,
        request_id=_text(ended.request_id) or None,
        trace_id=None if trace is None else _text(trace.trace_id),
        filters=_filters(ended, waits)[:MOST_PARTS],
        attempts=[_attempt(each, first_byte_at(ended)) for each in attempts[:MOST_PARTS]]
        or _only_attempt(ended, now, begun_at),
    )


def _filters(ended: Any, waits: dict[str, float]) -> list[StoryFilter]:
    """Return the filters of the request in running order."""
    chain = getattr(ended, "chain", None) or getattr(ended.route, "chain", None)
    if not isinstance(chain, Chain):
        return []
    answered_by = getattr(ended, "answered_by", None)
    filters, is_reached = [], answered_by is not before_any
    for link in chain.links:
        if link.level == "observer":
            continue
        has_run = is_reached and (answered_by is not by_path or link.early)
        decision, detail = "passed" if has_run else "not reached", ""
        request = link.hooks.request
        if answered_by is not None and request is not None and request.step is answered_by:
            decision, detail, is_reached = "answered", ended.why[:MOST_TEXT], False
        elif has_run and answered_by is None:
            detail = _explained(link, ended)
        waited = waits.get(link.use.name)
        filters.append(StoryFilter(link.use.name, link.use.type, decision, detail, waited))
    return filters


def _explained(link: FilterInstance, ended: Any) -> str:
    """Return why a filter has let the request pass; "": it does not say."""
    if link.hooks.explain is None or not hasattr(ended, "answered_by"):
        return ""
    try:
        return link.hooks.explain(ended)[:MOST_TEXT]
    except Exception:  # the edge of a filter, whose state may have changed since
        return ""


def _attempt(each: EndedAttempt, begun_at: float) -> StoryAttempt:
    def since(at: float) -> float | None:
        return _seconds(begun_at, at) if at else None

    return StoryAttempt(
        upstream=each.upstream,
        target=each.target,
        kind=each.kind,
        number=each.number,
        reused=each.reused,
        status=each.status or None,
        fault=each.fault or None,
        begun_s=_seconds(begun_at, each.begun_at),
        queue_left_s=since(each.queue_left_at),
        tcp_s=since(each.tcp_at),
        tls_s=since(each.tls_at),
        sent_s=since(each.connected_at),
        first_byte_s=since(each.head_at),
        ended_s=since(each.ended_at),
    )


def _only_attempt(ended: FinishedExchange, now: float, begun_at: float) -> list[StoryAttempt]:
    """Return the attempt of a request that had a connection at once and was not retried, of what the log knows.
    `begun_at`: when the last filter that it has waited for let it pass.
    """
    if not ended.target:
        return []
    first_byte = _seconds(0.0, upstream_s_of(ended)) if ended.upstream_s >= 0.0 else None
    ended_s = _seconds(first_byte_at(ended), now)
    status = None if ended.response is None or first_byte is None else ended.response.status
    fault = None if ended.fault is None else ended.fault.label
    begun_s = min(_seconds(first_byte_at(ended), begun_at), ended_s if first_byte is None else first_byte)
    times = begun_s, None, None, None, begun_s, first_byte, ended_s
    return [StoryAttempt(ended.upstream, ended.target, "first", 1, True, status, fault, *times)]


def _seconds(begun_at: float, ended_at: float) -> float:
    """Return the time between two instants, to the microsecond as in the access log."""
    return max(0.0, round(ended_at - begun_at, 6))


def _text(value: bytes) -> str:
    return value[:MOST_TEXT].decode(errors="backslashreplace")
