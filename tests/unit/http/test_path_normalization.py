"""The normal form of paths: what is equal, what stays apart, what is refused."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from tests.support.table import for_each

NORMAL_FORMS = [
    (b"/", b"/"),
    (b"/users/7", b"/users/7"),
    (b"/a/./b", b"/a/b"),
    (b"/a/../b", b"/b"),
    (b"/a/b/..", b"/a/"),
    (b"/a/b/.", b"/a/b/"),
    (b"/a/b/../", b"/a/"),
    (b"/a/..", b"/"),
    (b"/.", b"/"),
    (b"/./", b"/"),
    (b"/a/%2e/b", b"/a/b"),
    (b"/a/%2E%2e/b", b"/b"),
    (b"/a/.%2e/b", b"/b"),
    (b"/.well-known/x", b"/.well-known/x"),
    (b"/...", b"/..."),
    (b"/a/.../b", b"/a/.../b"),
    (b"/a/..b", b"/a/..b"),
    (b"/%61%41%30%2d%5f%7e", b"/aA0-_~"),
    (b"/%e2%82%ac", b"/%E2%82%AC"),
    (b"/caf%e9", b"/caf%E9"),
    (b"/a%2fb", b"/a%2Fb"),
    (b"/a%2Fb", b"/a%2Fb"),
    (b"/a%20b%3Fc%23d", b"/a%20b%3Fc%23d"),
    (b"/100%25", b"/100%25"),
    (b"/100%2525", b"/100%2525"),
    (b"/a;v=1/b", b"/a;v=1/b"),
    (b"/a%3bb", b"/a%3Bb"),
    (b"/a;.", b"/a;."),
    (b"/a//b", b"/a//b"),
    (b"//a", b"//a"),
    (b"/a//../b", b"/a/b"),
    (b"/@scope/a:b", b"/@scope/a:b"),
    (b"/!$&'()*+,=", b"/!$&'()*+,="),
    (b'/a|b"<>[]^`{}', b"/a%7Cb%22%3C%3E%5B%5D%5E%60%7B%7D"),
]

REFUSED = [
    b"",
    b"a",
    b"*",
    b"http://a/",
    b"/%00",
    b"/a%0d%0aX:1",
    b"/%01",
    b"/%1F",
    b"/%7f",
    b"/%",
    b"/%2",
    b"/%zz",
    b"/%u002e",
    b"/%%32%65",
    b"/% 41",
    b"/%+1",
    b"/a\\b",
    b"/a%5cb",
    b"/a%5C..",
    b"/..;/a",
    b"/a/..;",
    b"/a/..;x=1/b",
    b"/a/.;/b",
    b"/a/%2e%2e;/b",
    b"/a/..%3b/b",
    b"/a/.%3B",
    b"/..",
    b"/../",
    b"/a/../..",
    b"/a/../../b",
    b"/%2e%2e/a",
    b"/a/%252e%252e/b",
    b"/a/%252E",
    b"/a%252fb",
    b"/a%255cb",
    b"/a%25252fb",
    b"/a/%25%32%65/b",
    b"/a/%25%32%46",
    b"/a/..%2fb",
    b"/a/..%2F..%2Fetc",
    b"/a%2f..%2fb",
    b"/a%2f..",
    b"/a%2f./b",
    b"/a/.%2fb",
    b"/%c0%ae%c0%ae/",
    b"/%C0%AF",
    b"/%c1%9c",
    b"/%c0%2e",
    b"/%e0%80%ae",
    b"/%e0%80%af",
    b"/%f0%80%80%ae",
    b"/%f8%80%80%80%ae",
    b"/%fc%80%80%80%80%ae",
    b"/a b",
    b"/a\tb",
    b"/a\x00",
    b"/a\r\n",
    b"/a\n",
    b"/a#b",
    b"/a?b",
    b"/\x7f",
    b"/\xc3\xa9",
    b"/\xff",
]


@for_each(("raw_path", "path"), NORMAL_FORMS)
def test_a_path_has_one_normal_form(raw_path, path):
    assert normalize(raw_path) == path


@for_each("raw_path", REFUSED)
def test_a_path_that_a_target_could_read_otherwise_is_refused_with_400(raw_path):
    with pytest.raises(Malformed) as refusal:
        normalize(raw_path)
    assert refusal.value.status == 400
    assert refusal.value.reason


ALONE = ["/", "/", "/", "a", "b", ".", "..", "...", ";", "~", "|", "[", "\\", "%", "%5", "2e", "2f", "5c"]
ESCAPES = "2e 2E 2f 2F 3b 25 32 65 00 0a 41 7c 7e c0 ae e2 82 ac"
PIECES = st.sampled_from([*ALONE, *(f"%{code}" for code in re.findall(r"\w+", ESCAPES))])
PATHS = st.one_of(
    st.lists(PIECES, max_size=12).map(lambda pieces: ("/" + "".join(pieces)).encode()),
    st.binary(max_size=12).map(lambda tail: b"/" + tail),
)


def normal_or_none(raw_path: bytes) -> bytes | None:
    try:
        return normalize(raw_path)
    except Malformed:
        return None


@given(PATHS)
@example(b"/a//..//b")
@example(b"/%2525")
def test_what_is_accepted_is_plain_and_normalising_it_again_changes_nothing(raw_path):
    path = normal_or_none(raw_path)
    if path is None:
        return
    assert normalize(path) == path
    assert re.fullmatch(rb"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})*)+", path)
    assert not {b".", b".."} & set(path.split(b"/"))


@given(PATHS)
def test_no_amount_of_decoding_finds_a_dot_segment_in_what_is_accepted(raw_path):
    """Whoever stands behind us and decodes once or twice, and cuts `;...` off, still sees no `..`."""
    path = normal_or_none(raw_path)
    while path is not None:
        assert not {b".", b".."} & {segment.split(b";")[0] for segment in path.replace(b"\\", b"/").split(b"/")}
        decoded = unquote_to_bytes(path)
        path = decoded if decoded != path else None


@given(PATHS, st.data())
def test_escaping_a_byte_that_needs_no_escape_changes_nothing(raw_path, data):
    path = normal_or_none(raw_path)
    places = [m.start() for m in re.finditer(rb"(?<!%)(?<!%.)[A-Za-z0-9._~-]", path or b"")]
    if path is None or not places:
        return
    place = data.draw(st.sampled_from(places))
    assert normalize(path[:place] + b"%%%02x" % path[place] + path[place + 1 :]) == path
