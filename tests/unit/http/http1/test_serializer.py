"""What goes out: end-to-end lines as they came, everything else framed anew."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.http.fields import Fields, folded
from fastgw.http.http1 import serializer
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import parse_request, parse_response
from fastgw.http.http1.serializer import LAST_CHUNK, chunk, end_to_end, last_chunk, status_line
from tests.support.table import for_each

HOP_BY_HOP = (
    b"Connection: X-Named, close\r\nX-Named: 1\r\nKeep-Alive: 1\r\nProxy-Connection: 1\r\nTE: trailers\r\n"
    b"Content-Length: 0\r\nUpgrade: a\r\nProxy-Authorization: 1\r\nProxy-Authenticate: 1\r\n"
)
KEPT = b"b:1\r\nExpect:  100-continue\r\nA: 2\t\r\nTrailer: C\r\nVia: 1.0 a\r\na: 3\r\nX-Names: 4\r\n"


def request(fields: bytes):
    return parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")


def response(fields: bytes):
    return parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", b"GET")


@pytest.mark.parametrize("judged", [request, response])
def test_lines_that_stay_keep_order_case_duplicates_and_every_byte(judged):
    mixed = KEPT.replace(b"A: 2", b"Content-Length: 0\r\nConnection: keep-alive\r\nA: 2")
    assert end_to_end(judged(mixed + b"Keep-Alive: 1\r\n")) == KEPT


@pytest.mark.parametrize("judged", [request, response])
def test_hop_by_hop_fields_go_and_so_does_what_connection_names(judged):
    lines = b"".join(sorted(HOP_BY_HOP.splitlines(keepends=True)))
    assert end_to_end(judged(lines + b"A: 1\r\n" + b"x-named: 2\r\n")) == b"A: 1\r\n"


def test_connection_cannot_name_away_what_others_rely_on():
    fields = b"Connection: authorization, cookie, x-forwarded-for, via, content-type\r\n"
    kept = b"Authorization: 1\r\nCookie: 2\r\nX-Forwarded-For: 3\r\nVia: 4\r\nContent-Type: 5\r\n"
    assert end_to_end(request(fields + kept)) == kept


def test_a_host_in_a_response_is_an_ordinary_field():
    assert end_to_end(response(b"Host: a\r\n")) == b"Host: a\r\n"


def test_transfer_encoding_goes():
    assert end_to_end(request(b"Transfer-Encoding: chunked\r\nA: 1\r\n")) == b"A: 1\r\n"


@pytest.mark.parametrize(
    "also", [frozenset({b"via", b"x-forwarded-for"}), frozenset({b"via", b"x-forwarded-for", b"x-a"})]
)
def test_more_can_be_left_out(also: frozenset[bytes]):
    """`x-a` is no field that the head knows the place of."""
    kept = end_to_end(request(b"Via: 1\r\nX-A: 2\r\nx-forwarded-for: 3\r\nB: 4\r\nVIA: 5\r\n"), also)
    assert kept == (b"B: 4\r\n" if b"x-a" in also else b"X-A: 2\r\nB: 4\r\n")


@pytest.mark.parametrize("judged", [request, response])
def test_what_a_filter_changed_is_what_is_sent_by_the_same_rules(judged):
    head = judged(HOP_BY_HOP + b"A:1\r\nB: 2\r\n")
    head.fields().set(b"b", b"3")
    head.fields().add(b"Connection", b"upgrade")
    assert end_to_end(head) == b"A: 1\r\nb: 3\r\n"


@pytest.mark.parametrize("judged", [request, response])
@pytest.mark.parametrize("change", [Fields.set, Fields.add])
def test_connection_names_lines_of_its_sender_and_none_of_ours(judged, change):
    """RFC 9110 section 7.6.1: the sender tells which of its own fields are for one hop."""
    head = judged(b"Connection: X-Named, X-Other\r\nX-Named: 1\r\nA: 2\r\nX-Other: 3\r\nx-named: 4\r\n")
    assert list(head.fields())[-1] == (b"A", b"2")
    assert not head.fields().changed
    change(head.fields(), b"X-Named", b"ours")
    assert end_to_end(head) == b"A: 2\r\nX-Named: ours\r\n"


@pytest.mark.parametrize("judged", [request, response])
def test_what_connection_names_is_not_there_whether_fields_are_parsed_or_not(judged):
    head = judged(b"Connection: X-Named\r\nX-Named: 1\r\nA: 2\r\n")
    assert (head.first(b"x-named"), head.first(b"a")) == (None, b"2")
    assert (head.fields().get(b"x-named"), head.first(b"x-named"), head.first(b"a")) == (None, None, b"2")


@pytest.mark.parametrize("judged", [request, response])
@pytest.mark.parametrize("name", [b"x-user", b"x_user"])
def test_what_is_left_out_takes_its_twins_along(judged, name: bytes):
    """To CGI and its heirs `-` and `_` are one."""
    head = judged(b"X_User: 1\r\nX-USER: 2\r\nX-User_: 3\r\nA_B: 4\r\n")
    assert end_to_end(head, frozenset({name})) == b"X-User_: 3\r\nA_B: 4\r\n"


@pytest.mark.parametrize("also", [{b"x_request_id", b"x_real_ip"}, {b"x.request-id", b"x-real_ip", b"via"}])
def test_twins_of_what_the_head_knows_the_place_of_take_it_along(also: set[bytes]):
    """A setting that spells `X_Request_Id` means what a client calls `X-Request-Id`, too."""
    kept = end_to_end(request(b"X-Request-Id: 1\r\nB: 2\r\nX-REAL-IP: 3\r\n"), frozenset(also))
    assert kept == b"B: 2\r\n"


@pytest.mark.parametrize("judged", [request, response])
def test_what_can_be_no_name_leaves_nothing_out(judged):
    """Filters put marks of their own among the names."""
    assert end_to_end(judged(b"-A: 1\r\nB: 2\r\n"), frozenset({b" a", b"b"})) == b"-A: 1\r\n"


@for_each("also", [{b"authorization"}, {b"authorization", b"forwarded", b"via"}])
@for_each(
    "fields",
    [
        b"Via: 1.1 a\r\nX-A: 1\r\nForwarded: for=b\r\nKeep-Alive: c\r\n",
        b"AUTHORIZATION:\tBearer a\r\nVia: 1.1 b\r\nX-A: 1\r\nKeep-Alive: c\r\n",
        b"Via: 1.1 b\r\nKeep-Alive: c\r\nX-A: 1\r\nAuthorization:Bearer a\r\n",
        b"Keep-Alive: c\r\nAuthorization: Bearer a\r\nForwarded: for=b\r\nX-A: 1\r\nVia: 1.1 b\r\n",
        b"Keep-Alive: c\r\nAuthorization:\r\nX-Authorization: 1\r\nVia: 1.1 b\r\n",
        b"Keep-Alive: c\r\nAuthorization:  \r\nAuthorizations: 1\r\nVia: 1.1 b\r\n",
        b"Authorization: a\r\nX-A: 1\r\nVia: 1.1 b\r\nauthorization: c\r\nForwarded: for=b\r\n",
    ],
)
def test_the_clients_credentials_are_left_out_wherever_they_stand(fields: bytes, also: set[bytes]):
    left_out = also | {b"keep-alive", b"host"}
    lines = [line for line in fields.splitlines(True) if line.partition(b":")[0].lower() not in left_out]
    assert serializer.end_to_end(request(fields), frozenset(also)) == b"".join(lines)


def test_fields_that_were_only_read_change_nothing():
    head = request(KEPT)
    assert head.fields().get(b"a") == b"2"
    assert end_to_end(head) == KEPT


VIA = frozenset({b"via"})


def test_a_request_goes_on_less_some_of_its_fields_and_with_some_of_ours():
    head = request(b"A: 1\r\nVia: 1.0 b\r\nKeep-Alive: 1\r\nB: 2\r\n")
    sent = serializer.request(head, b"/c", b"d:1", VIA, b"E: 3\r\n")
    assert sent == b"POST /c HTTP/1.1\r\nHost: d:1\r\nA: 1\r\nB: 2\r\nE: 3\r\nVia: 1.1 fastgw\r\n\r\n"
    assert parse_request(sent).authority == b"d:1"


def test_target_and_host_go_on_as_they_came_where_no_others_are_given():
    head = parse_request(b"GET /a/%7eb?c=%20 HTTP/1.1\r\nHost: A.b:81\r\n\r\n")
    assert serializer.request(head) == b"GET /a/%7eb?c=%20 HTTP/1.1\r\nHost: A.b:81\r\nVia: 1.1 fastgw\r\n\r\n"
    head = parse_request(b"GET /a HTTP/1.0\r\n\r\n")
    assert serializer.request(head) == b"GET /a HTTP/1.1\r\nHost: \r\nVia: 1.0 fastgw\r\n\r\n"


def test_a_response_goes_on_with_its_reason_and_what_is_there_of_its_body():
    head = parse_response(b"HTTP/1.1 200 Fine\r\nA: 1\r\nVia: 1.0 b\r\nConnection: close\r\n\r\n", b"GET")
    via = b"Via: 1.1 fastgw\r\n"
    assert serializer.response(head, 200) == b"HTTP/1.1 200 Fine\r\nA: 1\r\nVia: 1.0 b\r\n" + via + b"\r\n"
    sent = serializer.response(head, 200, VIA, b"E: 3\r\n", b"abc")
    assert sent == b"HTTP/1.1 200 Fine\r\nA: 1\r\nE: 3\r\n" + via + b"\r\nabc"
    head.fields().set(b"a", b"2")
    assert serializer.response(head, 200, VIA, b"", b"abc") == b"HTTP/1.1 200 Fine\r\na: 2\r\n" + via + b"\r\nabc"


@pytest.mark.parametrize(("status", "reason"), [(404, b"Not Found"), (599, b""), (201, b"Created")])
def test_another_status_has_its_own_reason(status, reason):
    head = parse_response(b"HTTP/1.1 200 Fine\r\nA: 1\r\n\r\n", b"GET")
    sent = serializer.response(head, status, VIA, b"E: 3\r\n", b"abc")
    assert sent == b"HTTP/1.1 %d %b\r\nA: 1\r\nE: 3\r\nVia: 1.1 fastgw\r\n\r\nabc" % (status, reason)


@for_each(
    ("length", "line"),
    [
        (0, b"Content-Length: 0\r\n"),
        (7, b"Content-Length: 7\r\n"),
        (10, b"Content-Length: 10\r\n"),
        (2**63 - 1, b"Content-Length: 9223372036854775807\r\n"),
        (serializer.UNFRAMED, b""),
        (serializer.IN_CHUNKS, b"Transfer-Encoding: chunked\r\n"),
    ],
)
@for_each(("received", "date"), [(b"Date: now\r\n", b""), (b"", b"Date: then\r\n")])
def test_a_response_is_framed_anew_and_dated(length, line, received, date):
    """A date that came is kept, ours is for a response without one."""
    head = parse_response(b"HTTP/1.0 200 OK\r\n" + received + b"\r\n", b"GET")
    sent = serializer.response(
        head, 200, frozenset(), b"A: 1\r\n", b"x", length, lambda: b"Date: then\r\n", b"B: 2\r\n"
    )
    assert sent == b"HTTP/1.1 200 OK\r\n%bA: 1\r\nVia: 1.0 fastgw\r\n%b%bB: 2\r\n\r\nx" % (received, line, date)


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, None, b"HTTP/1.1 200 OK\r\n"),
        (413, None, b"HTTP/1.1 413 Content Too Large\r\n"),
        (299, None, b"HTTP/1.1 299 \r\n"),
        (200, b"Fine", b"HTTP/1.1 200 Fine\r\n"),
        (200, b"", b"HTTP/1.1 200 \r\n"),
    ],
)
def test_status_lines(status, reason, line):
    assert status_line(status, reason) == line
    assert parse_response(line + b"\r\n", b"GET").status == status


def test_chunks_read_back_as_they_were():
    trailers = ((b"A", b"1"), (b"a", b""))
    reader = body_reader(request(b"Transfer-Encoding: chunked\r\n"))
    assert reader.feed(chunk(b"a" * 300) + chunk(b"") + chunk(b"b") + last_chunk(trailers)) == b"a" * 300 + b"b"
    assert (reader.done, reader.trailers, reader.rest) == (True, trailers, b"")
    assert last_chunk() == LAST_CHUNK


CUT_NAMES = [*b"X-A x_a X_A X-a Authorization Via X-Real-IP A x-aa Cookie -a .A a- a~ ! -".split(), b"x-" * 40]
SOUGHT = st.frozensets(st.sampled_from([*b"x-a x_a authorization via x-real-ip a -a a_ .".split(), b"x-" * 40]))


@settings(deadline=None)
@given(st.lists(st.sampled_from(CUT_NAMES), max_size=200), SOUGHT, st.booleans())
@example([b"X-A", b"Via"] * 80, frozenset((b"via", b"x-a")), False)
@example([b"Via"] * 90, frozenset(b"n%d" % number for number in range(70)) | {b"via"}, False)
def test_lines_are_cut_out_by_their_names_and_twins_and_the_others_keep_their_bytes(
    names: list[bytes], also: frozenset[bytes], names_one: bool
) -> None:
    """As if all fields were read and written anew."""
    lines = b"".join(b"%b: %d\r\n" % (name, number) for number, name in enumerate(names))
    named = b"Connection: x-aa\r\n" if names_one else b""
    parsed = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + named + lines + b"\r\n", 1000)
    drop = parsed.DROPPED | also | ({b"x-aa"} if names_one else set())
    assert end_to_end(parsed, also) == parsed.received_fields().render(drop, frozenset(map(folded, also)))
