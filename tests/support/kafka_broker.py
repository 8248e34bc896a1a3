"""A Kafka broker: the mock cluster of librdkafka, which speaks the protocol, in a process that can be killed.

The program prints the broker's address, and ends with its stdin.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from socket import AF_INET, SOCK_STREAM, create_connection, create_server, socket

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.peer import DEADLINE

TOPIC = "access"


class KafkaBroker:
    """Bootstrap address that stays, in front of a broker that does not."""

    def __init__(self) -> None:
        self._listening = create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.behind = ""
        self._process: subprocess.Popen[str] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.kafka_broker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.behind = self._process.stdout.readline().strip()

    def kill(self) -> None:
        process, self._process, self.behind = self._process, None, ""
        if process is not None:
            process.kill()
            with process:  # closes its pipes
                pass

    def close(self) -> None:
        self.kill()
        self._closing = True
        with contextlib.suppress(OSError), socket(AF_INET, SOCK_STREAM) as waking:
            waking.connect(("127.0.0.1", int(self.address.rpartition(":")[2])))
        self._thread.join(DEADLINE)
        self._listening.close()

    def lines(self, count: int) -> list[bytes]:
        """Read this many lines of the topic, from its beginning."""
        consumer = Consumer({"bootstrap.servers": self.behind, "group.id": "t", "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(TOPIC, DEADLINE).topics[TOPIC].partitions
            consumer.assign([TopicPartition(TOPIC, number, 0) for number in partitions])
            found: list[bytes] = []
            while len(found) < count:
                message = consumer.poll(DEADLINE)
                assert message is not None, f"{len(found)} of {count} lines"
                if message.error() is None:
                    found.append(message.value())
            return found
        finally:
            consumer.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            if self._closing or not self.behind:
                client.close()
                if self._closing:
                    return
                continue
            host, _, port = self.behind.rpartition(":")
            broker = create_connection((host, int(port)))
            for source, target in ((client, broker), (broker, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket, target: socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(2)
    source.close()


def main() -> None:
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    (broker,) = producer.list_topics(timeout=DEADLINE).brokers.values()
    print(f"{broker.host}:{broker.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
