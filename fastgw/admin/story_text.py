"""Text of stories for people."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastgw.admin.tap_text import CONTROLS

_COLUMNS: Final = ("number", "time", "took", "status", "request", "route", "target", "fault")


def as_table(stories: Sequence[dict[str, Any]], time_of: Any) -> str:
    """Return a line for each story. `time_of`: formats epoch seconds."""
    rows = [_COLUMNS, *(_row(story, time_of) for story in stories)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines).translate(CONTROLS)


def _row(story: dict[str, Any], time_of: Any) -> tuple[str, ...]:
    return (
        str(story["number"]),
        time_of(story["date"]),
        _ms(story["duration_s"]),
        str(story["status"]),
        f"{story['method']} {story['path']}"[:48],
        story["route"] or "-",
        story["target"] or "-",
        story["fault"] or "-",
    )


def as_text(story: dict[str, Any], time_of: Any) -> str:
    """Return all of a story."""
    return "\n".join(_lines(story, time_of)).translate(CONTROLS)


def _lines(story: dict[str, Any], time_of: Any) -> Iterator[str]:
    query = "" if story["query"] is None else f"?{story['query']}"
    yield f"{story['method']} {story['scheme']}://{story['host']}{story['path']}{query}"
    yield f"status      {story['status']} in {_ms(story['duration_s'])} ({story['reason']})"
    for name, key in (("fault", "fault"), ("reason", "fault_detail"), ("route", "route"), ("consumer", "consumer")):
        if story[key]:
            yield f"{name:<12}{story[key]}"
    yield f"client      {story['client']}, listener {story['listener']}, ended {time_of(story['date'])}"
    for name, key in (("cache", "cache"), ("shadow", "shadow"), ("request id", "request_id"), ("trace", "trace_id")):
        if story[key]:
            yield f"{name:<12}{story[key]}"
    yield f"bytes       {story['request_bytes']} received, {story['response_bytes']} sent"
    yield "filters"
    for each in story["filters"]:
        waited = f", waited {_ms(each['waited_s'])}" if each["waited_s"] is not None else ""
        detail = f": {each['detail']}" if each["detail"] else ""
        yield f"  {each['name']}: {each['decision']}{waited}{detail}"
    if story["subrequests"]:
        yield f"sub-requests {story['subrequests']}"
    yield "attempts"
    for each in story["attempts"]:
        outcome = each["fault"] or each["status"] or "no response"
        upstream = f" of {each['upstream']}" if each["upstream"] else ""
        yield f"  {each['number']} {each['kind']} at {each['target']}{upstream}: {outcome}"
        steps = (("begun", "begun_s"), ("left the queue", "queue_left_s"), ("TCP", "tcp_s"), ("TLS", "tls_s"))
        timed = (*steps, ("sent", "sent_s"), ("first byte", "first_byte_s"), ("ended", "ended_s"))
        yield "    " + ", ".join(f"{name} {_ms(each[key])}" for name, key in timed if each[key] is not None)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
