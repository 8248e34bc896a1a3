"""Who is let in to the admin API, and on whose behalf a browser may come."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastgw.admin.access import Access, is_local
from fastgw.config.secret import Secret
from fastgw.config.settings import Admin
from fastgw.config.values import Address, parse_address
from tests.support.admin import Served, served

TOKEN = "s3cret-token-✓"
SHOWN = "Authorization: Bearer " + TOKEN.encode().decode("latin-1")
EVERYWHERE = [
    "GET /status",
    "GET /live",
    "GET /routes",
    "GET /consumers",
    "GET /config",
    "GET /metrics",
    "GET /openapi.json",
    "GET /nowhere",
]
CHANGES = ["POST /reload", "POST /config", "POST /rollback", "POST /drain", "PUT /upstreams/users/targets"]


def refused(here: Served, status: int, request: str, *fields: str) -> str:
    """It is, with a problem, and nothing has been done; the head of the answer."""
    told, head, body = here.ask(request, *fields)
    assert (told, json.loads(body)["status"]) == (status, status)
    assert "application/problem+json" in head
    assert here.node.told == []
    return head


class TestHost:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:9901", "10.1.2.3", "localhost."]
    )
    def test_an_address_and_localhost_are_ours(self, host):
        with served() as here:
            assert here.ask("GET /status", f"Host: {host}")[0] == 200

    @pytest.mark.parametrize(
        "host",
        [
            "rebound.example",
            "rebound.example:9901",
            "127.0.0.1.rebound.example",
            "localhost.rebound.example",
            "localhost@rebound.example",
            "127.0.0.1:9901:80",
            "[rebound.example]",
            "",
        ],
    )
    @pytest.mark.parametrize("request_line", ["GET /status", "GET /", "POST /reload", "GET /nowhere"])
    def test_a_name_that_was_made_to_lead_here_is_not(self, host, request_line):
        """DNS rebinding: the page's own name resolves to 127.0.0.1, so the browser takes us for the page's origin."""
        with served() as here:
            refused(here, 403, request_line, f"Host: {host}")

    def test_the_configured_name_is(self):
        with served(Secret(text=TOKEN), named="gw.example.com") as here:
            assert here.ask("GET /status", "Host: GW.example.com:80", SHOWN)[0] == 200
            refused(here, 403, "GET /status", "Host: other.example.com", SHOWN)

    def test_a_request_without_a_host_is_refused(self):
        with served() as here, here.connect() as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")

    def test_two_hosts_are_no_request(self):
        with served() as here:
            assert here.ask("GET /status", "Host: localhost", "Host: rebound.example")[0] == 400

    def test_no_browser_comes_by_a_unix_socket(self, tmp_path):
        with served(path=tmp_path / "admin.sock") as here:
            assert here.ask("GET /status", "Host: whatever")[0] == 200


class TestOrigin:
    @pytest.mark.parametrize("request_line", [*CHANGES, "GET /status", "GET /"])
    @pytest.mark.parametrize(
        "origin", ["http://page.example", "null", "http://localhost:3000", "https://{}", "http://{}.x"]
    )
    def test_pages_of_others_are_not_served(self, request_line, origin):
        with served() as here:
            refused(here, 403, request_line, f"Origin: {origin.format(here.authority)}")

    def test_our_own_page_is(self):
        with served() as here:
            assert here.ask("POST /reload", f"Origin: http://{here.authority}")[0] == 200
            assert here.node.told == ["reload"]

    def test_a_form_of_an_old_browser_that_names_no_origin_carries_no_configuration(self):
        with served() as here:
            for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"):
                refused(here, 415, "POST /config", f"Content-Type: {kind}")

    def test_no_other_origin_is_given_leave(self):
        with served() as here:
            asks = ("Origin: http://page.example", "Access-Control-Request-Method: POST")
            assert "access-control" not in refused(here, 403, "OPTIONS /config", *asks).lower()


class TestToken:
    @pytest.mark.parametrize("request_line", EVERYWHERE + CHANGES)
    def test_everything_needs_it_but_the_page(self, request_line):
        with served(Secret(text=TOKEN)) as here:
            assert 'www-authenticate: Bearer realm="' in refused(here, 401, request_line)

    @pytest.mark.parametrize("request_line", ["GET /", "HEAD /"])
    def test_the_page_holds_nothing_and_asks_for_it(self, request_line):
        with served(Secret(text=TOKEN)) as here:
            assert here.ask(request_line)[0] == 200

    @pytest.mark.parametrize("request_line", ["POST /", "GET //", "GET /.", "GET /;", "OPTIONS /"])
    def test_what_is_only_like_the_page_needs_it(self, request_line):
        with served(Secret(text=TOKEN)) as here:
            refused(here, 401, request_line)

    @pytest.mark.parametrize("path", ["/status", "/live", "/metrics", "/openapi.json"])
    def test_whoever_shows_it_is_let_in(self, path):
        with served(Secret(text=TOKEN)) as here:
            assert here.ask(f"GET {path}", SHOWN)[0] == 200
            assert here.ask(f"GET {path}", SHOWN.replace("Bearer", "bearer"))[0] == 200

    @pytest.mark.parametrize(
        "shown",
        [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cret",
            "Bearer s3cret-token",
            "Basic czNjcmV0",
            "s3cret-token-✓",
            "Bearer \xff",
        ],
    )
    def test_anything_else_is_not_it(self, shown):
        with served(Secret(text=TOKEN)) as here:
            head = refused(here, 401, "GET /status", "Authorization: " + shown.encode().decode("latin-1"))
            assert 'error="invalid_token"' in head

    def test_of_two_only_the_first_counts(self):
        with served(Secret(text=TOKEN)) as here:
            refused(here, 401, "GET /status", "Authorization: Bearer wrong", SHOWN)

    def test_it_is_read_anew_when_its_file_changes(self, tmp_path):
        file = tmp_path / "token"
        file.write_text("first\n")
        with served(Secret(file=str(file))) as here:
            assert here.ask("GET /status", "Authorization: Bearer first")[0] == 200
            (tmp_path / "next").write_text("second\n")
            os.replace(tmp_path / "next", file)
            refused(here, 401, "GET /status", "Authorization: Bearer first")
            assert here.ask("GET /status", "Authorization: Bearer second")[0] == 200

    @pytest.mark.parametrize("content", [None, "", "\n"])
    def test_nobody_is_let_in_while_there_is_none(self, tmp_path, content, capfd):
        file: Path = tmp_path / "token"
        if content is not None:
            file.write_text(content)
        with served(Secret(file=str(file))) as here:
            for shown in ("Bearer ", "Bearer x", "Bearer None"):
                refused(here, 503, "GET /status", f"Authorization: {shown}")
        assert capfd.readouterr().err.count("the token cannot be read") == 1


class TestWhereNothingHasToBeShown:
    @pytest.mark.parametrize(
        "address", ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "unix:/run/fastgw.sock"]
    )
    def test_only_this_machine_comes_there(self, address):
        assert is_local(parse_address(address))
        assert Access(parse_address(address)).anonymous

    @pytest.mark.parametrize(
        "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gw.example.com:1", "localhost.example:1"]
    )
    def test_others_come_there_too_so_something_has(self, address):
        """The configuration is refused as well; here nobody relies on that."""
        assert not Access(parse_address(address)).anonymous

    def test_an_open_address_without_a_token_lets_nobody_in(self):
        with served(bound="0.0.0.0") as here:
            local = Served(Address(host="127.0.0.1", port=here.address.port), here.node)
            refused(local, 401, "GET /status")
            refused(local, 401, "GET /status", "Authorization: Bearer ")

    def test_where_a_token_is_configured_it_is_needed_there_too(self):
        assert not Access.of(Admin(token=Secret(text="x"))).anonymous
        assert Access.of(Admin()).anonymous
