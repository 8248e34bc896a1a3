"""Issuers that send what no honest one does, or nothing for ever: the next one is asked in its turn."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fastgw.acme.issuing import run
from fastgw.acme.messages import Failed, Issuer, Job
from tests.support.certificates import Certificates, server_tls

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def lying(tls: ssl.SSLContext, head: bytes, body: bytes, drips: bool) -> Iterator[str]:
    """Run an issuer with one answer, and yield its directory. `drips`: the rest comes byte by byte, and never ends."""
    ended = threading.Event()

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with suppress(OSError), tls.wrap_socket(plain, server_side=True) as client:
                client.recv(65_536)
                client.sendall(head + body)
                while drips and not ended.wait(0.02):
                    client.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listening.getsockname()[1]}/directory"
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def job(folder: Path, *issuers: Issuer) -> Job:
    return Job(
        issuers=issuers,
        email="",
        storage=str(folder / "acme"),
        file=str(folder / "acme" / "certificates" / "a.pem"),
        domains=["a.test"],
        challenge="http-01",
        key="ecdsa",
        seconds=4.0,
    )


def test_nothing_is_ordered_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate could not be stored, and each order counts for the limits of the issuer."""

    def full(descriptor: int, begins: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    file = tmp_path / "acme" / "certificates" / "a.pem"
    with socket.create_server(("127.0.0.1", 0)) as issuer:
        issuer.setblocking(False)
        directory = f"https://127.0.0.1:{issuer.getsockname()[1]}/directory"
        result = run(job(tmp_path, Issuer(directory)), lambda challenges: None)
        with pytest.raises(BlockingIOError):
            issuer.accept()
    assert result == Failed(f"{file} cannot be written: No space left on device")
    assert [each.name for each in file.parent.iterdir()] == [".a.pem.lock"]


@pytest.mark.parametrize(
    ("length", "body", "drips"),
    [
        (b"6000", b"[" * 3000 + b"]" * 3000, False),
        (b"2", b"\xff\xfe", False),
        (b"9", b"Infinity1", False),
        (b"4", b"null", False),
        (b"1000000", b"", True),
    ],
    ids=["deep", "no text", "no number", "null", "slow"],
)
def test_an_issuer_that_lies_is_not_the_last_one_that_is_asked(
    length: bytes, body: bytes, drips: bool, tmp_path: Path
) -> None:
    authority = Certificates(tmp_path)
    deaf = socket.socket()  # it does not listen
    deaf.bind(("127.0.0.1", 0))
    other = f"https://127.0.0.1:{deaf.getsockname()[1]}/directory"
    head = OK + b"Content-Length: %b\r\n\r\n" % length
    with deaf, lying(server_tls(authority.issue("127.0.0.1")), head, body, drips) as liar:
        issuers = [Issuer(liar, Path(authority.ca).read_text()), Issuer(other)]
        result = run(job(tmp_path, *issuers), lambda challenges: None)
    assert isinstance(result, Failed)
    assert result.why.startswith(f"{liar}: ")
    assert f"{other}: unreachable" in result.why
    assert ("it has not finished in time" in result.why) is drips
