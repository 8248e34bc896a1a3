"""Percent-encoding of forms: what the standard library decodes, without an object for each triplet."""

import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.http.percent_encoding import decode_form_text, find_invalid

PIECES = [*b"% %% %4 %41 %c3%A9 %3D = + _ a Z".split(), b" ", b"\n", b"\r\n", b"\t", b"\0", b"\xff"]
TEXTS = st.lists(st.sampled_from(PIECES)).map(b"".join)


@given(TEXTS | st.binary())
@example(b"%\n")  # in quoted-printable a soft line break
@example(b"a=%")
@example(b"=41")
def test_texts_are_decoded_as_by_the_standard_library(text: bytes) -> None:
    assert decode_form_text(text) == unquote_to_bytes(text.replace(b"+", b" "))


@pytest.mark.parametrize(("text", "is_invalid"), [(b"%41", False), (b"", False), (b"%4", True), (b"a%zz", True)])
def test_an_invalid_triplet_is_found(text: bytes, is_invalid: bool) -> None:
    assert (find_invalid(text) is not None) is is_invalid


def test_a_long_text_is_decoded_as_a_whole() -> None:
    """128 KiB of triplets are a few texts of that size; an object for each takes many times as much."""
    text = b"%41" * 43_000
    tracemalloc.start()
    try:
        decoded = decode_form_text(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoded == b"A" * 43_000
    assert peak < 5 * len(text)
