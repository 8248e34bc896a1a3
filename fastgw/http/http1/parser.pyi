"""Parser of request and response heads: what they mean, and how the body after them ends (RFC 9112 sections 2 to 6).

An ambiguous head is rejected, not repaired. Of what could be read in more than one way two parsers decide: this one,
and llhttp (`second_parser`); both must accept the head and agree on whether a body follows. Only the fields that a
proxy has to process are parsed (`known`); the grammar of the others is checked, and they are forwarded unchanged.
"""

from typing import Final

from fastgw.http.fields import Fields
from fastgw.http.messages import RequestHead, ResponseHead

LAST_STATUS: Final = 599
"""Largest status that HTTP defines (RFC 9110 section 15)."""
LAST_TOLERATED_STATUS: Final = 999

def body_buffer(size: int) -> memoryview:
    """Return a buffer to read bodies into. The bytes have to be taken at once, by `leading_bytes`, which returns the
    memory without a copy.
    """

def leading_bytes(buffer: memoryview, length: int) -> bytes:
    """Return the first bytes of a buffer that was read into."""

def find_head_end(buffer: bytes | bytearray, start: int = 0, begin: int = 0) -> int:
    """Return the index just past the first empty line, or -1 if it was not received yet.

    `begin`: start of the head in `buffer`; `start`: end of earlier searches. Raises `Malformed` at once if a bare LF
    shows that the head is invalid.
    """

def make_request(method: bytes, target: bytes, authority: bytes, lines: bytes) -> RequestHead:
    """Return the head of a request that the gateway makes itself, which `made_request.build_request` says more of.

    `authority`: b"": there is none. `lines`: valid field lines, without `Host`, with those that frame the body. Raises
    `Malformed`.
    """

def stand_in_head(
    method: bytes,
    host: bytes = b"",
    raw_path: bytes = b"",
    query: bytes | None = None,
    lines: bytes = b"",
    version: int = 11,
) -> RequestHead:
    """Return what is logged as the head of a request that could not be parsed, or of a connection without requests. It
    has no authority but `host`, no path that is routed, and no body.

    `lines`: field lines. `version`: HTTP version times ten, or the number of another protocol. Raises `ValueError` for
    malformed lines.
    """

def copy_of_request(head: RequestHead, fields: Fields | None = None) -> RequestHead:
    """Return a copy without the body, whose fields are changed apart from those of `head`. It is not forwarded.
    `fields`: its own.
    """

def copy_of_response(head: ResponseHead) -> ResponseHead:
    """Return a copy, as `copy_of_request` does."""

def parse_request(raw: bytes, max_fields: int = 100) -> RequestHead:
    """Parse and check exactly one request head, from its first byte to its empty line. Raises `Malformed`."""

def read_request(raw: bytes, max_fields: int) -> RequestHead:
    """Parse a request head with the first parser only. Raises `Malformed`."""

def read_http2_request(raw: bytes, max_fields: int, payload: bytes | None) -> RequestHead:
    """Parse a request head that was received by HTTP/2 and rendered; its second parser is nghttp2. Raises `Malformed`.

    nghttp2 accepts any method: those that llhttp rejects over HTTP/1.1 are rejected here.
    `payload`: its body, if all of the request was received. None: its end arrives by HTTP/2 too, also after a declared
    length of 0, which trailers may follow.
    """

def take_request(buffer: memoryview, length: int, max_bytes: int, max_fields: int) -> RequestHead | bytes:
    """Parse the next request of a connection in a buffer, if the buffer holds exactly a head of up to `max_bytes`, or a
    head with its body (`whole`), or with the beginning of a body whose length it declares (`take_begun`).

    Otherwise, and for an invalid request, return the bytes: they have to be processed step by step.
    """

def take_begun(head: RequestHead) -> bytes | None:
    """Return the beginning of the body that `take_request` has received with a head, once. None: there is none, or all
    of the body was received.
    """

def parse_answer(
    received: bytes, end: int, request_method: bytes, max_fields: int = 100, last_status: int = LAST_STATUS
) -> ResponseHead:
    """Parse and check the response head before `end`, and the body after it if it ends where `received` ends.

    Raises `Malformed`, also for a status above `last_status`. See `ResponseHead.payload`.
    """

def read_response(raw: bytes, request_method: bytes, max_fields: int, last_status: int = LAST_STATUS) -> ResponseHead:
    """Parse a response head with the first parser only. Raises `Malformed`."""

def read_http2_response(received: bytes, end: int, request_method: bytes, max_fields: int) -> ResponseHead:
    """Parse a response like `parse_answer` that was received by HTTP/2 and rendered; its second parser is nghttp2.

    Its body is never parsed again. Raises `Malformed`.
    """

def parse_response(raw: bytes, request_method: bytes, max_fields: int = 100) -> ResponseHead:
    """Parse and check exactly one response head, final or interim, of those that the gateway has rendered: it may have
    a status that was tolerated. Raises `Malformed`: the following bytes cannot be parsed then.
    """

def take_answer(buffer: memoryview, length: int, request_method: bytes, max_fields: int = 100) -> ResponseHead | bytes:
    """Parse the response to a request in a buffer, if the buffer holds exactly one final response (`whole`).

    Otherwise, and for an invalid one, return the bytes; also if the buffer is full, because more may follow.
    """
