"""Lines in a topic of Kafka: they arrive, outlive brokers that are killed, and slow nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.config.settings.log_sinks import KafkaSasl, KafkaSink, RemoteSink, Spool
from fastgw.config.settings.secrets import Secret
from fastgw.observe.access_log import remote_sink
from fastgw.observe.access_log.kafka_delivery import KafkaTransport
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.access_log.sink_kinds import sink_of
from tests.support.kafka_broker import TOPIC, KafkaBroker
from tests.support.peer import DEADLINE


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    made = KafkaBroker()
    made.start()
    yield made
    made.close()


def transport(broker: KafkaBroker, **more: object) -> KafkaTransport:
    settings = {"acks": "all", "compresses": False, "tls": False, "ca": None, "sasl": lambda: None, "timeout": 2.0}
    return KafkaTransport([broker.address], TOPIC, **(settings | more))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(("acks", "compresses"), [("all", True), ("leader", False), ("none", False)])
def test_lines_are_messages_of_the_topic(broker: KafkaBroker, acks: str, compresses: bool) -> None:
    sent = transport(broker, acks=acks, compresses=compresses)
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
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert told[0].startswith(f"access log kafka {broker.address}: ")
    assert told[1].endswith("can be written again")


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


def test_a_secret_that_is_unavailable_is_told_and_tried_again(broker: KafkaBroker, tmp_path: Path) -> None:
    sink = KafkaSink(
        brokers=(broker.address,), topic=TOPIC, sasl=KafkaSasl(username="a", password=Secret(file=str(tmp_path / "p")))
    )
    sent = transport(broker, sasl=sink.credentials)
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
