"""The chain of an audit log: whoever changes, removes or inserts an entry is found out."""

import hashlib
import json

import pytest

from fastgw.audit.chain import LINE_MAX, START, AuditEntry, BrokenChain, Link, chained_line, read_link, verify
from tests.support.table import for_each


def _lines(count: int, last: Link = Link()) -> list[bytes]:  # noqa: B008
    lines = []
    for number in range(count):
        line, last = chained_line(
            AuditEntry(1_800_000_000.5, f"token {number}", "POST /reload", "200", {"a": "b"}), last
        )
        lines.append(line)
    return lines


def test_a_line_is_json_with_time_actor_action_and_result_and_the_hash_of_the_line_before():
    first, second = map(json.loads, _lines(2))
    assert first == {
        "number": 1,
        "time": "2027-01-15T08:00:00.500Z",
        "actor": "token 0",
        "action": "POST /reload",
        "result": "200",
        "detail": {"a": "b"},
        "previous": START,
        "hash": first["hash"],
    }
    assert second["previous"] == first["hash"]


def test_the_hash_is_the_sha_256_of_the_line_without_it():
    [line] = _lines(1)
    before, _, signed = line.partition(b',"hash":"')
    assert signed == hashlib.sha256(before + b"}").hexdigest().encode() + b'"}\n'


def test_whole_chains_are_intact_and_their_parts_follow_one_another():
    lines = _lines(9)
    links = list(verify(lines))
    assert [link.number for link in links] == list(range(1, 10))
    assert list(verify(lines[4:], links[3])) == links[4:]
    assert list(verify(lines[4:])) == links[4:]  # the file before was rotated away


@for_each(
    ("change", "line", "why"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], 3, "removed"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 2, "removed"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3, "removed"),
        (lambda lines: [lines[0].replace(b"token 0", b"token 9"), *lines[1:]], 1, "changed"),
        (lambda lines: [*lines[:3], lines[3].replace(b'"200"', b'"500"'), lines[4]], 4, "changed"),
        (lambda lines: [*lines[:4], lines[4][:-1]], 5, "incomplete"),
        (lambda lines: [*lines[:4], lines[4][:40]], 5, "incomplete"),
        (lambda lines: [*lines[:1], b"\n", *lines[1:]], 2, "no entry"),
        (lambda lines: [b"{}\n", *lines], 1, "no entry"),
        (lambda lines: [*_lines(1, Link(4, "a" * 64)), *lines], 2, "removed"),
        (lambda lines: [*lines, *_lines(1, Link(7, json.loads(lines[-1])["hash"]))], 6, "number is 8, expected 6"),
        (lambda lines: _lines(1, Link(0, "a" * 64)), 1, "names one"),
    ],
)
def test_what_was_changed_is_found_with_its_line(change, line, why):
    with pytest.raises(BrokenChain, match=why) as found:
        list(verify(change(_lines(5))))
    assert found.value.line == line


def test_a_signed_line_that_is_no_entry_is_refused():
    unsigned = b'{"number":1,"previous":"' + START.encode() + b'"}'
    line = unsigned[:-1] + b',"hash":"' + hashlib.sha256(unsigned).hexdigest().encode() + b'"}'
    with pytest.raises(BrokenChain, match="no entry"):
        read_link(line)


def test_long_texts_and_text_that_is_not_unicode_are_bounded_and_stay_verifiable():
    hostile = AuditEntry(
        0.0, "\udcff\n\0", "a" * 9_000, "\U0001f512" * 9_000, {f"n{n}": "\x01" * 9_000 for n in range(20)}
    )
    line, link = chained_line(hostile, Link())
    assert len(line) <= LINE_MAX
    assert line.count(b"\n") == 1
    assert list(verify([line])) == [link]
    assert "more)" in json.loads(line)["action"]
