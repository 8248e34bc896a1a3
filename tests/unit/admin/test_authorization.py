"""Who is let in to the admin API, and on whose behalf a browser may come."""

from __future__ import annotations

import hmac
import json
import os
import time
from pathlib import Path

import pytest

from fastgw.admin import browser_sessions
from fastgw.admin.authorization import Access, Denials
from fastgw.admin.browser_sessions import session_key
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Admin
from fastgw.config.settings.secrets import Secret
from fastgw.sync.revocations import MOST_ENDED_SESSIONS, mark_of, record_of
from tests.support.admin import MADE, Served, served

KEY = session_key(b"run", "token")
TOKEN = "s3cret-token-✓"
SHOWN = "Authorization: Bearer " + TOKEN.encode().decode("latin-1")
TOKEN_SETTING = Secret(text=TOKEN)
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
    def test_a_unix_socket_of_its_owner_alone(self, tmp_path):
        with served(path=tmp_path / "admin.sock") as here:
            assert here.ask("POST /reload")[0] == 200

    @pytest.mark.parametrize("mode", [0o660, 0o606, 0o611, 0o700 | 0o020, 0o666])
    def test_one_that_others_may_connect_to_asks_for_the_token(self, tmp_path, mode):
        """Also where the mode is changed while it is served: it is looked at each time."""
        with served(path=tmp_path / "admin.sock") as here:
            (tmp_path / "admin.sock").chmod(mode)
            refused(here, 401, "POST /reload")
            assert here.ask("GET /status", f"Authorization: Bearer {MADE}")[0] == 200
            (tmp_path / "admin.sock").chmod(0o600)
            assert here.ask("GET /status")[0] == 200

    def test_one_that_is_gone_asks_for_it_too(self, tmp_path):
        with served(path=tmp_path / "admin.sock") as here, here.connect() as connection:
            (tmp_path / "admin.sock").unlink()
            connection.sendall(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")

    def test_where_a_token_is_configured_it_is_needed_there_too(self, tmp_path):
        with served(Secret(text=TOKEN), path=tmp_path / "admin.sock") as here:
            (tmp_path / "admin.sock").chmod(0o600)
            refused(here, 401, "GET /status")

    @pytest.mark.parametrize("bound", ["127.0.0.1", "::1"])
    def test_never_over_tcp(self, bound):
        access = Access.of(Admin(address=Address(host=bound, port=1)), "made", b"run")
        assert not access.anonymous
        assert access.token_in("Bearer made") is access.token
        assert access.token_in("Bearer ") is None

    def test_what_is_configured_stands_in_place_of_what_was_made(self):
        access = Access.of(Admin(token=Secret(text="x")), "made", b"run")
        assert access.token_in("Bearer x") is access.token
        assert access.token_in("Bearer made") is None


class TestSession:
    """What a browser has in place of the token."""

    def begin(self, here: Served) -> tuple[str, str]:
        """The cookie, as it is to be sent, and what goes with a change."""
        status, head, body = here.ask("POST /session", f"Origin: http://{here.authority}")
        assert status == 200
        (field,) = (line for line in head.splitlines() if line.lower().startswith("set-cookie:"))
        cookie, *attributes = field.partition(":")[2].strip().split("; ")
        assert {"Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=604800"} == {*attributes}
        assert cookie.startswith(f"fastgw-admin-{here.address.port}=")
        assert MADE not in head + body.decode()
        return f"Cookie: {cookie}", f"X-CSRF-Token: {json.loads(body)['csrf']}"

    def test_it_is_begun_by_the_token_alone(self):
        with served() as here:
            cookie, csrf = self.begin(here)
            refused(here, 401, "POST /session", "Cookie: x=y")
            assert here.ask("GET /status", cookie)[0] == 200
            assert here.ask("POST /reload", cookie, csrf)[0] == 200

    def test_a_cookie_alone_changes_nothing(self):
        """It is sent to whoever listens at another port of the host."""
        with served() as here:
            cookie, csrf = self.begin(here)
            for wrong in ("X-CSRF-Token: ", csrf[:-1], f"X-CSRF-Token: {cookie.rpartition('.')[2]}", "X: y"):
                for line in (*CHANGES, "DELETE /session", "POST /session"):
                    refused(here, 403, line, cookie, wrong)

    def test_what_is_not_the_cookie_is_refused(self):
        with served() as here:
            cookie, csrf = self.begin(here)
            name, _, value = cookie.removeprefix("Cookie: ").partition("=")
            known, begun, date, signature = value.split(".")
            for wrong in (
                f"{known}.{begun}.{int(date) + 1}.{signature}",
                f"{known}.{int(begun) + 1}.{date}.{signature}",
                f"{'0' * 32}.{begun}.{date}.{signature}",
                "",
                ".",
                date,
                f"{known}.{begun}.{date}",
                f"{known}.{begun}.{date}.",
                f"{known}.x.{date}.{signature}",
                f"{known}.{begun}.-1.{signature}",
                f"{date}.{signature}",
                f"{'9' * 30}.x",
                "\xb2.x",
            ):
                refused(here, 401, "GET /status", f"Cookie: {name}={wrong}", csrf)
            refused(here, 401, "GET /status", f"Cookie: {name}0={value}", csrf)
            refused(here, 401, "GET /status", f"{cookie}; {name}={value}", csrf)  # of two nobody knows which is ours
            assert here.ask("GET /status", f"Cookie: a=b; {name}={value}; c=d")[0] == 200

    def test_it_ends_with_its_time_and_with_the_token(self):
        value, told = browser_sessions.create_session(KEY, 1000.0)
        assert browser_sessions.read_cookie(KEY, value, told.expires_date - 1) is not None
        assert browser_sessions.read_cookie(KEY, value, told.expires_date) is None
        assert browser_sessions.read_cookie(session_key(b"run", "another"), value, 1000.0) is None
        assert browser_sessions.read_cookie(session_key(b"another run", "token"), value, 1000.0) is None

    def test_one_of_an_earlier_version_has_ended(self):
        signature = hmac.digest(MADE.encode(), b"fastgw admin session 99999999999", "sha256").hex()
        with served() as here:
            name = f"fastgw-admin-{here.address.port}"
            refused(here, 401, "GET /status", f"Cookie: {name}=99999999999.{signature}")

    def test_renewals_keep_its_identity_and_its_longest_time(self):
        value, first = browser_sessions.create_session(KEY, 1000.0)
        other, _ = browser_sessions.create_session(KEY, 1000.0)
        assert other != value  # each has an identity of its own
        end, now, csrf = 1000.0 + browser_sessions.LONGEST_S, 1000.0, first.csrf
        for _ in range(9):
            now = min(now + browser_sessions.LIFETIME_S, end) - 1
            session = browser_sessions.read_cookie(KEY, value, now)
            assert session is not None
            value, renewed = browser_sessions.create_session(KEY, now, session)
            assert renewed.csrf == csrf  # another tab of the browser has it too
        assert renewed.expires_date == end
        assert browser_sessions.read_cookie(KEY, value, end) is None

    def test_signing_out_takes_the_cookie_back(self):
        with served() as here:
            cookie, csrf = self.begin(here)
            status, head, _ = here.ask("DELETE /session", cookie, csrf)
            assert (status, f"fastgw-admin-{here.address.port}=; Path=/; Max-Age=0;" in head) == (200, True)

    def test_signing_out_ends_the_session_and_its_renewals_at_the_server_and_no_other(self):
        with served() as here:
            cookie, csrf = self.begin(here)
            other = self.begin(here)
            _, head, _ = here.ask("POST /session", cookie, csrf)
            renewed = "Cookie: " + head.partition("set-cookie: ")[2].partition(";")[0]
            assert here.ask("GET /status", renewed, csrf)[0] == 200
            assert here.ask("DELETE /session", cookie, csrf)[0] == 200
            here.node.told.clear()
            for shown in (cookie, renewed):
                for request in ("GET /status", "GET /session", "POST /session", "DELETE /session", "POST /reload"):
                    refused(here, 401, request, shown, csrf)
            assert here.ask("GET /status", *other)[0] == 200
            assert here.ask("POST /session", *other)[0] == 200

    def test_one_of_an_earlier_run_of_the_gateway_has_ended(self):
        """The list of ended sessions is not kept longer than the run."""
        with served(TOKEN_SETTING) as here:
            _, head, _ = here.ask("POST /session", SHOWN)
        value = head.partition("set-cookie: ")[2].partition(";")[0].partition("=")[2]
        with served(TOKEN_SETTING) as here:
            refused(here, 401, "GET /status", f"Cookie: fastgw-admin-{here.address.port}={value}")

    def test_readers_that_sign_out_leave_room_for_the_others_and_the_revoked_tokens_alone(self):
        reader = Secret(text="reader")
        with served(TOKEN_SETTING, read_only=reader) as here:

            def sign_out(shown: str) -> tuple[int, int]:
                """Statuses of the end, and of the next request with the cookie."""
                _, head, body = here.ask("POST /session", shown)
                cookie = "Cookie: " + head.partition("set-cookie: ")[2].partition(";")[0]
                status, head, _ = here.ask("DELETE /session", cookie, f"X-CSRF-Token: {json.loads(body)['csrf']}")
                assert ("set-cookie" in head) == (status == 200)
                return status, here.ask("GET /status", cookie)[0]

            assert sign_out("Authorization: Bearer reader") == (200, 401)
            self.fill(here, browser_sessions.ENDED_BY_READERS)
            assert sign_out("Authorization: Bearer reader") == (503, 200)
            assert sign_out(SHOWN) == (200, 401)
            self.fill(here, MOST_ENDED_SESSIONS)
            assert sign_out(SHOWN) == (503, 200)
            assert here.node.told == []  # no token was revoked, and none of the list displaced
            assert here.node.ended_sessions.dropped == 0

    def fill(self, here: Served, number: int) -> None:
        ended, later = here.node.ended_sessions, time.time() + 60
        for each in range(number - len(ended)):
            ended.add(record_of(mark_of("test", f"{number} {each}"), later), time.time())

    def test_over_tls_it_is_sent_over_tls_alone(self):
        assert browser_sessions.set_cookie("a", "b", tls=True).endswith("; HttpOnly; SameSite=Strict; Secure")
        assert browser_sessions.cookie_name("gw.example", tls=True) == "fastgw-admin-443"
        assert browser_sessions.cookie_name("[::1]", tls=False) == "fastgw-admin-80"

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "sameorigin", ""])
    def test_what_a_browser_asks_for_another_page_is_refused(self, site):
        """Also where it sends the cookie: a page of another port is of the same site."""
        with served() as here:
            cookie, csrf = self.begin(here)
            refused(here, 403, "GET /status", cookie, csrf, f"Sec-Fetch-Site: {site}")
            for own in ("same-origin", "none"):
                assert here.ask("GET /status", cookie, f"Sec-Fetch-Site: {own}")[0] == 200


def test_denials_are_recorded_up_to_a_number_per_minute_and_then_counted() -> None:
    denials = Denials()
    told = [denials.count(float(second)) for second in range(Denials.PER_MINUTE + 5)]
    assert told == [{}] * Denials.PER_MINUTE + [None] * 5
    assert denials.count(60.0) == {"others_before": "5"}
    assert denials.count(61.0) == {}


class TestReadOnly:
    LOOKS = "Authorization: Bearer may-look"

    def test_the_second_token_may_look_and_change_nothing(self):
        with served(Secret(text=TOKEN), read_only=Secret(text="may-look")) as here:
            for request in EVERYWHERE[:-1]:
                assert here.ask(request, self.LOOKS)[0] == 200
            records = "GET /recordings/1", "GET /recordings/%31", "DELETE /recordings/1"
            assert here.ask("HEAD /recordings/1", self.LOOKS)[0] == 403
            for request in (*CHANGES, *records, "POST /tap", "POST /quotas/reset", "POST /nowhere"):
                refused(here, 403, request, self.LOOKS)
            assert here.ask("POST /reload", SHOWN)[0] == 200
            refused_later = here.ask("GET /status", "Authorization: Bearer may-loo")
            assert refused_later[0] == 401

    def test_a_session_of_it_changes_nothing_either(self):
        with served(Secret(text=TOKEN), read_only=Secret(text="may-look")) as here:
            status, head, body = here.ask("POST /session", self.LOOKS)
            assert status == 200
            cookie = head.lower().partition("set-cookie: ")[2].partition(";")[0]
            shown = f"Cookie: {cookie}", f"X-CSRF-Token: {json.loads(body)['csrf']}"
            assert here.ask("GET /status", *shown)[0] == 200
            refused(here, 403, "POST /reload", *shown)
            refused(here, 403, "GET /recordings/1", *shown)
            status, head, body = here.ask("POST /session", *shown)  # one that is renewed is no other
            again = head.lower().partition("set-cookie: ")[2].partition(";")[0]
            refused(here, 403, "POST /reload", f"Cookie: {again}", f"X-CSRF-Token: {json.loads(body)['csrf']}")
