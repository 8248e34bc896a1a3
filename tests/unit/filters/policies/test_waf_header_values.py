"""Header values that the firewall searches: a received head is read as plainly."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.filters.policies.waf import header_values
from fastgw.http.http1.parser import parse_request
from tests.support import waf_texts

SKIPPED = frozenset((b"accept", b"cookie", b"host"))
OF_FILES = frozenset((b"x-file-name",))
NAMES = st.sampled_from([b"Accept", b"X-A", b"x-a", b"COOKIE", b"Cookie", b"X-File-Name", b"N" * 70, b"X.B"])
VALUES = st.sampled_from([b"", b"a", b"b: c", b"${jndi:x}", b"$5", b" \ta \t", b"known", b"\xff"])
KNOWN = {b"known", b"b: c"}


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
@example([(b"Accept", b"${x}"), (b"X-A", b"known"), (b"X-File-Name", b"known")])
@example([(b"Cookie", b"a"), (b"cookie", b"known"), (b"Cookie", b"a")])
def test_both_return_the_same_values(lines: list[tuple[bytes, bytes]]) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"%b:%b\r\n" % line for line in lines) + b"\r\n"
    ours = header_values.unknown_values(parse_request(head), SKIPPED, OF_FILES, KNOWN, KNOWN)
    assert ours == waf_texts.unknown_values(parse_request(head), SKIPPED, OF_FILES, KNOWN, KNOWN)


def test_a_name_of_a_file_is_returned_as_one_even_if_another_header_had_its_value() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: known\r\nX-File-Name: known\r\n\r\n")
    assert header_values.unknown_values(head, SKIPPED, OF_FILES, KNOWN, KNOWN) == (
        [(b"X-File-Name", b"filename=known")],
        [],
    )
