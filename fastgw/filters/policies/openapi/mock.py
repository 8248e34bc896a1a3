"""Example responses of an operation, chosen by `Accept` and by `Prefer: code=404, example=NAME` as Prism does."""

import re
from collections.abc import Mapping
from typing import Any, Final, final

from fastgw.filters.api import Exchange, Reply
from fastgw.http.accept import parse_accept, weight_of

_PREFERENCE: Final = re.compile(rb"(?:^|[,;])[ \t]*(code|example)[ \t]*=[ \t]*\"?([0-9A-Za-z_.-]{1,100})\"?")
_EMPTY: Final = frozenset((204, 205, 304))


@final
class Mock:
    """Example responses of one operation."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._responses = {
            status: (
                [
                    (content_type, [(name, text.encode()) for name, text in texts])
                    for content_type, texts in each["content"]
                ],
                tuple((name.encode(), value.encode()) for name, value in each["headers"]),
            )
            for status, each in plan.items()
        }
        self._usual = _usual(self._responses)

    def reply(self, exchange: Exchange, reply: Reply) -> Reply:
        """Return an example in place of the empty answer of the route; faults stay as they are."""
        if reply.fault is not None or reply.status != 200 or reply.body:
            return reply
        preferred = {
            name: value.decode() for line in exchange.values(b"prefer") for name, value in _PREFERENCE.findall(line)
        }
        status = self._usual
        code = preferred.get(b"code")
        if code is not None and len(code) == 3 and code.isdigit() and 200 <= int(code) <= 599:
            status = code
        content, headers = self._content_of(status)
        number = int(status) if status.isdigit() else int(status[0]) * 100 if status[0].isdigit() else 200
        content_type, body = _chosen(content, exchange.values(b"accept"), preferred.get(b"example"))
        if body is None or number in _EMPTY:
            return Reply(number, b"", headers)
        return Reply(number, body, ((b"Content-Type", content_type.encode()), *headers))

    def _content_of(self, status: str) -> Any:
        for name in (status, f"{status[0]}XX", "default"):
            if name in self._responses:
                return self._responses[name]
        return [], ()


def _usual(responses: Mapping[str, Any]) -> str:
    """Return the status that is answered without a preference: the lowest of success, else `default`, which has it,
    else the first.
    """
    success = sorted(status for status in responses if status.startswith("2"))
    others = [status for status in responses if not status.startswith("1")]
    return (success or [status for status in others if status == "default"] or others or ["200"])[0]


def _chosen(content: Any, accept: list[bytes], example: str | None) -> tuple[str, bytes | None]:
    """Return the content type that the client prefers by `Accept`, else the first, and the example of this name, else
    the first.
    """
    if not content:
        return "", None
    weights = parse_accept(accept)
    content_type, texts = max(content, key=lambda each: weight_of(weights, _media_type(each[0])))
    return content_type, next((text for name, text in texts if name == example), texts[0][1])


def _media_type(content_type: str) -> bytes:
    return content_type.partition(";")[0].strip().lower().encode()
