"""Lists of networks from URLs, fetched once per node.

Rule: while a list is unreachable or invalid, the last one stays in use.
"""

import asyncio
from hashlib import sha256

import msgspec

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.filters.api import FeedSource, NodeSide
from fastgw.net.network_lists import MAGIC, InvalidList, pack_list
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.sync.feeds import MOST_BYTES
from fastgw.upstream.client.http_client import FetchFailed
from fastgw.upstream.targets.tls import ClientTls, read_tls

AWAY_S = 10.0
"""Seconds until the next attempt after a failure, unless the interval is shorter."""
FETCH_S = 30.0
MOST = 16 * 1024 * 1024
"""Maximum bytes of a response; what it lists must fit into `MOST_BYTES`."""


class NetworkFeed(FeedSource, frozen=True, kw_only=True):
    """List of networks at a URL. `interval`: seconds between two fetches."""

    url: Endpoint
    tls: UpstreamTls
    interval: float

    @classmethod
    def of(cls, url: Endpoint, tls: UpstreamTls, interval: float) -> "NetworkFeed":
        """Return the source of a list; equal settings share one."""
        way = sha256(msgspec.msgpack.encode((str(url), tls, interval))).hexdigest()[:16]
        return cls(key=f"networks {_shown(url)} {way}", url=url, tls=tls, interval=interval)

    @property
    def name(self) -> str:
        return _shown(self.url)

    async def run(self, node: NodeSide) -> None:
        tls = read_tls(self.tls, node.read)
        title, complaint = f"networks of {self.name}", ""
        value, tag = node.feeds[self.key].value, b""
        while True:
            wait = self.interval
            try:
                value, tag = await self._fetch(node, tls, value, tag)
            except (FetchFailed, InvalidList) as problem:
                wait = min(wait, AWAY_S)
                if str(problem) != complaint:
                    complaint = str(problem)
                    kept = "the list fetched last is still used" if value else "the list is empty until then"
                    log_event(OperatorEvent.FEED_FAILED, "%s: %s; %s", title, complaint, kept)
                node.attempted(complaint)
            else:
                if complaint:
                    log_event(OperatorEvent.FEED_BACK, "%s: fetched again", title)
                complaint = ""
                node.attempted()
                node.publish(value)
            await asyncio.sleep(wait)

    async def _fetch(self, node: NodeSide, tls: ClientTls, value: bytes, tag: bytes) -> tuple[bytes, bytes]:
        """Return the packed list and its ETag. Raises `FetchFailed` and `InvalidList`."""
        fields = [(b"Accept", b"text/plain, application/json, */*")]
        if tag:
            fields.append((b"If-None-Match", tag))
        fetched = await node.fetcher.fetch(self.url, tls=tls, timeout=FETCH_S, most=MOST, fields=fields)
        if fetched.status == 304 and tag:
            return value, tag
        if fetched.status != 200:
            raise InvalidList(f"it answers {fetched.status}")
        packed = await asyncio.to_thread(pack_list, fetched.body)
        if packed == MAGIC:
            raise InvalidList("its answer contains no network")
        if len(packed) > MOST_BYTES:
            raise InvalidList(f"too many networks: {len(packed)} bytes in packed form; the most is {MOST_BYTES}")
        return packed, fetched.fields.get(b"etag") or b""


def _shown(url: Endpoint) -> str:
    return f"{url.origin}{url.target.partition('?')[0]}"  # the query may contain a secret
