"""Answers of parts: decoded, checked, and shaped by the rules of their part.

May run in a thread or a helper process: it uses nothing but the answer and the rules.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import Final, TypeAlias

import orjson

from fastgw.composition.rules import AnswerRules, TextRule, Unusable, member
from fastgw.errors import Fault
from fastgw.http.content_coding.content_encoding import ALIASES
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.texts import check_text
from fastgw.http.messages import ResponseHead

_RATIO: Final = 100
"""Maximum ratio of an answer to its encoded form."""
_AS_CONTENT: Final = member("content")
_PIECE: Final = 16 * 1024


UsedAnswer: TypeAlias = tuple[bytes, bytes]
"""An answer as received, for the templates of other parts, and by the rules of its part: an object."""


class PartAnswer:
    """Answer to one request, or its failure. `head`: None for a failure without a response."""

    def __init__(self, head: ResponseHead | None = None, body: bytes = b"") -> None:
        self.head, self.body = head, body
        self.status = 0 if head is None else head.status
        self.fault: Fault | None = None
        self.why = ""

    @classmethod
    def failed(cls, fault: Fault, why: str = "", head: ResponseHead | None = None) -> PartAnswer:
        answer = cls(head)
        answer.fault, answer.why = fault, why or fault.label
        return answer

    @property
    def coding(self) -> bytes:
        """Content coding of the body, in lower case; b"": none. Several ones are a list, which is unknown."""
        values = () if self.head is None else self.head.values(b"content-encoding")
        if not values:
            return b""
        coding = b",".join(values).strip().lower()
        return b"" if coding == b"identity" else coding

    @property
    def media_type(self) -> bytes | None:
        """Value of its `Content-Type`."""
        return None if self.head is None else self.head.first(b"content-type")


def decode_answer(answer: PartAnswer, most: int) -> PartAnswer | str:
    """Return an answer without its content coding; a str: why it cannot be used. `most`: maximum bytes of the body."""
    try:
        return PartAnswer(answer.head, _decoded(answer.coding, answer.body, most))
    except Unusable as error:
        return f"the answer cannot be used: {error}"


def use_body(rules: AnswerRules, shape: TextRule, body: bytes) -> UsedAnswer | str:
    """Return what these rules use of the body of an answer, or why it cannot be used, which has nothing of it. `shape`:
    their function (`rules.shaping`).
    """
    try:
        received = _checked(rules, body)
        return received, shape(received)
    except (InvalidJson, Unusable) as error:
        return f"the answer cannot be used: {error}"


def _checked(rules: AnswerRules, body: bytes) -> bytes:
    if rules.encoding == "string":
        try:
            return _AS_CONTENT(_json_string(body))
        except UnicodeDecodeError:
            raise Unusable("not UTF-8") from None
    if not body or body.isspace():
        return b"{}"
    return check_text(body)


def _json_string(text: bytes) -> bytes:
    """Return the JSON string of a text, made in pieces, between which other threads have their turns. Raises
    `UnicodeDecodeError`.

    PERF: the event loop waits up to 6 ms for 4 MB of quotation marks, 25 for them at once (CPython 3.11).
    """
    if len(text) <= _PIECE:
        return orjson.dumps(text.decode())
    decoder = getincrementaldecoder("utf-8")()
    pieces = [b'"']
    for begin in range(0, len(text), _PIECE):
        piece = decoder.decode(text[begin : begin + _PIECE], begin + _PIECE >= len(text))
        pieces.append(orjson.dumps(piece)[1:-1])
    pieces.append(b'"')
    return b"".join(pieces)


def _decoded(coding: bytes, body: bytes, most: int) -> bytes:
    """Return a body without its content coding, although the request accepted none. Raises `Unusable`."""
    try:
        from fastgw.http.content_coding.decompressors import (  # needs fastgw[compression]
            Decompressor,
            Excessive,
            Undecodable,
        )
    except ImportError:
        raise Unusable("it has a content coding, for which fastgw[compression] is needed") from None
    try:
        decompressor = Decompressor(ALIASES.get(coding, coding), most, _RATIO)
    except KeyError:
        raise Unusable("it has an unknown content coding") from None
    pieces = []
    try:
        for begin in range(0, len(body), _PIECE):
            pieces.append(decompressor.feed(body[begin : begin + _PIECE]))
        decompressor.end()
    except Excessive as error:
        raise Unusable(str(error)) from error
    except Undecodable:
        raise Unusable("its content coding is invalid") from None
    return b"".join(pieces)
