"""Texts that the rules of the firewall search: they are what is read plainly."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.filters.policies.waf import search_texts
from fastgw.filters.policies.waf.normalization import IS_OVERLONG, normalized
from tests.support import waf_texts
from tests.support.table import for_each

PIECES = st.sampled_from(
    [
        *(bytes((each,)) for each in b" =;/*&\\'\"^$%#()<>+{}|`~!?@,.:_-[]\0\t\n\x0b\x7f\x80\x85\xa0\xffaZ0"),
        *(b"  ", b"/*", b"*/", b"/* x */", b"/*!", b"%41", b"%2541", b"%u0041", b"\\x41", b"&amp;", b"&#65;", b"$IFS"),
        *(
            b"session",
            b"SELECT",
            b"; theme=dark",
            b"=;=",
            b"\xc0\xaf",
            b"\xe0\x81\xb3",
            b"\xfc\x80\x80\x80\x81\xb3",
            b"\xef\xbc\x9c",
            b"\xe2\x80\x99",
            b"$()",
            b"<()",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map(b"".join)


@given(st.lists(TEXTS, max_size=4))
@example([])
@example([b""])
@example([b"", b""])
@example([b"Mozilla/5.0 (X11; Linux x86_64)", b"/a/b?c=D"])
@example([b"a", b"it's", b"B"])
@example([b"'", b'"^', b"A'b \" c"])
@example([b"a & b", b"&", b"&1", b"&#65;", b"&lt", b"&LT;'", b"'&\"lt;"])
@example([b"'<()", b"'>()", b"<'()", b"()'", b"'<(", b" ' "])
@example([b"it's", b"it's /*x*/", b"$'x'", b"\\x41'"])
def test_texts_are_joined_alike(texts: list[bytes]) -> None:
    assert search_texts.search_text(texts) == waf_texts.search_text(texts)


@given(
    TEXTS | st.lists(st.sampled_from([b"%", b"2", b"5", b"7", b"C", b"u", b"U", b"+", b"g"])).map(b"".join),
    st.booleans(),
)
@example(b"", True)
@example(b"+", True)
@example(b"+", False)
@example(b"a%", False)
@example(b"a%4", False)
@example(b"%4g%+1%41", True)
@example(b"%2B+", True)
@example(b"%c3%A9%00%ff", False)
@example(b"%252541%2541%41", False)
@example(b"%25u0041%u0041", True)
@example(b"%25U0041", True)
@example(b"%25%34%31%2", True)
def test_texts_are_decoded_alike(text: bytes, plus: bool) -> None:
    assert search_texts.decoded(text, plus=plus) == waf_texts.decoded(text, plus=plus)


@given(TEXTS)
@example(b"")
@example(b"=")
@example(b"; ;")
@example(b"Session=AB; theme=dark;_ga = GA1.2; a; b=c=d ;")
@example(b"a=it's; b=&; c=&lt;")
def test_cookies_are_joined_alike(line: bytes) -> None:
    assert search_texts.cookie_text(line) == waf_texts.cookie_text(line)


TARGETS = st.lists(st.sampled_from([b"/", b"a", b"B", b"=", b"&", b" ", b"~", b";", b"%41", b"+", b"\0", b"@"])).map(
    b"".join
)


@given(TARGETS, st.none() | TARGETS, st.integers(1, 4))
@example(b"", b"", 1)
@example(b"/A b=c;", None, 1)
@example(b"/A b=c", b"", 1)
@example(b"/A", b"A=B&&c=&=D&e", 5)
@example(b"/A", b"A=B&&c=&=D&e", 4)
@example(b"/", b"a=b=c", 4)
@example(b"/", b"a=b&c=d=", 4)
@example(b"/", b"a b", 4)
def test_targets_are_joined_alike(path: bytes, query: bytes | None, most: int) -> None:
    assert search_texts.plain_target(path, query, most) == waf_texts.plain_target(path, query, most)


def test_characters_of_targets_are_plain_alike() -> None:
    characters = [bytes((each,)) for each in range(256)]
    targets = [target for each in characters for target in ((b"/" + each, None), (b"/", each), (b"/", b"a=" + each))]
    assert [each for each in targets if search_texts.plain_target(*each, 9) != waf_texts.plain_target(*each, 9)] == []


def test_names_and_values_of_a_plain_query_are_texts_of_their_own() -> None:
    assert search_texts.plain_target(b"/A", b"B=C&d&=e", 3) == b"/a\0b\0c\0d\0\0e"
    assert search_texts.plain_target(b"/A", b"B=C&d&=e", 2) is None
    assert search_texts.plain_target(b"/A", b"B=C=d", 3) is None
    assert search_texts.plain_target(b"/A b", None, 1) == b"/a b"
    assert search_texts.plain_target(b"/%41", None, 1) is None
    assert search_texts.plain_target(b"/", b"a+b", 1) is None


def test_names_and_values_of_cookies_are_texts_of_their_own() -> None:
    assert search_texts.cookie_text(b"Session=AB; theme=d%61rk; a") == (b"session\0ab\0theme\0dark\0a\0", True)
    assert search_texts.cookie_text(b"a=(1)") == (b"a\0(1)", False)


def test_edges_of_cookies() -> None:
    lines = b"", b"=", b"==", b";", b" ; ", b"a", b"a;", b" a = b ", b"a=b;c", b"A=" + b"x" * 5000, b";" * 5000
    assert [search_texts.cookie_text(line) for line in lines] == [waf_texts.cookie_text(line) for line in lines]


def test_texts_are_in_lower_case_with_their_variants() -> None:
    for texts in ((), (b"",), (b"", b""), (b"", b"a", b""), (b"A" * 5000, b"b")):
        assert search_texts.search_text(texts) == waf_texts.search_text(texts)
    assert search_texts.search_text((b"A b", b"c'A't")) == (b"a b\0c'a't\0cat", False)
    assert search_texts.search_text((b"A b", b"C")) == (b"a b\0c", True)
    assert search_texts.search_text((b"'", b'It\'s "^A"')) == (b"'\0\0it's \"^a\"\0its a", False)
    assert search_texts.search_text((b"A & B", b"&1", b"a&lt;b")) == (b"a & b\0&1\0a<b", False)


def test_percent_encoding_is_decoded_twice() -> None:
    assert search_texts.decoded(b"%2541+%252541+%u0041%%zz%4", plus=True) == b"A %41 A%%zz%4"
    assert search_texts.decoded(b"a+%2B+%00%c3", plus=False) == b"a+++\0\xc3"
    assert search_texts.decoded(b"a+", plus=False) == b"a+"
    assert search_texts.decoded(b"+%2b", plus=True) == b" +"


def test_what_comments_enclose_is_in_variants() -> None:
    assert normalized(b"a /* b */ c") == b"a c\0a b c"
    assert normalized(b"a/*b/*c*/d*/e") == b"a d*/e\0a b c d e\0a b d e"
    assert normalized(b"a#/*\nb/*c*/d") == b"a# d\0a\nb d\0a#\nb c d\0a\nb c d\0a#\nb d"
    assert normalized(b"text/html, */*;q=0.8") == b"text/html, */*;q=0.8"
    assert normalized(b"a//b\nhttps://c\nd") == b"a//b\nhttps://c\nd\0a\nhttps://c\nd"


@given(st.lists(PIECES | st.sampled_from([b"//", b"--", b"#", b"\n"])).map(b"".join))
@example(b"'/*'#\n/*x*//*y*/")
def test_the_length_of_the_variants_is_limited(text: bytes) -> None:
    assert len(normalized(text)) <= 7 * len(text) + 6


def in_utf_8(code: int, length: int) -> bytes:
    """Return a character in this number of bytes (RFC 2279 section 2), which may be more than it needs."""
    continuation = [code >> 6 * place & 0x3F | 0x80 for place in range(length - 2, -1, -1)]
    return bytes((0xFF << 8 - length & 0xFF | code >> 6 * (length - 1), *continuation))


@for_each("length", range(2, 7))
@for_each("character", b"./<'SU\x7f")
def test_an_overlong_character_is_read_as_the_shortest(character: int, length: int) -> None:
    overlong = in_utf_8(character, length)
    assert IS_OVERLONG(overlong)
    assert normalized(b"(%b)" % overlong) == normalized(b"(%c)" % character)
    assert search_texts.cookie_text(b"f=%b" % overlong)[0] == b"f\0" + normalized(b"%c" % character)


@given(st.integers(0, 0x7FFFFFFF), st.integers(2, 6))
@example(0x7F, 2)
@example(0x80, 2)
@example(0x7FF, 3)
@example(0x800, 3)
@example(0xFFFF, 4)
@example(0x10000, 4)
@example(0x1FFFFF, 5)
@example(0x200000, 5)
@example(0x3FFFFFF, 6)
@example(0x4000000, 6)
def test_overlong_is_ascii_in_more_than_one_byte(code: int, length: int) -> None:
    most = {1: 0x7F, 2: 0x7FF, 3: 0xFFFF, 4: 0x1FFFFF, 5: 0x3FFFFFF, 6: 0x7FFFFFFF}
    code %= most[length] + 1
    assert bool(IS_OVERLONG(in_utf_8(code, length))) is (code <= 0x7F)


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("もしもし もちろん 今日もいい天気", "shift_jis"),
        ("мама мыла раму «здравствуй»", "windows-1251"),
        ("été à Noël", "latin-1"),
    ],
)
def test_other_encodings_are_not_overlong(text: str, charset: str) -> None:
    assert not IS_OVERLONG(text.encode(charset))


@given(st.text())
def test_valid_utf_8_is_not_overlong(text: str) -> None:
    assert not IS_OVERLONG(text.encode("utf-8", "surrogatepass"))
