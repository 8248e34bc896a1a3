"""Filters look at bodies, change them as they come, or have them as a whole; their words frame what goes on."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.exchange.reply import ReplyBody
from fastgw.filters.api import (
    BodyHook,
    BodyStage,
    Bounded,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Phase,
    Reply,
    StageFactory,
)
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import find_head_end, parse_response
from fastgw.testing import Ran, run
from tests.support.memory import Plane, probe

_COUNT = iter(range(10**9))


def filter_of(hooks: Hooks, phase: Phase = Phase.TRANSFORM, order: int = 0) -> Filter:
    class Probe(Filter, name=f"probe_{next(_COUNT)}", phase=phase, order=order):  # type: ignore[literal-required]
        def build(self, env: Env) -> Hooks:
            return hooks

    return Probe()


def post(body: bytes, *fields: bytes, chunked: bool = False) -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return b"\r\n".join((b"POST /a HTTP/1.1", b"Host: t", *fields, framing, b"", framed))


def ok(body: bytes, *fields: bytes, chunked: bool = False, status: bytes = b"200 OK") -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return b"\r\n".join((b"HTTP/1.1 " + status, *fields, framing, b"", framed))


def get(*fields: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((method + b" /a HTTP/" + version, b"Host: t", *fields, b"", b""))


def head_of(ran: Ran) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in ran.sent_fields}


def answer_of(ran: Ran, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields and body of what the client got; a body that is not complete is a failure."""
    end = find_head_end(ran.received)
    head = parse_response(ran.received[:end], method)
    reader = body_reader(head)
    body = reader.feed(ran.received[end:])
    if not reader.done:
        reader.eof()
    assert reader.done
    assert not reader.rest
    return head.status, {name.lower(): value for name, value in head.fields()}, body


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % len(text) for place in places} - {0}) if text else []
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


class Doubling(BodyStage):
    """Every byte twice, and an end of its own."""

    def __init__(self, told: list[str] | None = None) -> None:
        self._told = told

    def feed(self, payload: bytes) -> bytes:
        return b"".join(b"%c%c" % (byte, byte) for byte in payload)

    def end(self) -> bytes:
        return b"."

    def cancel(self) -> None:
        if self._told is not None:
            self._told.append("cancelled")


class Reversing(BodyStage):
    """Holds all of it back."""

    keeps_length = True

    def __init__(self) -> None:
        self._held = b""

    def feed(self, payload: bytes) -> bytes:
        self._held += payload
        return b""

    def end(self) -> bytes:
        return self._held[::-1]


# requests


@pytest.mark.parametrize("chunked", [False, True])
def test_pieces_of_a_request_that_a_filter_changes_go_on_without_their_length_and_digest(chunked: bool) -> None:
    hooks = Hooks(request_body=BodyHook(lambda exchange, piece: piece.replace(b"a", b"[a]"), changes=True))
    request = post(b"banana", b"Content-Digest: sha-256=:eA==:", b"Content-Type: text/plain", chunked=chunked)
    ran = run(filter_of(hooks), request)
    assert ran.sent_body == b"b[a]n[a]n[a]"
    fields = head_of(ran)
    assert b"content-digest" not in fields
    assert fields[b"content-type"] == b"text/plain"
    assert fields[b"content-length"] == b"12"  # all of it was there
    assert b"transfer-encoding" not in fields


def test_a_body_that_comes_later_is_changed_piece_by_piece_and_goes_on_in_chunks() -> None:
    hooks = Hooks(request_body=BodyHook(lambda exchange, piece: piece.upper(), changes=True))
    request = post(b"abcdef")
    ran = run(filter_of(hooks), [request[:-4], request[-4:-1], request[-1:]])
    assert ran.sent.endswith(b"\r\n\r\n2\r\nAB\r\n3\r\nCDE\r\n1\r\nF\r\n0\r\n\r\n")
    assert head_of(ran)[b"transfer-encoding"] == b"chunked"
    assert ran.record.request_bytes == 6


def test_a_filter_that_only_looks_leaves_the_message_as_it_came() -> None:
    seen: list[bytes] = []
    hooks = Hooks(request_body=lambda exchange, piece: seen.append(piece))
    for request in (post(b"abc", b"Content-Digest: x=:eA==:"), post(b"abc", chunked=True)):
        plain, looked = run([], request), run(filter_of(hooks), request)
        assert looked.sent == plain.sent
    assert b"".join(seen).startswith(b"abc")


def test_a_filter_that_has_not_said_that_it_changes_bodies_may_not() -> None:
    ran = run(filter_of(Hooks(request_body=lambda exchange, piece: piece)), post(b"abc"))
    assert ran.status == 500
    assert not ran.sent


@given(body=st.binary(min_size=1, max_size=40), places=st.lists(st.integers(0, 200), max_size=4), chunked=st.booleans())
def test_a_whole_body_is_shown_once_however_it_comes(body: bytes, places: list[int], chunked: bool) -> None:
    seen: list[bytes] = []

    def replace(exchange: Exchange, payload: bytes) -> bytes:
        seen.append(payload)
        return b"<" + payload + b">"

    request = post(body, b"Content-MD5: x", chunked=chunked)
    ran = run(filter_of(Hooks(request_body=BodyHook(replace, needs=Bounded(40)))), cut(request, places))
    assert set(seen) == {body}
    assert ran.sent_body == b"<" + body + b">"
    fields = head_of(ran)
    assert fields[b"content-length"] == b"%d" % (len(body) + 2)
    assert b"content-md5" not in fields
    assert b"transfer-encoding" not in fields
    assert ran.record.request_bytes == len(body)


def test_a_whole_body_that_stays_as_it_is_keeps_its_digest() -> None:
    ran = run(
        filter_of(Hooks(request_body=BodyHook(lambda exchange, body: None, needs=Bounded("1KiB")))),
        [post(b"abc", b"Content-MD5: x")[:-1], b"c"],
    )
    assert ran.sent_body == b"abc"
    assert head_of(ran)[b"content-md5"] == b"x"
    assert head_of(ran)[b"content-length"] == b"3"


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_longer_than_a_filter_needs_is_a_413_and_no_upstream_sees_it(pieces: int, chunked: bool) -> None:
    hooks = Hooks(request_body=BodyHook(lambda exchange, body: None, needs=Bounded(3)))
    request = post(b"abcd", chunked=chunked)
    ran = run(filter_of(hooks), [request] if pieces == 1 else [request[:-3], request[-3:]])
    assert ran.status == 413
    assert ran.record.fault == "body_too_large"
    assert "needs the whole body, which has more than 3 bytes" in ran.record.fault_detail
    assert not ran.sent
    assert run(filter_of(hooks), post(b"abc", chunked=chunked)).sent_body == b"abc"


def test_the_gateway_asks_for_a_body_that_a_filter_needs_and_the_upstream_is_not_asked() -> None:
    seen: list[bytes] = []
    hooks = Hooks(request_body=BodyHook(lambda exchange, body: seen.append(body), needs=Bounded("1KiB")))
    request = post(b"abc", b"Expect: 100-continue")
    end = find_head_end(request)
    ran = run(filter_of(hooks), [request[:end], request[end:]])
    assert ran.received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert seen == [b"abc"]
    assert b"expect" not in head_of(ran)
    assert ran.sent_body == b"abc"
    assert ran.status == 200


def test_a_body_that_came_unasked_is_not_asked_for() -> None:
    hooks = Hooks(request_body=BodyHook(lambda exchange, body: None, needs=Bounded("1KiB")))
    request = post(b"abc", b"Expect: 100-continue")
    assert run(filter_of(hooks), request).received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("expects", [(), (b"Expect: 100-continue",)])
def test_a_body_that_is_declared_longer_than_a_filter_needs_is_refused_before_it_comes(expects: tuple[bytes]) -> None:
    """RFC 9110 section 10.1.1: 413 by the declared length, in place of 100."""
    calls: list[bytes] = []
    kept = probe("kept", Phase.VALIDATE, request_body=lambda exchange, piece: calls.append(piece))
    whole = probe("whole", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, body: None, needs=Bounded(3)))
    plane = Plane(probes=(kept, whole))
    client = plane.client()
    client.sends(post(b"abcd", *expects)[:-4])
    assert client.received.startswith(b"HTTP/1.1 413 ")
    (record,) = plane.records
    assert record.fault == "body_too_large"
    assert record.fault_detail == "filter whole needs the whole body, which has more than 3 bytes"
    assert calls == []
    assert not plane.pool.waiting
    plane.assert_quiet()


def test_the_declared_length_says_nothing_after_a_stage_that_changes_it() -> None:
    """A body may be shorter once it is changed, so that only its own bytes count."""
    emptied = probe("emptied", Phase.VALIDATE, request_body=BodyHook(lambda exchange, piece: b"", changes=True))
    whole = probe("whole", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, body: b"ok", needs=Bounded(3)))
    plane = Plane(probes=(emptied, whole))
    client = plane.client()
    request = post(b"abcd", b"Expect: 100-continue")
    client.sends(request[:-4])
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(request[-4:])
    assert plane.connects().received.endswith(b"\r\n\r\nok")


def test_a_whole_body_can_be_refused_and_a_filter_that_raises_lets_nothing_through() -> None:
    def refuse(exchange: Exchange, body: bytes) -> Reply:
        return exchange.refuse(Fault.FORBIDDEN, why=f"{len(body)} bytes")

    def fail(exchange: Exchange, body: bytes) -> None:
        raise ZeroDivisionError

    def nonsense(exchange: Exchange, body: bytes) -> Any:
        return "text"

    request = [post(b"abc")[:-1], b"c"]
    for bound in (Bounded(10), None):
        refused = run(filter_of(Hooks(request_body=BodyHook(refuse, needs=bound))), request)
        assert (refused.status, refused.record.fault) == (403, "forbidden")
        for step in (fail, nonsense):
            failed = run(filter_of(Hooks(request_body=BodyHook(step, needs=bound))), request)
            assert (failed.status, failed.record.fault) == (500, "internal")
            assert "raised" in failed.record.fault_detail
            assert not failed.sent or not failed.sent_body.endswith(b"c")


def test_a_stage_holds_back_what_it_likes_and_says_whether_it_keeps_the_length() -> None:
    request = post(b"abc")
    for pieces in ([request], [request[:-2], request[-2:]]):
        doubled = run(filter_of(Hooks(request_body=StageFactory(lambda exchange: Doubling()))), pieces)
        assert doubled.sent_body == b"aabbcc."
        reversed_ = run(filter_of(Hooks(request_body=StageFactory(lambda exchange: Reversing()))), pieces)
        assert reversed_.sent_body == b"cba"
    assert head_of(reversed_)[b"content-length"] == b"3"
    assert head_of(doubled)[b"transfer-encoding"] == b"chunked"
    untouched = run(filter_of(Hooks(request_body=StageFactory(lambda exchange: None))), [request[:-1], b"c"])
    assert untouched.sent == run([], [request[:-1], b"c"]).sent


def test_stages_stand_one_behind_the_other_in_the_order_of_the_filters() -> None:
    first = filter_of(Hooks(request_body=BodyHook(lambda e, piece: piece + b"1", changes=True)), Phase.VALIDATE)
    second = filter_of(Hooks(request_body=BodyHook(lambda e, body: body + b"2", needs=Bounded(100))), Phase.TRANSFORM)
    third = filter_of(Hooks(request_body=StageFactory(lambda e: Doubling())), Phase.CREDENTIALS)
    ran = run([third, first, second], [post(b"ab")[:-1], b"b"])
    assert ran.sent_body == b"aa11bb1122."
    assert head_of(ran)[b"content-length"] == b"11"


def test_a_request_without_a_body_has_nothing_to_show() -> None:
    seen: list[bytes] = []
    hooks = Hooks(request_body=BodyHook(lambda exchange, body: seen.append(body), needs=Bounded(10)))
    assert run(filter_of(hooks), get()).sent == run([], get()).sent
    assert not seen


# responses


def doubled(text: bytes) -> bytes:
    return b"".join(b"%c%c" % (byte, byte) for byte in text)


@given(
    body=st.binary(min_size=1, max_size=40),
    places=st.lists(st.integers(0, 200), max_size=4),
    chunked=st.booleans(),
    version=st.sampled_from([b"1.0", b"1.1"]),
)
def test_a_response_is_changed_however_it_comes(body: bytes, places: list[int], chunked: bool, version: bytes) -> None:
    stage = filter_of(Hooks(response_body=StageFactory(lambda exchange: Doubling())))
    whole = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: body + b"!", needs=Bounded(40))))
    pieces = cut(
        ok(body, b'ETag: "x"', b"Accept-Ranges: bytes", b"Content-Digest: a", b"X: y", chunked=chunked), places
    )
    streamed = run(stage, get(version=version), response=pieces)
    held = run(whole, get(version=version), response=pieces)
    for ran, wanted in ((streamed, doubled(body) + b"."), (held, body + b"!")):
        status, told, got = answer_of(ran)
        assert (status, got) == (200, wanted)
        assert told[b"etag"] == b'W/"x"'
        assert told[b"x"] == b"y"
        assert not {b"accept-ranges", b"content-digest"} & told.keys()
        assert ran.record.response_bytes == len(wanted)
        assert ran.record.fault == ""
    assert answer_of(held)[1][b"content-length"] == b"%d" % (len(body) + 1)


def test_a_response_that_a_filter_only_looks_at_goes_on_as_it_came() -> None:
    seen: list[bytes] = []
    looks = filter_of(Hooks(response_body=lambda exchange, piece: seen.append(piece)))
    needs = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: seen.append(body), needs=Bounded(100))))
    response = ok(b"abc", b'ETag: "x"', b"Accept-Ranges: bytes", b"Date: now")
    for each in (looks, needs):
        assert run(each, get(), response=response).received == run([], get(), response=response).received
        assert run(each, get(), response=[response[:-1], b"c"]).received.endswith(b"abc")
    assert b"".join(seen).count(b"abc") == 4


def test_what_a_hook_returns_as_it_was_given_is_no_change_and_a_weak_etag_is_weak_enough() -> None:
    same = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: bytes(bytearray(body)), needs=Bounded(100))))
    assert answer_of(run(same, get(), response=ok(b"abc", b'ETag: "x"')))[1][b"etag"] == b'"x"'
    other = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: body + b"!", needs=Bounded(100))))
    assert answer_of(run(other, get(), response=ok(b"abc", b'ETag: W/"x"')))[1][b"etag"] == b'W/"x"'


def test_a_stage_may_have_the_whole_body_and_is_not_cancelled_behind_its_end() -> None:
    told: list[str] = []
    factory = StageFactory(lambda exchange: Doubling(told))
    both = filter_of(
        Hooks(request_body=BodyHook(factory, needs=Bounded(100)), response_body=BodyHook(factory, needs=Bounded(100)))
    )
    ran = run(both, [post(b"ab")[:-1], b"b"], response=[ok(b"cd")[:-1], b"d"])
    assert (ran.sent_body, answer_of(ran, b"POST")[2]) == (b"aabb.", b"ccdd.")
    assert told == []


def test_trailers_of_a_request_that_is_held_go_on_behind_its_last_chunk() -> None:
    hooks = filter_of(Hooks(request_body=BodyHook(lambda exchange, body: body.upper(), needs=Bounded(100))))
    request = b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
    assert run(hooks, [request[:-4], request[-4:]]).sent.endswith(b"2\r\nAB\r\n0\r\nX-T: 1\r\n\r\n")


def test_a_range_of_what_a_filter_changes_is_not_asked_for() -> None:
    asks = get(b"Range: bytes=0-1", b'If-Range: "x"', b"Accept: text/plain")
    changes = filter_of(Hooks(response_body=BodyHook(lambda exchange, piece: piece.upper(), changes=True)))
    assert not {b"range", b"if-range"} & head_of(run(changes, asks)).keys()
    knows = filter_of(Hooks(response_body=StageFactory(lambda exchange: None, ranges=True)))
    looks = filter_of(Hooks(response_body=lambda exchange, piece: None))
    for each in (knows, looks):
        assert head_of(run(each, asks))[b"range"] == b"bytes=0-1"


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_what_is_said_of_a_body_that_does_not_come_is_true_as_well(method: bytes) -> None:
    changes = filter_of(Hooks(response_body=StageFactory(lambda exchange: Doubling())))
    if method == b"HEAD":
        response = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\nContent-MD5: a\r\n\r\n'
    else:
        response = b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "x"\r\nContent-MD5: a\r\n\r\n'
    status, fields, body = answer_of(run(changes, get(method=method), response=response), method)
    assert body == b""
    assert fields[b"etag"] == b'W/"x"'
    assert not {b"content-length", b"content-md5"} & fields.keys()
    assert status in (200, 304)


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
def test_a_response_without_a_body_is_left_alone(response: bytes) -> None:
    changes = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: b"made up", needs=Bounded(9))))
    assert (
        run(changes, get(), response=response).received.partition(b"Date")[0]
        == (run([], get(), response=response).received.partition(b"Date")[0])
    )


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_response_longer_than_a_filter_needs_is_a_502_and_nothing_of_it_goes_out(pieces: int) -> None:
    hooks = Hooks(response_body=BodyHook(lambda exchange, body: None, needs=Bounded(3)))
    response = ok(b"abcd")
    ran = run(filter_of(hooks), get(), response=[response] if pieces == 1 else [response[:-2], response[-2:]])
    assert ran.status == 502
    assert ran.record.fault == "response_too_large"
    assert "needs the whole body, which has more than 3 bytes" in ran.record.fault_detail
    assert b"abc" not in ran.received
    assert answer_of(run(filter_of(hooks), get(), response=ok(b"abc")))[2] == b"abc"


def test_a_response_that_breaks_off_while_it_is_held_is_answered_as_a_fault() -> None:
    told: list[str] = []
    hooks = Hooks(response_body=BodyHook(StageFactory(lambda exchange: Doubling(told)), needs=Bounded(100)))
    ran = run(filter_of(hooks), get(), response=[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", b"c", b""])
    assert (ran.status, ran.record.fault) == (502, "upstream_incomplete")
    assert told == ["cancelled"]


def test_a_hook_that_raises_is_a_500_before_anything_went_out_and_cuts_it_off_later() -> None:
    def fail(exchange: Exchange, payload: bytes) -> bytes:
        if b"bad" in payload:
            raise ZeroDivisionError
        return payload

    response = ok(b"good bad", b"X: secret")
    whole = filter_of(Hooks(response_body=BodyHook(fail, needs=Bounded(100))))
    for pieces in ([response], [response[:-2], response[-2:]]):
        ran = run(whole, get(), response=pieces)
        assert (ran.status, ran.record.fault) == (500, "internal")
        assert b"good" not in ran.received
        assert b"X: secret" not in ran.received
    stream = filter_of(Hooks(response_body=BodyHook(fail, changes=True)))
    assert run(stream, get(), response=response).status == 500
    ran = run(stream, get(), response=[response[:-3], response[-3:]])
    assert ran.status == 200
    assert ran.record.fault == "internal"
    assert not ran.received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("made", ["reply", 7])
def test_a_hook_may_not_answer_a_response_with_another(made: object) -> None:
    outcome = Reply(200, b"other") if made == "reply" else made
    hooks: Any = Hooks(response_body=BodyHook(lambda exchange, body: outcome, needs=Bounded(10)))  # type: ignore[return-value, arg-type]
    ran = run(filter_of(hooks), get())
    assert (ran.status, ran.record.fault) == (500, "internal")


def test_responses_pass_the_filters_the_other_way_round_and_replies_pass_them_too() -> None:
    first = filter_of(Hooks(response_body=BodyHook(lambda e, body: body + b"1", needs=Bounded(99))), Phase.VALIDATE)
    second = filter_of(Hooks(response_body=BodyHook(lambda e, body: body + b"2", needs=Bounded(99))), Phase.TRANSFORM)
    assert answer_of(run([first, second], get()))[2] == b"ok21"
    replies = filter_of(Hooks(request=lambda exchange: Reply(200, b"mine", [(b"ETag", b'"e"')])), Phase.CREDENTIALS)
    status, fields, body = answer_of(run([first, second, replies], get()))
    assert (status, body, fields[b"etag"]) == (200, b"mine21", b'W/"e"')
    early = filter_of(Hooks(request=lambda exchange: Reply(200, b"mine", [(b"ETag", b'"e"')])), Phase.AUTHENTICATE)
    status, fields, body = answer_of(run([first, second, early], get()))
    assert (status, body, fields[b"etag"]) == (200, b"mine", b'"e"')  # the others have not run
    always = filter_of(Hooks(response_body=BodyHook(lambda e, body: body + b"!", needs=Bounded(99))), Phase.OBSERVE)
    status, fields, body = answer_of(run([always, replies], get()))
    assert (status, body, fields[b"etag"], fields[b"content-length"]) == (200, b"mine!", b'W/"e"', b"5")


def test_answers_to_faults_are_no_bodies_of_the_routes() -> None:
    changes = filter_of(Hooks(response_body=BodyHook(lambda e, body: b"changed", needs=Bounded(9))), Phase.OBSERVE)
    refuses = filter_of(Hooks(request=lambda exchange: exchange.refuse(Fault.FORBIDDEN)))
    assert answer_of(run([changes, refuses], get()))[2].startswith(b'{"type":"urn:fastgw:fault:forbidden"')


def test_trailers_pass_their_hook_and_a_client_that_takes_them_gets_new_ones() -> None:
    def add(exchange: Exchange, trailers: Any) -> list[tuple[bytes, bytes]]:
        return [*trailers, (b"X-Count", b"%d" % exchange.response_bytes)]

    hooks = filter_of(Hooks(trailers=add))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n"
    assert run(hooks, get(), response=chunked).received.endswith(b"2\r\nok\r\n0\r\nA: b\r\nX-Count: 2\r\n\r\n")
    asks = get(b"TE: trailers", b"Connection: TE")
    assert run(hooks, asks, response=[ok(b"ok")[:-1], b"k"]).received.endswith(b"0\r\nX-Count: 2\r\n\r\n")
    assert answer_of(run(hooks, get(), response=[ok(b"ok")[:-1], b"k"]))[1][b"content-length"] == b"2"


def test_trailers_of_a_body_that_is_held_go_to_clients_that_can_take_them() -> None:
    """By HTTP/1.1, where the client has asked for them or the body came in chunks; else there is a length."""
    added = [(b"X-Sum", b"1")]
    hooks = filter_of(
        Hooks(
            response_body=BodyHook(lambda exchange, body: body.upper(), needs=Bounded(9)),
            trailers=lambda exchange, trailers: added,
        )
    )
    asks = get(b"TE: trailers", b"Connection: TE")
    assert run(hooks, asks, response=ok(b"ok")).received.endswith(b"\r\n\r\n2\r\nOK\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert run(hooks, get(), response=ok(b"ok", chunked=True)).received.endswith(b"OK\r\n0\r\nX-Sum: 1\r\n\r\n")
    for request, response in ((get(), ok(b"ok")), (get(version=b"1.0"), ok(b"ok", chunked=True))):
        ran = run(hooks, request, response=response)
        assert answer_of(ran)[1][b"content-length"] == b"2"
        assert b"X-Sum" not in ran.received


def test_a_held_body_that_a_stage_has_left_as_it_was_keeps_its_etag() -> None:
    same = filter_of(Hooks(response_body=BodyHook(lambda exchange, body: body, needs=Bounded(9))))
    for hooks, etag in (
        (same, b'"a"'),
        (filter_of(Hooks(response_body=BodyHook(lambda exchange, body: b"y", needs=Bounded(9)))), b'W/"a"'),
    ):
        assert answer_of(run(hooks, get(), response=ok(b"x", b'ETag: "a"')))[1][b"etag"] == etag


@pytest.mark.parametrize("made", [bytearray(b"ab"), memoryview(b"ab")])
def test_a_stage_that_returns_no_bytes_is_refused_as_one_that_raises(made: Any) -> None:
    """What looks like bytes could still be written to when it goes out."""

    class Wrong(BodyStage):
        def feed(self, payload: bytes) -> bytes:
            return made

    ran = run(filter_of(Hooks(response_body=StageFactory(lambda exchange: Wrong()))), get(), response=ok(b"xx"))
    assert (ran.status, ran.record.fault) == (500, "internal")


@pytest.mark.parametrize("wrong", [[(b"Content-Length", b"1")], [(b"A\r\nB", b"1")], [("a", "b")], 7])
def test_trailers_that_cannot_stand_there_cut_the_answer_off(wrong: Any) -> None:
    hooks = filter_of(Hooks(trailers=lambda exchange, trailers: wrong))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n"
    ran = run(hooks, get(), response=chunked)
    assert ran.record.fault == "internal"
    assert not ran.received.endswith(b"\r\n0\r\n\r\n")


def test_in_shadow_bodies_are_neither_held_nor_changed() -> None:
    hooks = Hooks(
        request_body=BodyHook(lambda exchange, body: b"x", needs=Bounded(1)),
        response_body=BodyHook(lambda exchange, body: b"y", needs=Bounded(1)),
    )
    ran = run(filter_of(hooks), post(b"abc"), response=ok(b"abcdef"), shadow=True)
    assert ran.sent_body == b"abc"
    assert answer_of(ran, b"POST")[2] == b"abcdef"


async def _late(exchange: Exchange, payload: bytes) -> bytes:
    return payload


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bounded(0),
        lambda: Bounded("much"),
        lambda: Hooks(request_body=BodyHook(lambda exchange, body: None, needs="1MiB")),  # type: ignore[arg-type]
        lambda: Hooks(response_body=_late),  # type: ignore[arg-type]
        lambda: Hooks(trailers=_late),  # type: ignore[arg-type]
    ],
)
def test_what_a_hook_cannot_mean_is_refused_when_it_is_made(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"expected|size"):
        make()


def held_half(told: list[str], **hooks: Any) -> Plane:
    factory = StageFactory(lambda exchange: Doubling(told))
    named = dict.fromkeys(hooks["at"], BodyHook(factory, needs=Bounded(100)))
    return Plane(probes=[probe("held", Phase.OBSERVE, **named)])


def test_stages_are_cancelled_when_the_client_leaves() -> None:
    told: list[str] = []
    plane = held_half(told, at=["request_body"])
    client = plane.client()
    client.sends(post(b"abc")[:-1])
    assert plane.pool.waiting == []  # nobody is asked before the body is whole
    client.resets()
    assert told == ["cancelled"]
    assert [(record.status, record.fault, record.request_bytes) for record in plane.records] == [
        (499, "client_left", 2)
    ]
    plane.assert_quiet()


def test_a_body_that_a_filter_needs_is_read_without_a_pause() -> None:
    plane = held_half([], at=["request_body"])
    client = plane.client()
    client.sends(post(b"x" * 60)[:-60])
    for _ in range(59):
        client.sends(b"x")
        assert client.reading
    client.sends(b"x")
    upstream = plane.connects()
    assert upstream.received.endswith(b"x" * 120 + b".")


def test_a_response_that_breaks_off_while_it_is_held_has_no_fallback() -> None:
    """Its request was answered: what it did, it did."""
    held = probe("held", Phase.OBSERVE, response_body=BodyHook(lambda exchange, body: None, needs=Bounded(100)))
    route = {"name": "all", "upstream": "u", "fallback": {"conditions": ["broken"], "respond": {"status": 299}}}
    plane = Plane({"routes": [route]}, probes=[held])
    client = plane.client()
    client.sends(get())
    upstream = plane.connects()
    upstream.sends(ok(b"abc")[:-1])
    upstream.resets()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert [record.fault for record in plane.records] == ["upstream_incomplete"]


def test_a_client_that_leaves_while_its_response_is_held_has_had_none() -> None:
    told: list[str] = []
    plane = held_half(told, at=["response_body"])
    client = plane.client()
    client.sends(get())
    upstream = plane.connects()
    upstream.sends(ok(b"abc")[:-1])
    assert client.received == b""
    client.resets()
    assert told == ["cancelled"]
    assert upstream.aborted
    assert [(record.status, record.fault, record.response_bytes) for record in plane.records] == [
        (499, "client_left", 0)
    ]
    plane.assert_quiet()


def test_a_drain_answers_a_client_whose_response_is_held() -> None:
    plane = held_half([], at=["response_body"])
    client = plane.client()
    client.sends(get())
    plane.connects().sends(ok(b"abc")[:-1])
    for connection in list(plane.server.connections):
        connection.cut()
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert [record.fault for record in plane.records] == ["gateway_stopped"]


def test_a_client_that_is_slow_brakes_the_upstream_through_the_stages() -> None:
    plane = Plane(probes=[probe("doubles", Phase.OBSERVE, response_body=StageFactory(lambda exchange: Doubling()))])
    client = plane.client()
    client.sends(get())
    upstream = plane.connects()
    client.takes(0)
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    assert not upstream.reading
    client.takes()
    assert upstream.reading
    upstream.sends(b"defghi")
    assert client.received.endswith(b"c\r\nddeeffgghhii\r\n1\r\n.\r\n0\r\n\r\n")


def test_a_reply_in_pieces_is_refused_where_it_cannot_be_one() -> None:
    with pytest.raises(TypeError, match="expected bytes or a ReplyBody"):
        Reply(200, "text")  # type: ignore[arg-type]


def test_what_explain_and_a_reply_hook_do_not_send_is_let_go() -> None:
    """A reply that another one takes the place of closes what it holds."""
    closed: list[str] = []

    class Open(ReplyBody):
        length = 3

        def close(self) -> None:
            closed.append("closed")

    answers = filter_of(Hooks(request=lambda exchange: Reply(200, Open())), Phase.CREDENTIALS)
    replaces = filter_of(Hooks(reply=lambda exchange, reply: Reply(201, b"other")), Phase.OBSERVE)
    assert run([answers, replaces], get()).status == 201
    assert closed == ["closed"]
    assert answer_of(run(answers, get(method=b"HEAD")), b"HEAD")[1][b"content-length"] == b"3"
    assert closed == ["closed", "closed"]
    assert run(answers, get(), shadow=True).passed
    assert closed[2:]
