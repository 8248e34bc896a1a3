"""Heads judged: the two judges together, and each alone, so that the share of llhttp is seen."""

from collections.abc import Iterator

from httptools import HttpRequestParser, HttpResponseParser

from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.wire.framing import find_head_end, judge_request, judge_response
from fastgw.wire.heads import read_request, read_response
from fastgw.wire.llhttp import LongLivedJudge, SecondJudge

MAX_FIELDS = 100


def rooms() -> Iterator[Room]:
    yield Room("find the end of a request head", find_head_end, REQUESTS)
    yield Room("judge a request head", judge_request, REQUESTS)
    yield Room("  our judge alone", lambda raw: read_request(raw, MAX_FIELDS), REQUESTS)
    yield Room("  llhttp alone", LongLivedJudge(HttpRequestParser).head, REQUESTS)
    yield Room("judge a response head", lambda raw: judge_response(raw, b"GET"), RESPONSES)
    yield Room("  our judge alone", lambda raw: read_response(raw, b"GET", MAX_FIELDS), RESPONSES)
    yield Room("  llhttp alone", lambda raw: SecondJudge(HttpResponseParser).head(raw, body_follows=True), RESPONSES)
