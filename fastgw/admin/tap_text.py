"""Text of a tapped request for people."""

from collections.abc import Iterator
from typing import Final

from fastgw.admin.tapped_request import TappedMessage, TappedRequest

_HIDDEN: Final = (*range(9), 11, 12, *range(14, 32), *range(127, 160))
_DIRECTIONS: Final = (*range(0x2028, 0x202F), *range(0x2066, 0x206A))
CONTROLS: Final = (
    {13: None} | {code: f"\\x{code:02x}" for code in _HIDDEN} | {code: f"\\u{code:04x}" for code in _DIRECTIONS}
)
"""Control characters could change the terminal, those of text direction what is read."""


def as_text(tapped: TappedRequest) -> str:
    """Return the text, in the style of `curl -v`."""
    return "\n".join(_lines(tapped)).translate(CONTROLS)


def _lines(tapped: TappedRequest) -> Iterator[str]:
    taken = f"{tapped.duration_s * 1000:,.1f} ms"
    served = f", upstream {tapped.upstream} at {tapped.target}" if tapped.upstream else ""
    who = tapped.client + (f" ({tapped.consumer})" if tapped.consumer else "")
    yield f"* {tapped.time} route {tapped.route} in {taken}{served}, client {who}"
    if tapped.request_id:
        yield f"* request id {tapped.request_id}" + (f", trace {tapped.trace_id}" if tapped.trace_id else "")
    if tapped.fault:
        yield f"* fault {tapped.fault}" + (f": {tapped.fault_detail}" if tapped.fault_detail else "")
    query = "" if tapped.query is None else f"?{tapped.query}"
    yield f"> {tapped.method} {tapped.path}{query} {tapped.protocol}"
    yield from _message(">", tapped.request)
    yield f"< {tapped.status}"
    yield from _message("<", tapped.response)


def _message(sign: str, message: TappedMessage) -> Iterator[str]:
    for name, value in message.headers:
        yield f"{sign} {name}: {value}"
    yield sign
    if message.body:
        yield message.body
    if message.body_omitted:
        yield f"* body of {message.body_bytes} bytes is not shown: {message.body_omitted}"
    elif message.body_truncated:
        yield f"* the body has {message.body_bytes} bytes"
