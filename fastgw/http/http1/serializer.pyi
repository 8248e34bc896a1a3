"""Serializer of HTTP/1: heads are re-serialized from parsed messages.

Hop-by-hop lines are removed, and the gateway's own lines (`lines`) are added.
"""

from collections.abc import Callable

from fastgw.http.http1.lines import CHUNKED_LINE as CHUNKED_LINE
from fastgw.http.http1.lines import IN_CHUNKS as IN_CHUNKS
from fastgw.http.http1.lines import LAST_CHUNK as LAST_CHUNK
from fastgw.http.http1.lines import NO_VIA as NO_VIA
from fastgw.http.http1.lines import REQUEST_IDS as REQUEST_IDS
from fastgw.http.http1.lines import UNFRAMED as UNFRAMED
from fastgw.http.http1.lines import VIA as VIA
from fastgw.http.http1.lines import chunk as chunk
from fastgw.http.http1.lines import id_line as id_line
from fastgw.http.http1.lines import last_chunk as last_chunk
from fastgw.http.http1.lines import names_alike as names_alike
from fastgw.http.http1.lines import own_lines as own_lines
from fastgw.http.http1.lines import status_line as status_line
from fastgw.http.messages import Head, RequestHead, ResponseHead

def request(
    head: RequestHead,
    target: bytes | None = None,
    host: bytes | None = None,
    also: frozenset[bytes] = ...,
    added: bytes = b"",
    payload: bytes = b"",
    request_id: bytes = b"",
    length: int = ...,
) -> bytes:
    """Return the head for the upstream, followed by the first bytes of the body, framed.

    It contains the end-to-end lines of `head` without those in `also`, `added` (serialized lines), its framing, and
    `Via` unless `NO_VIA` is in `also`. `target` and `host` None: as sent by the client. `request_id`: if not empty, it
    is the only value of `X-Request-Id`. `length`: of the body, or `UNFRAMED`, `IN_CHUNKS`, `AS_DECLARED` (the default).
    Fields of `FORWARDING` that were set or removed in the fields of `head` are sent as they are there.
    """

def response(
    head: ResponseHead,
    status: int,
    also: frozenset[bytes] = ...,
    added: bytes = b"",
    payload: bytes = b"",
    length: int = UNFRAMED,
    date_line: Callable[[], bytes] | None = None,
    last: bytes = b"",
    request_id: bytes = b"",
) -> bytes:
    """Return the head for the client, as in `request`, followed by the first bytes of the body.

    `status`: if it differs from the received one, it is sent with the standard reason phrase. `length`: of the body, or
    `UNFRAMED`, or `IN_CHUNKS`. `date_line`: returns the `Date` line for a response without one. `last`: serialized
    lines after all others. `request_id`: as in `request`.
    """

def whole(
    head: ResponseHead,
    date_line: Callable[[], bytes],
    last: bytes,
    also: frozenset[bytes] = ...,
    added: bytes = b"",
    request_id: bytes = b"",
    changed: bytes | None = None,
) -> bytes:
    """Return a response that was received completely (`ResponseHead.whole`), for the client; equal to `response`
    with its body, or with `changed` in place of it.
    """

def end_to_end(head: Head, also: frozenset[bytes] = ...) -> bytes:
    """Return the field lines that are forwarded to the next peer, without the empty line.

    Hop-by-hop fields, those that `Connection` names, framing, a request's Host, and the lower-case names in `also` with
    their twins (`Fields`) are left out. Other lines keep their bytes, unless a filter has changed the fields.
    """
