"""Texts that the rules of the firewall search: the compiled functions return what the reference does."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.filters.policies.waf import normalization
from fastgw.filters.policies.waf.normalization import _cookie_text, _search_text

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
            b"\xef\xbc\x9c",
            b"\xe2\x80\x99",
            b"$()",
            b"<()",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map(b"".join)


@pytest.mark.twin
@given(st.lists(TEXTS, max_size=4))
@example([])
@example([b""])
@example([b"", b""])
@example([b"Mozilla/5.0 (X11; Linux x86_64)", b"/a/b?c=D"])
@example([b"a", b"it's", b"B"])
def test_texts_are_joined_alike(texts: list[bytes]) -> None:
    assert normalization.search_text(texts) == _search_text(texts)


@pytest.mark.twin
@given(TEXTS)
@example(b"")
@example(b"=")
@example(b"; ;")
@example(b"Session=AB; theme=dark;_ga = GA1.2; a; b=c=d ;")
def test_cookies_are_joined_alike(line: bytes) -> None:
    assert normalization.cookie_text(line) == _cookie_text(line)


def test_names_and_values_of_cookies_are_texts_of_their_own() -> None:
    assert normalization.cookie_text(b"Session=AB; theme=d%61rk; a") == (b"session\0ab\0theme\0dark\0a\0", True)
    assert normalization.cookie_text(b"a=(1)") == (b"a\0(1)", False)


def test_edges_of_cookies() -> None:
    lines = b"", b"=", b"==", b";", b" ; ", b"a", b"a;", b" a = b ", b"a=b;c", b"A=" + b"x" * 5000, b";" * 5000
    assert [normalization.cookie_text(line) for line in lines] == [_cookie_text(line) for line in lines]


def test_texts_are_in_lower_case_with_their_variants() -> None:
    for texts in ((), (b"",), (b"", b""), (b"", b"a", b""), (b"A" * 5000, b"b")):
        assert normalization.search_text(texts) == _search_text(texts)
    assert normalization.search_text((b"A b", b"c'A't")) == (b"a b\0c'a't\0cat", False)
    assert normalization.search_text((b"A b", b"C")) == (b"a b\0c", True)
