"""An exchange recorded: counted and queued on the loop, made into a line by the log's thread."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.micro.heads import REQUESTS
from bench.micro.timing import Room
from fastgw.observe import Observer, Record, Series
from fastgw.observe.lines import json_line, masker
from fastgw.wire.framing import RequestHead, judge_request


@dataclass(frozen=True)
class Log:
    sink: str
    format: str = "json"
    redact: tuple[str, ...] = ()


def rooms() -> Iterator[Room]:
    heads = [judge_request(raw) for raw in REQUESTS]
    records = [_record(head) for head in heads]
    routes = sorted({record.route for record in records})
    series = Series(listeners=["public"], routes=routes, upstreams=["origin"], faults=[])
    mask = masker(())
    counting = Observer(logs=[], column=None, series=series)
    yield Room("make a record", _record, heads)
    yield Room("count a record", counting.finish, records)
    with tempfile.TemporaryDirectory() as folder:
        logging = Observer(logs=[Log(str(Path(folder) / "access.log"))], column=None, series=series)
        logging.start()
        try:
            yield Room("count it and queue its log line", logging.finish, records)
        finally:
            logging.stop()
    yield Room("  mask a referer, in the thread", mask, [record.referer for record in records])
    yield Room("make its JSON log line, in the thread", lambda record: json_line(record, mask), records)


def _record(head: RequestHead) -> Record:
    return Record(
        ended_date=time.time(),
        client="192.0.2.1",
        listener="public",
        method=head.method,
        scheme=b"http",
        host=head.host,
        path=head.raw_path,
        query=head.query,
        minor=head.minor,
        status=200,
        request_bytes=0,
        response_bytes=1000,
        duration_s=0.0012,
        route=head.path.split(b"/")[1].decode(),
        upstream="origin",
        target="127.0.0.1:9001",
        upstream_s=0.001,
        request_id=head.first(b"x-request-id") or b"",
        user_agent=head.first(b"user-agent"),
        referer=head.first(b"referer"),
    )
