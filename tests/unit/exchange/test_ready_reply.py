"""Ready replies: the bytes of a fixed answer, with the date of the second."""

from fastgw.exchange import Reply
from fastgw.exchange.ready_answer import ReadyReply


def test_the_head_has_all_but_the_lines_of_the_connection() -> None:
    ready = ReadyReply.of(Reply(200, b"ok", [(b"X-A", b"1"), (b"Connection", b"x"), (b"X-A", b"2")]))
    assert ready is not None
    answer = ready.at(784_111_777.9)
    assert answer.head == (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    )
    assert (answer.body, answer.length, answer.status) == (b"ok", 2, 200)
    assert ready.at(784_111_778.0).head.endswith(b"08:49:38 GMT\r\n")


def test_a_response_without_content_has_no_length() -> None:
    ready = ReadyReply.of(Reply(304, fields=[(b"ETag", b'"a"')]))
    assert ready is not None
    assert b"Content-Length" not in ready.at(0.0).head


def test_what_depends_on_the_request_is_not_ready() -> None:
    assert ReadyReply.of(Reply(200, b"", [(b"Date", b"x")])) is None
    assert ReadyReply.of(Reply(200, b"", [(b"X-Request_Id", b"x")])) is None
