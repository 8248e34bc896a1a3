"""The disk tier of a cache through real gateways: restarts, kills, purges, and a directory that another one uses."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.e2e.test_processes import samples
from tests.support.gateway import Gateway, GatewayFailed, wait_until, write_config
from tests.support.own_ports import own_port
from tests.support.threaded import Threaded

LARGE: Final = 3_000_000
"""Bytes of a body that memory does not take."""
LONGEST: Final = 8_000_000
"""Bytes of a body that sockets do not hold while its client does not read."""
LONG: Final = 60.0


class Origin(BaseHTTPRequestHandler):
    """An origin that counts its requests. Bodies follow from the path and the language."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    asked: Counter[str] = Counter()
    versions = itertools.count(1)

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        name = f"{self.path} {self.headers['Accept-Language']}"
        self.asked[name] += 1
        etag = f'"{self.path}"'
        if self.headers["If-None-Match"] == etag:
            self.asked["304"] += 1
            self.send_response(304)
            body = b""
        else:
            body = body_of(name, LONGEST if "longest" in self.path else LARGE if "large" in self.path else 500)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=1" if "short" in self.path else "max-age=600")
        self.send_header("ETag", etag)
        self.send_header("Surrogate-Key", "tagged" if "tagged" in self.path else "other")
        if "vary" in self.path:
            self.send_header("Vary", "Accept-Language")
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()


def body_of(name: str, size: int) -> bytes:
    pattern = hashlib.sha256(name.encode()).hexdigest().encode()
    return (pattern * (size // len(pattern) + 1))[:size]


class Front:
    """Gateways one after another, with one directory."""

    def __init__(self, origin: str, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        disk = {"path": str(self.cache), "size": "64MiB"}
        self.config: dict[str, Any] = {
            "workers": 2,
            "listeners": {"main": {"address": f"127.0.0.1:{own_port()}"}},  # it is part of the key
            "status": {"address": "127.0.0.1:0"},
            "admin": {"address": "127.0.0.1:0"},
            "caches": {"main": {"memory": "1MiB", "max_object": "8MiB", "disk": disk}},
            "upstreams": {"origin": {"targets": [origin]}},
            "routes": [{"name": "all", "upstream": "origin", "filters": {"cache": {}}}],
        }
        self.number = 0

    def start(self) -> Gateway:
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        return Gateway(self.config, folder)

    @contextmanager
    def killed(self) -> Iterator[Gateway]:
        """Start a gateway, and kill all of its processes at the end."""
        gateway = self.start()
        try:
            yield gateway
        finally:
            gateway.kill()


def ask(gateway: Gateway, path: str, language: str = "en", **headers: str) -> httpx.Response:
    url = f"http://{gateway.address()}{path}"
    fields = {**HOST, "Accept-Language": language, **headers}
    return httpx.get(url, headers=fields, timeout=60.0, trust_env=False)


def hit(gateway: Gateway, path: str, language: str = "en") -> bool:
    """Whether a response is stored. It is checked, and stored afterwards."""
    answer = ask(gateway, path, language)
    assert answer.status_code == 200
    assert answer.content == body_of(f"{path} {language}", LARGE if "large" in path else 500)
    return "fastgw; hit" in answer.headers["Cache-Status"]


def validated(gateway: Gateway, path: str) -> bool:
    """Whether this request has validated a stored response, which is sent whole then."""
    before = Origin.asked["304"]
    hit(gateway, path)
    return Origin.asked["304"] > before


def purge(gateway: Gateway, **body: Any) -> None:
    url = f"http://{gateway.ready['admin']}/cache/purge"
    assert httpx.post(url, json=body, headers=gateway.shown, timeout=60.0, trust_env=False).status_code == 200


def on_disk(gateway: Gateway) -> float:
    return samples(gateway.ready["status"])['fastgw_cache_disk_objects{store="main"}']


HOST: Final = {"Host": "cache.test"}  # each gateway has another port, which is a part of the key
SMALL: Final = [f"/small/{number}" for number in range(6)]


def test_what_was_whole_survives_kill_9_and_what_was_purged_does_not(tmp_path: Path) -> None:
    with Threaded(Origin, None) as origin:
        origin.begin()
        front = Front(origin.origin, tmp_path)
        front.cache.mkdir(mode=0o700)
        paths = [*SMALL, "/large", "/large/tagged", "/tagged", "/prefix/a", "/posted"]
        with front.killed() as gateway:
            assert not any(hit(gateway, path) for path in paths)
            assert not any(hit(gateway, "/vary", language) for language in ("de", "fr"))
            wait_until(lambda: on_disk(gateway) == len(paths) + 3, "all files", LONG)
            with pytest.raises(GatewayFailed, match=r"cache is used by another gateway"), front.start():
                pass

        asked = Origin.asked.total()
        with front.killed() as gateway:
            assert all(hit(gateway, path) for path in paths)
            assert all(hit(gateway, "/vary", language) for language in ("de", "fr"))
            part = ask(gateway, "/large", Range="bytes=2500000-2500099")
            assert part.status_code == 206
            assert part.content == body_of("/large en", LARGE)[2_500_000:2_500_100]
            assert ask(gateway, "/large", **{"If-None-Match": '"/large"'}).status_code == 304
            assert Origin.asked.total() == asked
            assert (
                httpx.head(f"http://{gateway.address()}/new", headers=HOST, trust_env=False).headers["Content-Length"]
                == "3"
            )
            assert httpx.head(f"http://{gateway.address()}/large", headers=HOST, trust_env=False).headers["Age"]
            assert ask(gateway, "/new", **{"Cache-Control": "only-if-cached"}).status_code == 504

            with httpx.Client(
                headers=HOST, trust_env=False
            ) as client:  # hits from a worker's own memory are counted by the 64
                for _ in range(200):
                    client.get(f"http://{gateway.address()}/small/3")
            assert hit(gateway, "/small/1?token=secret") is False
            assert hit(gateway, "/small/1?token=secret")
            url = f"http://{gateway.ready['admin']}/cache?objects=100"
            told = httpx.get(url, headers=gateway.shown, timeout=60.0, trust_env=False).json()
            (store,) = told["stores"]
            assert (store["name"], store["most_bytes"], store["disk"]["path"]) == ("main", 2**20, str(front.cache))
            assert (store["disk"]["is_up"], store["disk"]["errors"]) == (True, 0)
            assert store["disk"]["hits"] >= len(SMALL)
            found = {each["url"]: each for each in told["objects"]}
            assert told["objects"][0] == found["http://cache.test/small/3"]
            assert found["http://cache.test/small/3"]["found"] >= 128
            assert "http://cache.test/small/1?token=***" in found

            # Memory does not take it: the 304 gives its file another head, and the body is sent from there.
            assert not hit(gateway, "/short/large")
            wait_until(lambda: validated(gateway, "/short/large"), "a validation of the stale object", LONG)
            purge(gateway, tags=["tagged"])
            purge(gateway, prefix="http://cache.test/prefix/")
            purge(gateway, url="http://cache.test/small/0")
            journal = front.cache / "purges"
            before = journal.stat().st_size
            httpx.post(f"http://{gateway.address()}/posted", headers=HOST, content=b"x", timeout=60.0, trust_env=False)
            wait_until(lambda: journal.stat().st_size > before, "the invalidation in the journal", LONG)

        with front.start() as gateway:
            purged = {"/large/tagged", "/tagged", "/prefix/a", "/small/0", "/posted"}
            for path in paths:
                assert hit(gateway, path) == (path not in purged), path


def test_a_purge_while_the_directory_is_away_is_not_undone(tmp_path: Path) -> None:
    with Threaded(Origin, None) as origin:
        origin.begin()
        front = Front(origin.origin, tmp_path)
        with front.killed() as gateway:
            assert not hit(gateway, "/small/0")
            wait_until(lambda: on_disk(gateway) == 1, "the file", LONG)
            front.cache.rename(tmp_path / "moved")
            purge(gateway, all=True)
            (tmp_path / "moved").rename(front.cache)
        with front.start() as gateway:
            assert not hit(gateway, "/small/0")


def test_a_purge_after_a_reload_has_left_the_directory_is_not_undone(tmp_path: Path) -> None:
    with Threaded(Origin, None) as origin:
        origin.begin()
        front = Front(origin.origin, tmp_path)
        store, left = front.config["caches"]["main"], front.cache / "left"
        before = store["disk"]
        with front.killed() as gateway:
            assert not hit(gateway, "/small/0")
            wait_until(lambda: on_disk(gateway) == 1, "the file", LONG)
            store["disk"] = {**before, "path": str(tmp_path / "other")}
            write_config({"version": 1, **front.config}, tmp_path / "1")
            gateway.signal(signal.SIGHUP)
            gateway.stderr.wait_for(lambda line: b"reloaded: generation 2" in line)
            wait_until(left.exists, "the mark", LONG)
            purge(gateway, all=True)
        store["disk"] = before
        with front.killed() as gateway:
            assert not left.exists()
            assert not hit(gateway, "/small/0")


@pytest.mark.landing
def test_a_file_that_is_damaged_while_it_is_sent_is_not_sent_whole(tmp_path: Path) -> None:
    """It was whole when it was opened and checked. Its client sees that the response is not complete, and the next
    one gets another response of the upstream."""
    Origin.asked.clear()
    path = "/longest"
    whole = body_of(f"{path} en", LONGEST)
    with Threaded(Origin, None) as origin:
        origin.begin()
        front = Front(origin.origin, tmp_path)
        front.cache.mkdir(mode=0o700)
        with front.killed() as gateway:
            _check_damage_while_sending(gateway, front.cache, path, whole)


def _check_damage_while_sending(gateway: Gateway, cache: Path, path: str, whole: bytes) -> None:
    assert ask(gateway, path).content == whole
    wait_until(lambda: on_disk(gateway) == 1.0, "the file", LONG)
    assert ask(gateway, path).headers["Cache-Status"].startswith("fastgw; hit")
    host, _, port = gateway.address().rpartition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LONG)
        client.connect((host, int(port)))
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: cache.test\r\nAccept-Language: en\r\nConnection: close\r\n\r\n".encode()
        )
        answer = client.recv(1 << 16)
        (file,) = (each for each in cache.glob("objects-*/*/*") if each.stat().st_size > LONGEST)
        with file.open("r+b") as changed:
            changed.seek(-LONGEST // 8, os.SEEK_END)
            changed.write(b"damaged")
        with suppress(ConnectionResetError):
            while piece := client.recv(1 << 20):
                answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"fastgw; hit" in head
    assert len(body) < LONGEST
    assert ask(gateway, path).content == whole
    assert Origin.asked[f"{path} en"] == 2
