"""Lines in a topic of Kafka: they arrive, outlive brokers that are killed, and slow nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, SHUT_RDWR, create_server, socket
from typing import Any, Literal

import pytest

from fastgw.config.settings.log_sinks import KafkaSasl, KafkaSink, RemoteSink, Spool
from fastgw.config.settings.secrets import Secret
from fastgw.observe.access_log import remote_sink
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.access_log.sink import why_not
from fastgw.observe.kafka_delivery import KafkaTransport
from fastgw.observe.sink_kinds import sink_of
from tests.support.certificates import Certificates, server_tls
from tests.support.kafka_broker import TOPIC, KafkaBroker
from tests.support.peer import DEADLINE
from tests.support.secure_kafka import SecureBroker


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    made = KafkaBroker()
    made.start()
    yield made
    made.close()


Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def transport(broker: KafkaBroker | SecureBroker, **more: Any) -> KafkaTransport:
    return KafkaTransport(KafkaSink(brokers=(broker.address,), topic=TOPIC, **{"timeout": 2.0, **more}))


def user(mechanism: Mechanism, password: str) -> KafkaSasl:
    return KafkaSasl(username="gateway", password=Secret(text=password), mechanism=mechanism)


@pytest.mark.parametrize(("acks", "compresses"), [("all", True), ("leader", False), ("none", False)])
def test_lines_are_messages_of_the_topic(broker: KafkaBroker, acks: str, compresses: bool) -> None:
    sent = transport(broker, acks=acks, gzip=compresses)
    try:
        assert sent.deliver([b'{"a":%d}' % number for number in range(300)]) == 0
        assert sent.deliver([b"later"]) == 0
        assert set(broker.lines(301)) == {*(b'{"a":%d}' % number for number in range(300)), b"later"}
        assert sent.deliver([b"x" * 2_000_000, b"short"]) == 1  # more than a broker takes
        assert b"short" in broker.lines(302)
    finally:
        sent.close()


def test_a_broker_that_is_killed_costs_no_line(
    broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(remote_sink, "RETRY_MOST_S", 0.05)
    spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
    settings = RemoteSink(kafka=KafkaSink(brokers=(broker.address,), topic=TOPIC, batch=10, timeout=1.0, spool=spool))
    sink = sink_of(settings)
    try:
        assert sink.write(b"first\n") + sink.flush() == 0
        assert broker.lines(1) == [b"first"]
        broker.kill()
        for number in range(30):
            assert sink.write(b"%d\n" % number) + sink.flush() == 0  # into the spool
        assert [*(tmp_path / "spool").iterdir()]
        broker.start()
        until = time.monotonic() + DEADLINE
        while [*(tmp_path / "spool").iterdir()]:
            assert time.monotonic() < until
            time.sleep(min(sink.idle_s or 0.0, 0.05))
            sink.refresh()
        assert {b"%d" % number for number in range(30)} == set(broker.lines(30))
    finally:
        sink.close()
    told = [record.getMessage() for record in caplog.records if record.name == "fastgw"]
    assert len(told) == 2, told
    assert told[0].startswith(f"access log kafka {broker.address}: ")
    assert told[1].endswith("can be written again")


def test_lines_that_the_broker_has_acknowledged_are_not_sent_again(
    broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is too long is refused for ever, and one whose message fails waits in the spool alone."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaTimeoutError

    send = AIOKafkaProducer.send
    failures = [KafkaTimeoutError()]

    async def send_or_fail(producer: object, topic: str, line: bytes) -> object:
        if line == b"fails" and failures:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(failures.pop())
            return failed
        return await send(producer, topic, line)

    monkeypatch.setattr(AIOKafkaProducer, "send", send_or_fail)
    path = tmp_path / "spool"
    path.mkdir()
    file = path / f"{1:020}-1-0.lines"
    file.write_bytes(b"first\nfails\n" + b"x" * 2_000_000 + b"\nlast\n")
    monkeypatch.setattr(remote_sink, "DELIVERY_WAIT_S", DEADLINE)
    spool = Spool(path=str(path), size=4 << 20)
    settings = RemoteSink(kafka=KafkaSink(brokers=(broker.address,), topic=TOPIC, spool=spool))
    sink, later = sink_of(settings), sink_of(settings)
    try:
        sink.refresh()
        assert sink.flush() == 1
        assert file.read_bytes() == b"fails\n"
        later.refresh()
        assert not file.exists()
        assert later.write(b"end\n") + later.flush() == 0
        assert sorted(broker.lines(4)) == [b"end", b"fails", b"first", b"last"]
    finally:
        sink.close()
        later.close()


def test_a_broker_that_hangs_holds_the_thread_for_the_timeout_alone(broker: KafkaBroker) -> None:
    broker.kill()
    sent = transport(broker, timeout=0.5)
    try:
        with pytest.raises(Undelivered) as refused:
            sent.deliver([b"a", b"b"])
        assert refused.value.lines == [b"a", b"b"]
        broker.start()
        assert sent.deliver([b"a", b"b"]) == 0
    finally:
        sent.close()


@pytest.mark.parametrize("answer", [b"", b"\xff" * 60, b"\x00" * 60, b"\x00\x00\x7f\xff\xff\xff" + b"\x00" * 40])
def test_a_server_that_answers_nonsense_costs_no_line_and_not_the_thread(answer: bytes) -> None:
    """Some of it is an error of its type inside of the client library, such as a `TypeError`."""
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    with connection:
                        correlation = connection.recv(65536)[8:12]
                        connection.sendall(len(correlation + answer).to_bytes(4, "big") + correlation + answer)
                        connection.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        sent = KafkaTransport(KafkaSink(brokers=(address,), topic=TOPIC, timeout=0.5))
        try:
            with pytest.raises(Undelivered) as refused:
                sent.deliver([b"a", b"b"])
        finally:
            sent.close()
            listening.shutdown(SHUT_RDWR)
    assert refused.value.lines == [b"a", b"b"]


def test_a_response_of_a_gigabyte_is_not_read() -> None:
    sent: list[int] = []
    ended = threading.Event()
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    sent.append(0)
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        connection.sendall((1 << 30).to_bytes(4, "big"))
                        while sent[-1] < 1 << 30:
                            sent[-1] += connection.send(bytes(1 << 16))
                    ended.set()

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        kafka = KafkaTransport(KafkaSink(brokers=(address,), topic=TOPIC, timeout=DEADLINE))
        try:
            with pytest.raises(Undelivered):
                kafka.deliver([b"a"])
        finally:
            kafka.close()
        assert ended.wait(DEADLINE)
    assert max(sent) < 64 << 20  # what the buffers of both sockets take


def test_a_secret_that_is_unavailable_is_told_and_tried_again(broker: KafkaBroker, tmp_path: Path) -> None:
    sink = KafkaSink(
        brokers=(broker.address,), topic=TOPIC, sasl=KafkaSasl(username="a", password=Secret(file=str(tmp_path / "p")))
    )
    sent = KafkaTransport(sink)
    try:
        with pytest.raises(Undelivered, match="No such file"):
            sent.deliver([b"a"])
        (tmp_path / "p").write_text("geheim\n")
        assert sink.credentials() == ("SCRAM-SHA-512", "a", "geheim")
    finally:
        sent.close()


def test_passwords_are_not_sent_in_the_clear(tmp_path: Path) -> None:
    plain = KafkaSasl(username="a", password=Secret(text="b"), mechanism="PLAIN")
    with pytest.raises(ValueError, match="PLAIN sends the password itself"):
        KafkaSink(brokers=("a:9092",), topic=TOPIC, sasl=plain)
    assert KafkaSink(brokers=("a:9092",), topic=TOPIC, sasl=plain, tls=True).credentials() == ("PLAIN", "a", "b")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="module")
def issued(certificates: Certificates) -> tuple[str, str]:
    return certificates.issue("127.0.0.1")


@contextlib.contextmanager
def secure_broker(
    issued: tuple[str, str] | None, mechanism: str = "", clients: str | None = None, topic: str = TOPIC
) -> Iterator[SecureBroker]:
    broker = SecureBroker(None if issued is None else server_tls(issued, clients), mechanism, topic)
    try:
        yield broker
    finally:
        broker.close()


def refusal(broker: SecureBroker, **more: object) -> str:
    """The reason why a line is not delivered."""
    sent = transport(broker, **{"timeout": DEADLINE, **more})
    try:
        with pytest.raises(Undelivered) as refused:
            sent.deliver([b"a"])
        assert refused.value.lines == [b"a"]
        return str(refused.value)
    finally:
        sent.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_is_authenticated_over_tls(
    certificates: Certificates, issued: tuple[str, str], mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
) -> None:
    with secure_broker(issued, mechanism) as broker:
        sasl = KafkaSasl(username="gateway", password=Secret(text="geheim"), mechanism=mechanism)
        settings = KafkaSink(brokers=(broker.address,), topic=TOPIC, tls=True, ca=certificates.ca, sasl=sasl)
        sink = sink_of(RemoteSink(kafka=settings))
        try:
            assert sink.write(b"a line\n") + sink.flush() == 0
        finally:
            sink.close()
        assert broker.has(b"a line")
        wrong = refusal(broker, tls=True, ca=certificates.ca, sasl=user(mechanism, "falsch"))
        assert wrong == "the broker refuses `sasl`: username or password is wrong"


def test_scram_needs_no_tls_and_another_mechanism_is_told() -> None:
    with secure_broker(None, "SCRAM-SHA-256") as broker:
        sent = transport(broker, sasl=user("SCRAM-SHA-256", "geheim"))
        try:
            assert sent.deliver([b"a line"]) == 0
        finally:
            sent.close()
        assert broker.has(b"a line")
        other = refusal(broker, sasl=user("SCRAM-SHA-512", "geheim"))
        assert other == "the broker does not have `sasl.mechanism`"


def test_client_certificates_are_shown(certificates: Certificates, issued: tuple[str, str]) -> None:
    certificate, key = certificates.issue("gateway.test", subject="gateway")
    with secure_broker(issued, clients=certificates.ca) as broker:
        sent = transport(broker, tls=True, ca=certificates.ca, certificate=certificate, key=key)
        try:
            assert sent.deliver([b"a line"]) == 0
        finally:
            sent.close()
        assert broker.has(b"a line")
        assert ((("commonName", "gateway"),),) in broker.subjects
        assert re.match("Connection reset|TLS failed: ", refusal(broker, tls=True, ca=certificates.ca))


def test_what_is_wrong_with_tls_is_told(certificates: Certificates, issued: tuple[str, str], tmp_path: Path) -> None:
    other = Certificates(tmp_path)
    elsewhere = certificates.issue("other.test")
    (tmp_path / "no.pem").write_text("no certificate")
    with secure_broker(issued) as broker:
        assert refusal(broker, tls=True, ca=other.ca).startswith("its certificate is not valid: ")
        empty = str(tmp_path / "no.pem")
        assert refusal(broker, tls=True, ca=empty) == f"{empty} has no certificate in PEM"
        missing = str(tmp_path / "missing.pem")
        assert refusal(broker, tls=True, ca=missing) == f"{missing}: No such file or directory"
        mixed = refusal(broker, tls=True, ca=certificates.ca, certificate=issued[0], key=elsewhere[1])
        assert mixed == f"{elsewhere[1]} is not the key of {issued[0]}"
    with secure_broker(elsewhere) as broker:
        assert "IP address mismatch" in refusal(broker, tls=True, ca=certificates.ca)
    with secure_broker(None) as broker:
        refusal(broker, timeout=1.0, tls=True, ca=certificates.ca)  # a broker without TLS does not answer


def connections_to(port: int) -> int:
    """How many sockets of this process are connected to a port."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):  # others would leave their copy open
                with socket(fileno=os.dup(int(number))) as each:
                    found += each.family == AF_INET and each.getpeername()[1] == port
    return found


def test_connections_are_closed_though_the_broker_does_not_close_its_side(
    certificates: Certificates, issued: tuple[str, str]
) -> None:
    broker = SecureBroker(server_tls(issued), "PLAIN", lingers=True)
    tls = {"tls": True, "ca": certificates.ca, "timeout": DEADLINE}
    try:
        sent = transport(broker, sasl=user("PLAIN", "geheim"), **tls)
        assert sent.deliver([b"a"]) == 0
        assert connections_to(broker.port) > 0
        sent.close()
        assert connections_to(broker.port) == 0
        refused = transport(broker, sasl=user("PLAIN", "falsch"), **tls)
        with pytest.raises(Undelivered, match="password is wrong"):
            refused.deliver([b"a"])
        assert connections_to(broker.port) == 0  # at once: the loop of the client runs during deliveries only
        refused.close()
    finally:
        broker.close()


def test_a_topic_that_does_not_exist_is_told() -> None:
    with secure_broker(None, topic="another") as broker:
        assert refusal(broker, timeout=2.0) == "the topic does not exist"


def test_files_of_tls_are_read_before_the_gateway_starts(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.issue("gateway.test", subject="gateway")
    other = certificates.issue("another.test")[1]
    whole = KafkaSink(brokers=("a:9092",), topic=TOPIC, tls=True, ca=certificates.ca, certificate=certificate, key=key)
    assert why_not(RemoteSink(kafka=whole)) is None
    mixed = KafkaSink(brokers=("a:9092",), topic=TOPIC, tls=True, certificate=certificate, key=other)
    assert why_not(RemoteSink(kafka=mixed)) == f"{other} is not the key of {certificate}"
    swapped = KafkaSink(brokers=("a:9092",), topic=TOPIC, tls=True, certificate=key, key=certificate)
    assert "are not a certificate and its key without a passphrase" in str(why_not(RemoteSink(kafka=swapped)))


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_files_of_tls_need_tls_and_one_another(certificates: Certificates, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is set, but `tls` is not"):
        KafkaSink(brokers=("a:9092",), topic=TOPIC, **{name: certificates.ca})
    if name != "ca":
        with pytest.raises(ValueError, match="belong together"):
            KafkaSink(brokers=("a:9092",), topic=TOPIC, tls=True, **{name: certificates.ca})
