"""Lists of networks from files and URLs, and countries from a database, which change while the gateway runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_processes import samples
from tests.e2e.test_reload import Reloadable, saying
from tests.support import mmdb
from tests.support.gateway import wait_until
from tests.support.own_ports import own_port

FORWARDED = {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"]}


class Publisher(ThreadingHTTPServer):
    """Serves a list with its ETag, and counts what it has answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.status = b"203.0.113.0/24\n", 200
        self.answered: list[int] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/list.txt"


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        content = self.server.content
        tag = f'"{content.hex()}"'
        status = 304 if self.headers.get("If-None-Match") == tag else self.server.status
        self.send_response(status)
        self.send_header("ETag", tag)
        if status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 304:
            self.wfile.write(content)
        self.server.answered.append(status)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as serving:
        yield serving
        serving.shutdown()


def gateway_with(tmp_path: Path, **ip: Any) -> Reloadable:
    config = {"listeners": {"main": FORWARDED}, "filters": {"ip": ip}, "routes": saying("in")}
    return Reloadable(config, tmp_path)


def is_let_in(gateway: Reloadable, client: str) -> bool:
    """Whether all of several new connections, which reach both workers, are answered alike."""
    url = f"http://{gateway.address('main')}/"
    answers = {httpx.get(url, headers={"X-Forwarded-For": client}).status_code for _ in range(8)}
    return answers == {200}


def replace(file: Path, content: str) -> None:
    written = file.with_suffix(".new")
    written.write_text(content)
    os.replace(written, file)


@pytest.mark.landing
def test_a_file_is_taken_as_it_changes_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "deny.txt"
    many = "".join(f"10.{number >> 8}.{number & 255}.0/24 ; SBL{number}\n" for number in range(5000))
    file.write_text(many)
    with gateway_with(tmp_path, deny_lists=[{"file": "deny.txt"}]) as gateway:
        assert not is_let_in(gateway, "10.19.135.7")
        assert not is_let_in(gateway, "::ffff:10.19.135.7")
        assert is_let_in(gateway, "10.19.136.7")
        replace(file, "10.19.136.0/24\n")
        wait_until(lambda: not is_let_in(gateway, "10.19.136.7"), "the new list in all workers")
        assert is_let_in(gateway, "10.19.135.7")
        replace(file, "10.19.135.0/24\nno network\n")
        line = gateway.stderr.wait_for(lambda line: b"deny.txt" in line and b"line 2" in line)
        assert b"previous contents stay active" in line
        assert not is_let_in(gateway, "10.19.136.7")
        assert is_let_in(gateway, "10.19.135.7")


@pytest.mark.landing
def test_a_url_is_fetched_again_and_the_last_good_list_stays(tmp_path: Path, publisher: Publisher) -> None:
    lists = [{"url": publisher.url, "interval": "1s"}]
    with gateway_with(tmp_path, deny_lists=lists) as gateway:
        wait_until(lambda: not is_let_in(gateway, "203.0.113.9"), "the list in all workers")
        wait_until(lambda: 304 in publisher.answered, "a fetch that transfers nothing")
        assert publisher.answered.count(200) == 1
        publisher.content = b"198.51.100.0/24\n"
        wait_until(lambda: is_let_in(gateway, "203.0.113.9"), "the new list in all workers")
        assert not is_let_in(gateway, "198.51.100.1")
        up = f'fastgw_feed_up{{feed="{publisher.url}",used_by="gateway"}}'
        for content, status in ((b"<html>", 200), (b"# nothing\n", 200), (b"gone", 404)):
            publisher.content, publisher.status = content, status
            wait_until(lambda: samples(gateway.ready["status"])[up] == 0, "the failure to be known")
            assert not is_let_in(gateway, "198.51.100.1")
            publisher.content, publisher.status = b"198.51.100.0/24\n", 200
            wait_until(lambda: samples(gateway.ready["status"])[up] == 1, "the list to be fetched again")


def test_a_list_that_was_never_fetched_allows_nobody_and_denies_nobody(tmp_path: Path) -> None:
    nowhere = [{"url": f"http://127.0.0.1:{own_port()}/list.txt"}]
    for name, lets_in in (("allow_lists", False), ("deny_lists", True)):
        folder = tmp_path / name
        folder.mkdir()
        with gateway_with(folder, **{name: nowhere}) as gateway:
            gateway.stderr.wait_for(lambda line: b"the list is empty until then" in line)
            assert is_let_in(gateway, "203.0.113.9") is lets_in


@pytest.mark.landing
def test_a_database_of_countries_is_opened_as_it_is_replaced_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "countries.mmdb"
    mmdb.write(file, {"203.0.113.0/24": mmdb.country("DE"), "198.51.100.0/24": mmdb.country("FR")})
    with gateway_with(tmp_path, countries={"database": file.name, "allow": ["DE"]}) as gateway:
        assert is_let_in(gateway, "203.0.113.9")
        assert not is_let_in(gateway, "198.51.100.9")
        mmdb.write(file, {"203.0.113.0/24": mmdb.country("US"), "198.51.100.0/24": mmdb.country("DE")})
        wait_until(lambda: is_let_in(gateway, "198.51.100.9"), "the new database in all workers")
        assert not is_let_in(gateway, "203.0.113.9")
        replace(file, "no database")
        gateway.stderr.wait_for(lambda line: b"the previous file is still used" in line)
        assert samples(gateway.ready["status"])[f'fastgw_feed_up{{feed="{file}",used_by="gateway"}}'] == 0
        assert is_let_in(gateway, "198.51.100.9")
