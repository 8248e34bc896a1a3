"""The export of spans by a worker, where an attempt fails in an unexpected way."""

from collections import Counter
from typing import Any

import pytest

from fastgw.config import load_text
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.observe.tracing.queue import MOST_IN_BATCH
from fastgw.runtime.process.transient_errors import RetryBackoff
from fastgw.runtime.worker.trace_export import TraceExport
from fastgw.upstream.client.http_client import Fetched
from tests.support.on_loop import on_loop, until

DOCUMENT = b"""
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
telemetry: {traces: {otlp: {url: "http://127.0.0.1:1"}}}
routes: [{name: all, respond: {}}]
"""
HOUR_S = 3600.0


class Spans:
    """Counts spans, as an observer does."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def count_spans(self, **counts: int) -> None:
        self.counted.update(counts)

    def note_exemplar(self, *_: object) -> None: ...


class FirstFails:
    """Answers 200, but raises an exception first."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def fetch(self, *_: Any, body: bytes, **__: Any) -> Fetched:
        self.bodies.append(body)
        if len(self.bodies) == 1:
            raise MemoryError
        return Fetched(200, {}, b"")


@on_loop
async def test_a_batch_that_raises_is_counted_and_the_rest_is_exported_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The end of the worker ends the pause after the exception."""
    monkeypatch.setattr(RetryBackoff, "failed", lambda backoff, now: HOUR_S)
    gateway = compile(load_text(DOCUMENT, "a.yaml", TYPES).config, 1)
    spans, fetcher = Spans(), FirstFails()
    export = TraceExport(gateway, (), fetcher, spans)  # type: ignore[arg-type]
    export.start()
    export.queue.add([b"span"] * (MOST_IN_BATCH + 8))
    await until(lambda: "trace export" in capfd.readouterr().err)
    assert +spans.counted == {"failed": MOST_IN_BATCH}
    await export.stop(10.0)
    assert +spans.counted == {"failed": MOST_IN_BATCH, "exported": 8}
    assert len(fetcher.bodies) == 2
