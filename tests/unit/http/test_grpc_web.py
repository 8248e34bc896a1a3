"""gRPC-Web as bytes: its content types, its text form in any pieces, and trailers that cannot be read as others."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.grpc.frames import FrameError, frame
from fastgw.http.grpc.web import TextDecoder, WebResponse, WebType, parse_web_type, response_type, trailers_frame
from tests.support.table import for_each


@for_each(
    ("value", "kind"),
    [
        (b"application/grpc-web", WebType(False, b"")),
        (b"application/grpc-web+proto", WebType(False, b"+proto")),
        (b"Application/gRPC-Web-Text+Proto ; x=y", WebType(True, b"+proto")),
        (b"application/grpc-web-text", WebType(True, b"")),
        (b"application/grpc-web+thrift", WebType(False, b"+thrift")),
        (b"application/grpc", None),
        (b"application/grpc+proto", None),
        (b"application/grpc-website", None),
        (b"application/grpc-web+", None),
        (b"application/grpc-web-texts", None),
        (b"text/plain, application/grpc-web", None),
        (b"", None),
        (None, None),
    ],
)
def test_content_types(value: bytes | None, kind: WebType | None) -> None:
    assert parse_web_type(value) == kind
    if kind is not None:
        assert parse_web_type(kind.line()) == kind


def test_the_first_type_in_accept_is_the_form_of_the_response() -> None:
    asked = WebType(False, b"+json")
    assert response_type(asked, []) == asked
    assert response_type(asked, [b"*/*", b"x/y, application/grpc-web-text+proto, application/grpc-web"]).is_text
    assert not response_type(WebType(True, b""), [b"application/grpc-web"]).is_text
    assert response_type(asked, [b"application/grpc-web-text+proto"]).codec == b"+json"


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.lists(st.integers(1, 9), max_size=60))
def test_text_is_decoded_in_any_pieces_whichever_were_padded(encoded: list[bytes], sizes: list[int]) -> None:
    text = b"".join(map(b64encode, encoded))
    decoder, got = TextDecoder(), b""
    for size in [*sizes, len(text)]:
        if piece := text[:size]:
            got += decoder.feed(piece)
        text = text[size:]
    decoder.end()
    assert got == b"".join(encoded)


@given(st.text(st.sampled_from("AQgwz059+/=-_ \r\n"), max_size=24).map(str.encode), st.integers(1, 24))
def test_what_is_decoded_is_what_strict_base64_says_of_each_group(text: bytes, cut: int) -> None:
    groups = [text[at : at + 4] for at in range(0, len(text), 4)]
    try:
        wanted: bytes | None = b"".join(b64decode(group, validate=True) for group in groups)
        if any(b64encode(b64decode(group)) != group for group in groups):
            wanted = None
    except ValueError:
        wanted = None
    decoder = TextDecoder()
    try:
        got: bytes | None = decoder.feed(text[:cut]) + decoder.feed(text[cut:])
        decoder.end()
    except FrameError:
        got = None
    assert got == wanted


@given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(1, 9), max_size=60))
def test_text_comes_out_whole_with_padding_behind_messages_only(messages: list[bytes], sizes: list[int]) -> None:
    body = b"".join(map(frame, messages))
    writer, text = WebResponse(True, 100), b""
    for size in [*sizes, len(body)]:
        if piece := body[:size]:
            out = writer.feed(piece)
            assert writer.between_messages or b"=" not in out[-2:]
            text += out
        body = body[size:]
    decoder = TextDecoder()
    assert decoder.feed(text + writer.end([(b"grpc-status", b"0")])) == b"".join(map(frame, messages)) + frame(
        b"grpc-status:0\r\n", 0x80
    )
    decoder.end()


@pytest.mark.parametrize("value", [b"0\r\ngrpc-status:0", b"a\nb", b"a\0"])
def test_a_trailer_with_a_line_break_is_none(value: bytes) -> None:
    with pytest.raises(FrameError):
        trailers_frame([(b"x", value)])
    with pytest.raises(FrameError):
        trailers_frame([(b"x:y", b"z")])


def test_trailers_are_in_lower_case_with_one_line_for_each_name() -> None:
    lines = [(b"Grpc-Status", b"0"), (b"X-A", b"1"), (b"x-a", b"2")]
    assert trailers_frame(lines) == frame(b"grpc-status:0\r\nx-a:1, 2\r\n", 0x80)
    assert trailers_frame([]) == frame(b"", 0x80)
