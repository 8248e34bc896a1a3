"""Bodies on their way: they pass as they come, wait where the reader stalls, and end when either side leaves."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.lanes import Lane
from tests.support.peer import Peer, Unexpected

OK = b"HTTP/1.1 200 OK\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\n"
MEGABYTES_15 = 15 * 1024 * 1024


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 19\r\n"])
def test_a_slow_response_passes_as_it_comes(lane: Lane, framing: bytes) -> None:
    """RFC 9112 section 7.1: each byte of an event reaches the client before the upstream sends the next."""
    client = lane.client()
    client.send(lane.get(fields=b"Accept: text/event-stream\r\n"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(EVENTS + framing + b"\r\n")
    response = client.read_response_head()
    assert response.get(b"Content-Type") == b"text/event-stream"
    chunked = response.get(b"Transfer-Encoding") == b"chunked"
    for byte in b"event: a\ndata: b\n\n\n":
        one = bytes([byte])
        upstream.send(b"1\r\n" + one + b"\r\n" if b"chunked" in framing else one)
        assert (client.read_chunk() if chunked else client.read_exactly(1)) == one


@pytest.mark.parametrize("chunked", [True, False])
def test_a_slow_request_passes_as_it_comes(lane: Lane, chunked: bool) -> None:
    """RFC 9112 section 7.1: each byte of an upload reaches the upstream before the client sends the next."""
    client = lane.client()
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: 5\r\n"
    client.send(lane.get(method=b"POST", fields=framing))
    upstream = lane.accept()
    head = upstream.read_request_head()
    for byte in b"hello":
        one = bytes([byte])
        client.send(b"1\r\n" + one + b"\r\n" if chunked else one)
        assert (upstream.read_chunk() if b"Transfer-Encoding" in head else upstream.read_exactly(1)) == one
    if chunked:
        client.send(b"0\r\n\r\n")
        assert upstream.read_chunk() == b""
    upstream.send(OK + b"Content-Length: 2\r\n\r\nok")
    assert client.read_response().body == b"ok"


def test_both_bodies_may_move_at_once(lane: Lane) -> None:
    """RFC 9110 section 6.4: an upstream may answer bit by bit while it is still being sent to."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Transfer-Encoding: chunked\r\n"))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    client.read_response_head()
    for word in [b"one", b"two", b"six"]:
        client.send(b"3\r\n" + word + b"\r\n")
        assert upstream.read_chunk() == word
        upstream.send(b"3\r\n" + word[::-1] + b"\r\n")
        assert client.read_chunk() == word[::-1]
    client.send(b"0\r\n\r\n")
    assert upstream.read_chunk() == b""
    upstream.read_trailers()
    upstream.send(b"0\r\n\r\n")
    assert client.read_chunk() == b""


@pytest.mark.parametrize("status", [b"200 OK", b"413 Content Too Large"])
def test_an_answer_during_a_large_upload_arrives_whole(lane: Lane, status: bytes) -> None:
    """RFC 9112 section 9.5, promise 9: 15 MB are on their way when the answer comes; it is read, then the end."""
    client = lane.client()
    client.send(lane.get(b"/upload", b"Content-Length: %d\r\n" % MEGABYTES_15, b"POST"))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nearly")
    client.send_gently(b"x" * MEGABYTES_15)  # like a client that does not look before it has sent everything
    response = client.read_response()
    assert response.head.start_line == b"HTTP/1.1 " + status
    assert response.body == b"early"
    assert response.get(b"Connection") == b"close"
    client.assert_ended()
    assert not client.was_reset


def test_the_rest_of_an_upload_is_not_the_next_request(lane: Lane) -> None:
    """RFC 9112 section 9.5: what comes behind an early answer is still body, whatever it looks like."""
    client = lane.client()
    inner = lane.get(b"/inner")
    client.send(lane.get(method=b"POST", fields=b"Content-Length: %d\r\n" % (len(inner) + 1)))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(OK + b"Content-Length: 5\r\n\r\nearly")
    assert client.read_response().body == b"early"
    client.send_gently(inner)
    client.assert_ended()
    lane.origin.assert_no_further_connection()


def test_an_upstream_that_answers_and_closes_during_the_upload(lane: Lane) -> None:
    """RFC 9112 section 9.5: an early answer counts although the upstream reads no further and resets."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: %d\r\n" % MEGABYTES_15))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    upstream.shutdown_write()
    client.send_gently(b"x" * MEGABYTES_15)
    response = client.read_response()
    assert (response.status, response.body) == (401, b"no")
    client.assert_ended()


# --- the client leaves ---


def test_a_client_that_leaves_while_waiting_cancels_its_request(lane: Lane) -> None:
    """RFC 9110 section 15.5.1, promise 10: the upstream connection closes, and the log has 499."""
    client = lane.client()
    client.send(lane.get(b"/leave-waiting"))
    upstream = lane.accept()
    upstream.read_request()
    client.close()
    upstream.assert_ended()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/leave-waiting")
    assert (record["status"], record["fault"]) == (499, "client_left")


def test_a_client_that_resets_while_waiting_cancels_its_request(lane: Lane) -> None:
    """Promise 10: a reset is a leaving as well."""
    client = lane.client()
    client.send(lane.get(b"/reset-waiting"))
    upstream = lane.accept()
    upstream.read_request()
    client.reset()
    upstream.assert_ended()
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/reset-waiting")["status"] == 499


def test_a_client_that_leaves_amid_its_upload(lane: Lane) -> None:
    """RFC 9112 section 8: an incomplete request is not made complete; the upstream sees it cut short."""
    client = lane.client()
    client.send(lane.get(b"/leave-upload", b"Transfer-Encoding: chunked\r\n", b"POST") + b"5\r\nhello\r\n")
    upstream = lane.accept()
    upstream.read_request_head()
    assert upstream.read_exactly(5) in (b"hello", b"5\r\nhe")
    client.close()
    assert b"0\r\n\r\n" not in upstream.read_to_end()
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/leave-upload")["status"] == 499


def test_a_client_that_leaves_amid_the_response(lane: Lane) -> None:
    """Promise 10: the upstream stops being read and its connection closes."""
    client = lane.client()
    client.send(lane.get(b"/leave-response"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Length: 1000000\r\n\r\nhello")
    client.read_until(b"hello")
    client.reset()
    upstream.assert_ended()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/leave-response")
    assert (record["status"], record["fault"]) == (200, "client_left")


def test_a_client_that_leaves_while_it_does_not_read(lane: Lane) -> None:
    """Promise 10: leaving is seen although reading the upstream is paused for want of room."""
    client = lane.client()
    client.send(lane.get(b"/leave-paused"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Length: 1000000000\r\n\r\n")
    upstream.send_until_held_back()
    client.reset()
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        upstream.send(b"x" * 100_000_000)
    lane.gateway.wait_for_record(host=lane.host.decode(), path="/leave-paused", fault="client_left")


def count_chunked(peer: Peer) -> int:
    """Bytes of a chunked body up to where it is cut short."""
    received = 0
    with contextlib.suppress(Unexpected):
        while chunk := peer.read_chunk():
            received += len(chunk)
    return received


def test_a_reader_that_stalls_holds_the_upstream_back(lane: Lane) -> None:
    """Promise 20: the upstream is read no further than buffers reach, others are served, and all arrives in the end."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (64 * 1024 * 1024))
    sent = upstream.send_until_held_back()
    other = lane.client()
    other.send(lane.get())
    lane.accept().answer()
    assert other.read_response().body == b"ok"
    upstream.close()
    client.read_response_head()
    assert count_chunked(client) == sent


def test_an_upstream_that_stalls_holds_the_client_back(lane: Lane) -> None:
    """Promise 20, the other way: an upload is taken no further than buffers reach, and arrives in the end."""
    client = lane.client()
    client.send(lane.get(method=b"POST", fields=b"Content-Length: %d\r\n" % (64 * 1024 * 1024)))
    upstream = lane.accept()
    upstream.read_request_head()
    sent = client.send_until_held_back()
    assert upstream.read_exactly(sent) == b"x" * sent


def test_a_client_that_pipelines_without_end_is_held_back(lane: Lane) -> None:
    """Design section 2: while a response is awaited 64 KiB of further requests are read; leaving is seen."""
    client = lane.client()
    client.send(lane.get(b"/flooding"))
    upstream = lane.accept()
    upstream.read_request()
    client.send_until_held_back(lane.get(b"/flood"))
    client.reset()
    upstream.assert_ended()
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/flooding")["status"] == 499


def test_interim_responses_without_end_are_not_kept(lane: Lane) -> None:
    """Design section 8: bounded everything: 1xx responses that nobody reads are held back or end in a refusal."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    with contextlib.suppress(OSError):
        upstream.send_until_held_back(b"HTTP/1.1 103 Early Hints\r\nX-A: " + b"a" * 4_000 + b"\r\n\r\n")


def test_a_refused_client_may_not_send_for_ever(lane: Lane) -> None:
    """RFC 9112 section 9.6: what comes after the last answer is dropped, and the answer can be read."""
    client = lane.client()
    client.send_gently(lane.get(method=b"POST", fields=b"Content-Length: 1x\r\n") + b"x" * 20_000_000)
    assert client.read_response().status == 400
    client.assert_ended()
    assert not client.was_reset
