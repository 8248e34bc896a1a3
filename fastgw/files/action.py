"""The route action `files`: answers with files beneath a root.

A file that was found is served for a second without a look at the disk (`open_files`), unless it is open and has been
changed: its response could not be completed. Then a thread looks again, for all requests that wait for it.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from time import monotonic, time
from typing import Final, final

from fastgw.errors import Fault
from fastgw.eventloop.disk_threads import run_on_disk
from fastgw.exchange import Exchange, Reply, Route, problem
from fastgw.exchange.action import Action
from fastgw.exchange.ready_answer import ReadyAnswer, ReadyReply
from fastgw.files.open_files import MAX_FILES, UNUSED_S, HeldFile, OpenFileCache, ReadyFile
from fastgw.files.request_path import FilePath, file_path
from fastgw.files.resources import FileFinder, FileResource, Folder, Listing, Missing, Resource
from fastgw.files.responses import not_modified, reply_with_file, variant_for
from fastgw.forwarded_headers import Peer
from fastgw.http.messages import RequestHead
from fastgw.http.preconditions import matches_weakly
from fastgw.operator_events import OperatorEvent, log_event

METHODS: Final = frozenset((b"GET", b"HEAD"))
_SPECIAL: Final = (b"range", b"if-match", b"if-unmodified-since", b"expect")
"""Headers of requests that a ready response does not answer."""
_ACCEPT_ENCODING: Final = b"accept-encoding"
_ANY: Final = b""
"""Key of the ready response of a file without precompressed siblings."""
MAX_CODINGS: Final = 16
MAX_CODING: Final = 256
"""Bounds of ready responses of a file: their number, for each `Accept-Encoding` and each change of their headers by
filters, and the bytes of an `Accept-Encoding`.
"""
LOOKUP_S: Final = 10.0
"""Seconds that a request waits for the disk."""


@final
class _Waiting:
    """Service side of an exchange that waits for the disk."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange: Exchange | None = exchange

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        self.exchange = None


@final
class FilesAction(Action):
    """Action of a route with `files`. `prefix`: leading part of request paths that is not part of the files' paths."""

    def __init__(self, finder: FileFinder, prefix: bytes) -> None:
        self.finder, self._prefix = finder, prefix
        self._cache = OpenFileCache()
        self._lookups: dict[FilePath, list[_Waiting]] = {}
        self._ready: dict[bytes, HeldFile] = {}
        """Files with ready responses, by the path of requests. Files that are no longer in the cache are invalid."""
        self._sweep: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<FilesAction {self.finder.root} files={len(self._cache)} lookups={len(self._lookups)}>"

    def begin(self, exchange: Exchange) -> None:
        """Answer, at once or after a look at the disk."""
        path = self._path_of(exchange)
        if path is None:
            return
        held = self._cache.get(path, exchange.begun_at)
        if held is None or not held.resource.is_unchanged:
            self._look_up(exchange, path)
            return
        if exchange.chain.ready_answer is not None:
            self._keep_ready(exchange, held)
        exchange.reply(self._reply_with_file(exchange, held.resource))

    def ready_answer(self, head: RequestHead, peer: Peer, route: Route) -> ReadyAnswer | None:
        """Return the response to a plain GET for a small file that is in the cache (`TranslateHook.ready`)."""
        held = self._ready.get(head.path)
        if held is None or head.method != b"GET" or (peer.trusted and head.forwarded):
            return None
        now = monotonic()
        if now >= held.valid_until:
            del self._ready[head.path]
            return None
        first = head.first
        for name in _SPECIAL:
            if first(name) is not None:
                return None
        fields = route.chain.response_fields_for(head, peer)
        if fields is None:
            return None
        found = held.ready.get((fields, _coding_key(head, held.resource)))
        if found is None:
            return None
        answer, known = found.whole, head.values(b"if-none-match")
        if known:
            value = known[0] if len(known) == 1 else b", ".join(known)
            # PERF: a single tag is compared with both forms of the file's: 0.1 us, 0.9 as a list (CPython 3.11).
            if value in found.etags or ((b"," in value or value == b"*") and matches_weakly(value, found.etags[0])):
                answer = found.not_modified
        elif first(b"if-modified-since") is not None:
            return None
        held.used_at = now
        return answer.at(time())

    def _keep_ready(self, exchange: Exchange, held: HeldFile) -> None:
        """Keep the responses to later requests for a small file with the same path and `Accept-Encoding`, for which
        filters change the same headers.
        """
        head = exchange.head
        fields = exchange.chain.response_fields_for(head, exchange.peer)
        if fields is None:
            return
        key = fields, _coding_key(head, held.resource)
        if key in held.ready and head.path in self._ready:
            return
        variant = variant_for(head.values(_ACCEPT_ENCODING), held.resource)
        if variant.reply is None or len(held.ready) >= MAX_CODINGS or len(key[1]) > MAX_CODING:
            return
        whole = ReadyReply.of(variant.reply, fields.dropped, fields.added)
        same = ReadyReply.of(not_modified(variant), fields.dropped, fields.added)
        if whole is None or same is None:
            return
        etag = variant.validators.etag or b""
        held.ready[key] = ReadyFile(
            (etag, etag.removeprefix(b"W/") if etag[:2] == b"W/" else b"W/" + etag), whole, same
        )
        if len(self._ready) >= MAX_FILES:
            self._ready.clear()
        self._ready[head.path] = held

    def answer_waiting(self, exchange: Exchange) -> str:
        """Answer, waiting for the disk, as for `explain`. Returns the name of the file, or why there is none."""
        path = self._path_of(exchange)
        if path is None:
            return ""
        found = self.finder.find(path, exchange.path)
        exchange.reply(self._reply(exchange, found))
        if isinstance(found, FileResource):
            return found.name.decode(errors="backslashreplace")
        return found.why if isinstance(found, Missing) else ""

    def _path_of(self, exchange: Exchange) -> FilePath | None:
        """Return the path of the file; None: the exchange was refused."""
        if exchange.method not in METHODS:
            exchange.reply(problem(Fault.METHOD_NOT_ALLOWED, fields=((b"Allow", b"GET, HEAD"),)))
            return None
        path = file_path(exchange.path, self._prefix)
        if path is None:
            exchange.reply(exchange.refuse(Fault.FILE_NOT_FOUND, why="the path names no file, or a hidden one"))
        return path

    # looking at the disk

    def _look_up(self, exchange: Exchange, path: FilePath) -> None:
        exchange.service = waiting = _Waiting(exchange)
        others = self._lookups.get(path)
        if others is not None:
            others.append(waiting)
            return
        self._lookups[path] = mine = [waiting]
        loop = asyncio.get_running_loop()
        late = loop.call_later(LOOKUP_S, self._fail, path, mine)
        looking = run_on_disk(loop, self.finder.find, path, exchange.path)
        looking.add_done_callback(partial(self._looked_up, path, mine, late))

    def _looked_up(
        self,
        path: FilePath,
        waiting: list[_Waiting],
        late: asyncio.TimerHandle,
        looking: "asyncio.Future[Resource]",
    ) -> None:
        """Answer all requests that wait, whatever the lookup has raised."""
        late.cancel()
        self._free_path(path, waiting)
        error = asyncio.CancelledError() if looking.cancelled() else looking.exception()
        if error is not None:
            log_event(OperatorEvent.DEFECT, "a defect while looking for a file in %s", self.finder.root, error=error)
            _fail_all(waiting, Fault.INTERNAL, f"looking for the file raised {type(error).__name__}")
            return
        found = looking.result()
        if isinstance(found, FileResource) and not found.is_fallback:
            self._keep_file(path, found)
        for exchange in _exchanges_of(waiting):
            try:
                exchange.reply(self._reply(exchange, found))
            except Exception:  # the edge of this exchange: the other ones are answered
                log_event(OperatorEvent.DEFECT, "a defect while answering with a file", error=True)
                exchange.fail(Fault.INTERNAL)

    def _keep_file(self, path: FilePath, found: FileResource) -> None:
        loop = asyncio.get_running_loop()
        self._cache.put_file(path, found, loop.time())
        if self._sweep is None:
            self._sweep = loop.call_later(UNUSED_S, self._close_unused)

    def _close_unused(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._cache.remove_unused(now)
        self._ready = {path: held for path, held in self._ready.items() if now < held.valid_until}
        self._sweep = loop.call_later(UNUSED_S, self._close_unused) if len(self._cache) else None

    def _fail(self, path: FilePath, waiting: list[_Waiting]) -> None:
        """Answer the requests that have waited for too long; later ones look again."""
        self._free_path(path, waiting)
        _fail_all(waiting, Fault.FILE_UNREADABLE, "the disk did not respond in time")

    def _free_path(self, path: FilePath, waiting: list[_Waiting]) -> None:
        """Let the next request for the path look again, unless one does already."""
        if self._lookups.get(path) is waiting:
            del self._lookups[path]

    # responses

    def _reply(self, exchange: Exchange, found: Resource) -> Reply:
        match found:
            case FileResource():
                return self._reply_with_file(exchange, found)
            case Folder():
                query = exchange.query_shown
                location = exchange.path + (b"/" if query is None else b"/?" + query)
                return Reply(301, fields=((b"Location", location),))
            case Listing(page):
                return Reply(200, page, ((b"Content-Type", b"text/html; charset=utf-8"),))
            case Missing(why, broken):
                return exchange.refuse(Fault.FILE_UNREADABLE if broken else Fault.FILE_NOT_FOUND, why=why)

    @staticmethod
    def _reply_with_file(exchange: Exchange, found: FileResource) -> Reply:
        # A filter that changes the content has dropped these headers, as for an upstream.
        accepted = exchange.current_values(_ACCEPT_ENCODING)
        ranges = b"range" not in exchange.request_dropped
        return reply_with_file(exchange.head, found, time(), accepted=accepted, ranges=ranges)


def _exchanges_of(waiting: list[_Waiting]) -> Iterator[Exchange]:
    """Yield the exchanges that still wait. From then on they do not."""
    for each in waiting:
        exchange, each.exchange = each.exchange, None
        if exchange is not None:
            exchange.service = None
            yield exchange


def _fail_all(waiting: list[_Waiting], fault: Fault, why: str) -> None:
    for exchange in _exchanges_of(waiting):
        exchange.fail(fault, why=why)


def _coding_key(head: RequestHead, resource: FileResource) -> bytes:
    """Return the key of ready responses: `Accept-Encoding`, if the file has precompressed siblings."""
    return _ANY if len(resource.variants) == 1 else b", ".join(head.values(_ACCEPT_ENCODING))
