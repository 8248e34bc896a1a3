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
    (b"/v1%252e2/a%252fb", b"/v1%252e2/a%252fb"),
    (b"/%25%32%65x", b"/%252ex"),
    (b"/a%25252fb", b"/a%25252fb"),
    (b"/a%5cb%255Cc", b"/a%5Cb%255Cc"),
    (b"/%01a%0a%0D%09%1F%7fb", b"/%01a%0A%0D%09%1F%7Fb"),
    (b"/x/../a%5Cb/./%0Ac", b"/a%5Cb/%0Ac"),
    (b"/a..%5Cb/..%252E", b"/a..%5Cb/..%252E"),
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
    b"/%",
    b"/%2",
    b"/%zz",
    b"/%u002e",
    b"/%%32%65",
    b"/% 41",
    b"/%+1",
    b"/a\\b",
    b"/a%250D%250A",
    b"/a%2500",
    b"/a%5C..",
    b"/a%5C.%5Cb",
    b"/..%5Ca",
    b"/a/x/../..%5cb",
    b"/a%255C..",
    b"/%252E%252E%252Fb",
    b"/a%252F..%252Fb",
    b"/a/.%252e/../b",
    b"/a/%25%2532e",
    b"/a/%25%0A2e/b",
    b"/a/%2525%250A2e/b",
    b"/a/%09..",
    b"/a/.%0A./b",
    b"/a/..%0Db",
    b"/a/..%7F",
    b"/a/.%250A.",
    b"/%25C0%25AE",
    b"/a%252525252525",
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
    b"/a/%25%32%65/b",
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
CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
ESCAPES = "2e 2E 2f 2F 3b 5c 25 25 32 65 00 09 0a 41 7c 7e c0 ae e2 82 ac"
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
    """Whoever stands behind us and decodes once or twice, removes control characters or ends there, and cuts `;...`
    off, still sees no `..`."""
    for removes in (False, True):
        path = normal_or_none(raw_path)
        while path is not None:
            for text in (path, CONTROLS.sub(b"", path), CONTROLS.split(path)[0]):
                assert not {b".", b".."} & {segment.split(b";")[0] for segment in text.replace(b"\\", b"/").split(b"/")}
            before = CONTROLS.sub(b"", path) if removes else path
            decoded = unquote_to_bytes(before)
            path = decoded if decoded != path else None


@given(PATHS, st.data())
def test_escaping_a_byte_that_needs_no_escape_changes_nothing(raw_path, data):
    path = normal_or_none(raw_path)
    places = [m.start() for m in re.finditer(rb"(?<!%)(?<!%.)[A-Za-z0-9._~-]", path or b"")]
    if path is None or not places:
        return
    place = data.draw(st.sampled_from(places))
    assert normalize(path[:place] + b"%%%02x" % path[place] + path[place + 1 :]) == path
