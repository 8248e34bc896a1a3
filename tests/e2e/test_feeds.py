"""What is fetched once per node: control fetches it, every worker has it, also those born while its source is away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.extension import install
from tests.support.gateway import Gateway, wait_until
from tests.support.peer import DEADLINE

FILTER = '''
import logging

from fastgw.upstream.client.http_client import FetchFailed
from fastgw.filters.api import Env, FeedSource, Filter, Hooks, NodeSide, Phase, Reply, Services


class Word(FeedSource, frozen=True):
    url: str

    async def run(self, node: NodeSide) -> None:
        while True:
            try:
                node.publish((await node.fetcher.fetch(self.url)).body)
                node.attempted()
            except FetchFailed:
                node.attempted("it is away")
                node.publish(b"")
                logging.getLogger("fastgw").warning("the source is away")
            await node.asked(3600)


class Told(Filter, name="told", phase=Phase.AUTHENTICATE):
    """Answers what the source has said."""

    url: str

    def feeds(self):
        return [Word(key=self.url, url=self.url)]

    def build(self, env: Env) -> Hooks:
        feeds = []

        def request(exchange):
            feed = feeds[0]
            if exchange.path == b"/ask":
                return asked(feed)
            return Reply(200, feed.value)

        async def asked(feed):
            feed.ask()
            return Reply(200, feed.value if await feed.changed(5.0) else b"nothing new")

        def start(services: Services) -> None:
            feeds.append(services.feeds[self.url])

        return Hooks(request=request, start=start)
'''


class Source(ThreadingHTTPServer):
    """Says a word, and counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.word = b"one"
        self.asked = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/word"


class Answer(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.word)))
        self.end_headers()
        self.wfile.write(self.server.word)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def source() -> Iterator[Source]:
    with Source() as serving:
        yield serving
        serving.shutdown()


@pytest.mark.landing
def test_one_fetch_reaches_all_workers_and_those_to_come(tmp_path: Path, source: Source):
    install(tmp_path, "told", {"told.py": FILTER}, {"told": "told:Told"})
    config = {
        "workers": 2,
        "extensions": ["told"],
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "routes": [{"name": "all", "respond": {}, "filters": {"told": {"url": source.url}}}],
    }
    with Gateway(config, tmp_path, environment={"PYTHONPATH": str(tmp_path)}) as gateway:

        def word(path: str = "/") -> bytes:
            with gateway.connect() as client:
                return client.exchange(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()).body

        def metrics() -> str:
            with suppress(OSError), urlopen(f"http://{gateway.ready['status']}/metrics", timeout=DEADLINE) as answer:
                return str(answer.read(), "utf-8")
            return ""

        def everywhere(expected: bytes) -> bool:
            return {word() for _ in range(20)} == {expected}

        wait_until(lambda: everywhere(b"one"), "the first word in all workers")
        assert source.asked == 1  # once per node, not once per worker
        label = f'{{feed="{source.url}",used_by="all"}}'
        wait_until(lambda: f"fastgw_feed_up{label} 1" in metrics(), "that the source is known to be there")
        assert f"fastgw_feed_last_success_timestamp_seconds{label} " in metrics()

        source.word = b"two"
        assert word("/ask") == b"two"
        wait_until(lambda: everywhere(b"two"), "the second word in all workers")
        assert source.asked == 2
        assert word("/ask") == b"two"  # nothing newer is an answer too

        source.shutdown()
        source.server_close()
        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"the source is away" in line)
        wait_until(lambda: f"fastgw_feed_up{label} 0" in metrics(), "that the source is known to be away")
        before = set(gateway.worker_pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids) == 2 and not before & set(gateway.worker_pids), "two new workers")
        wait_until(lambda: everywhere(b"two"), "the word that is known, though its source is away")
