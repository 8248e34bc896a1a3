"""Parsing of messages from read buffers, and each of the two parsers alone, to show its share."""

from collections.abc import Iterator

from httptools import HttpRequestParser, HttpResponseParser

from bench.micro.heads import ANSWERS, POSTS, REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.http.http1.parser import (
    find_head_end,
    parse_answer,
    parse_request,
    parse_response,
    read_request,
    read_response,
    take_answer,
    take_request,
)
from fastgw.http.http1.second_parser import SecondParser
from fastgw.http.messages import ResponseHead

MAX_BYTES, MAX_FIELDS = 65_536, 100


def rooms() -> Iterator[Room]:
    answers = [(answer, len(raw)) for answer, raw in zip(ANSWERS, RESPONSES, strict=True)]
    yield Room(
        "take a request out of the read buffer",
        lambda buffer: take_request(buffer, len(buffer) - ROOM, MAX_BYTES, MAX_FIELDS),
        in_buffers(REQUESTS),
    )
    yield Room(
        "take a request with its body",
        lambda buffer: take_request(buffer, len(buffer) - ROOM, MAX_BYTES, MAX_FIELDS),
        in_buffers(POSTS),
    )
    yield Room("find the end of a request head", find_head_end, REQUESTS)
    yield Room("judge a request head", parse_request, REQUESTS)
    yield Room("  our judge alone", lambda raw: read_request(raw, MAX_FIELDS), REQUESTS)
    yield Room("  llhttp alone", lambda raw: SecondParser(HttpRequestParser).head(raw, False), REQUESTS)
    yield Room(
        "take an answer out of the read buffer",
        lambda buffer: take_answer(buffer, len(buffer) - ROOM, b"GET"),
        in_buffers(ANSWERS),
    )
    yield Room("judge a response with its body", _judge_answer, answers)
    yield Room("  our judge alone, of its head", lambda raw: read_response(raw, b"GET", MAX_FIELDS), RESPONSES)
    yield Room("  llhttp alone", lambda raw: SecondParser(HttpResponseParser).head(raw, None), RESPONSES)
    yield Room("judge a response head", lambda raw: parse_response(raw, b"GET"), RESPONSES)
    yield Room("  llhttp alone", lambda raw: SecondParser(HttpResponseParser).head(raw, True), RESPONSES)


ROOM = 1
"""Free bytes after a read: a full buffer is never taken for a complete response."""


def in_buffers(messages: list[bytes]) -> list[memoryview]:
    """Return each message as if it had just been read: alone in a buffer."""
    return [memoryview(bytearray(message + bytes(ROOM))) for message in messages]


def _judge_answer(answer: tuple[bytes, int]) -> ResponseHead:
    received, end = answer
    return parse_answer(received, end, b"GET")
