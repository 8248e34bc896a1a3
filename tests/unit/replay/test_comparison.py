"""Bodies are compared by JSON paths, as far as they were recorded; latencies tolerantly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fastgw.recording.records import RecordedBody
from fastgw.replay.comparison import Difference, body_differences, compare, slower
from tests.support.table import for_each
from tests.unit.replay.test_sandbox import recorded


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        (b'{"a": 1, "b": [1, 2]}', b'{"b": [1, 2], "a": 1}', []),
        (b'{"a": 1}', b'{"a": 1.0}', ["$.a"]),
        (b'{"a": {"b": 1}}', b'{"a": {"c": 1}}', ["$.a.b", "$.a.c"]),
        (b'[{"n": 1}, {"n": 2}]', b'[{"n": 3}, {"n": 4}]', ["$[].n"]),
        (b"[1, 2]", b"[1]", ["$[]"]),
        (b'{"t": "*** a"}', b'{"t": "*** b"}', []),
        (b'{"t": "*** a", "u": "a"}', b'{"t": "b", "u": "***"}', []),
        (b"no JSON", b"no json", ["digest"]),
        (b"1", b"null", ["$"]),
    ],
)
def test_json(old: bytes, new: bytes, paths: list[str]) -> None:
    bodies = RecordedBody(old, len(old)), RecordedBody(new, len(new))
    assert [*body_differences(*bodies, True)] == paths
    assert [*body_differences(*bodies, False)] == (["digest"] if old != new else [])


def test_a_cut_body_is_compared_as_far_as_it_goes() -> None:
    cut = RecordedBody(b"abc", 10, True)
    assert not [*body_differences(cut, RecordedBody(b"abcdefghij", 10), True)]
    assert [*body_differences(cut, RecordedBody(b"abX", 3), True)] == ["digest"]


@for_each(
    ("old", "new", "differs"),
    [
        (["Set-Cookie: a=***; Path=/"], [], True),
        ([], ["Set-Cookie: a=***; Path=/"], True),
        (["Set-Cookie: a=***", "Set-Cookie: b=***"], ["Set-Cookie: a=***"], True),
        (["Set-Cookie: a=***; Path=/"], ["Set-Cookie: a=1; Path=/"], False),
        (["Set-Cookie: a=***; Path=/"], ["Set-Cookie: a=***; Path=/; Secure"], True),
        (["Set-Cookie: a=***"], ["Set-Cookie: b=***"], True),
        (["Location: https://a.example/?token=***&x=1"], ["Location: https://a.example/?token=***&x=1"], False),
        (["Location: https://a.example/?token=***&x=1"], ["Location: https://b.example/?token=***&x=1"], True),
        (["Location: https://a.example/?token=***&x=1"], ["Location: https://a.example/?token=***&x=2"], True),
        (["Location: /?a=***&b=1&c=***"], ["Location: /?a=***&b=2&c=***"], True),
        (["Location: /?a=***&b=1"], ["Location: /?a=***&b=***"], False),
        (["Authorization: ***"], ["Authorization: Basic ***"], False),
        (["Authorization: Bearer ***"], ["Authorization: Basic ***"], True),
        (["X-A: ab***ba"], ["X-A: aba"], True),
    ],
)
def test_of_a_masked_header_all_but_the_masked_part_is_compared(old: list[str], new: list[str], differs: bool) -> None:
    heads = ("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() for lines in (old, new))
    before, after = (replace(recorded("/a"), response=head) for head in heads)
    name = (old or new)[0].partition(":")[0]
    assert compare(before, after, recorded=True) == ([Difference("header", name)] if differs else [])


def test_a_latency_differs_if_it_is_clearly_larger() -> None:
    assert slower([0.01] * 20, [0.2] * 20)
    assert not slower([0.01] * 20, [0.05] * 20)
    assert not slower([0.2] * 20, [0.3] * 20)


def test_a_single_slow_response_is_no_difference() -> None:
    assert not slower([0.01] * 20, [*[0.01] * 19, 0.9])
    assert slower([0.01] * 20, [*[0.01] * 18, 0.9, 0.9])
    assert not slower([0.01] * 19, [0.9] * 19)  # too few to tell
