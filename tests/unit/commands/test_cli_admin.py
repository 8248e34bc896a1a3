"""`fastgw reload`, `drain` and `status`: what they ask, print and end with."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner, Result

from fastgw.admin import status_tables
from fastgw.admin.client import AdminClient, Unreachable, parse_admin_address, parse_debugged_request, send_debugged
from fastgw.admin.node_interface import Status
from fastgw.cli import app
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import ClientAuth, ServerCertificate, ServerTls
from fastgw.config.settings.secrets import Secret
from fastgw.downstream.tls.contexts import server_context
from tests.support.admin import BUSY, FAILED, MADE, REJECTED, Served, served
from tests.support.certificates import Certificates

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
COMMANDS = ["reload", "drain", "status"]


def run(*arguments: str, **environment: str | None) -> Result:
    """A command to its end: no traceback, whatever happens."""
    kept = {"FASTGW_ADMIN_TOKEN": MADE, "COLUMNS": None, **environment}
    ended = CliRunner().invoke(app, arguments, env=kept, prog_name="fastgw")
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


@pytest.fixture
def here() -> Iterator[Served]:
    with served() as here:
        yield here


def place(here: Served) -> str:
    return f"--admin={here.authority}"


class TestReload:
    def test_it_says_what_became_of_it(self, here):
        ended = run("reload", place(here))
        assert (ended.stdout, ended.stderr, ended.exit_code) == ("reloaded: generation 2 on 4/4 workers\n", "", 0)
        assert here.node.told == ["reload"]

    def test_every_problem_is_a_line(self, here):
        here.node.outcome = REJECTED
        ended = run("reload", place(here))
        assert ended.stderr.splitlines() == [
            'gw.yaml:2:20: routes[0].upstrem: unknown key; did you mean "upstream"?',
            "fastgw: rejected: nothing has changed",
        ]
        assert (ended.stdout, ended.exit_code) == ("", 1)

    @pytest.mark.parametrize("outcome", [BUSY, FAILED], ids=["busy", "failed"])
    def test_what_was_not_done_is_told_in_a_line(self, here, outcome):
        here.node.outcome = outcome
        ended = run("reload", place(here))
        assert (ended.stdout, ended.stderr, ended.exit_code) == ("", f"fastgw: {outcome.summary}\n", 1)

    @pytest.mark.parametrize("ok", [True, False])
    def test_as_json(self, here, ok):
        if not ok:
            here.node.outcome = REJECTED
        ended = run("reload", place(here), "--format", "json")
        assert json.loads(ended.stdout) == json.loads(msgspec.json.encode(here.node.outcome))
        assert (ended.stderr, ended.exit_code) == ("", 0 if ok else 1)


class TestDrain:
    def test_it_returns_when_told(self, here):
        ended = run("drain", place(here))
        assert (ended.stdout, ended.exit_code) == (
            "draining: the gateway stops when all requests in flight have finished\n",
            0,
        )
        assert here.node.told == ["drain"]
        assert json.loads(run("drain", place(here), "--format", "json").stdout) == {"state": "draining"}


class TestStatus:
    def test_as_json_it_is_what_the_api_says(self, here):
        """Status, upstreams and routes as one object."""
        told = json.loads(run("status", place(here), "--format", "json").stdout)
        parts = [json.loads(here.ask(f"GET {path}")[2]) for path in ("/status", "/upstreams", "/routes")]
        assert told == parts[0] | parts[1] | parts[2]

    def test_for_people_it_is_tables_plain_where_there_is_no_terminal(self, here):
        ended = run("status", place(here))
        assert ended.exit_code == 0
        assert "\x1b" not in ended.stdout
        said = [line.split() for line in ended.stdout.splitlines() if line.strip()]
        assert said[0] == ["fastgw", "0.1.0", "serving,", "generation", "1,", "up", "1", "d", "2", "h,", "pid", "4320"]
        assert said[1] == ["17", "connections,", "1,234,567", "requests"]
        assert said[2] == ["/etc/gw.yaml", "(abababababab)"]
        worker = "0 ready 4321 1 1 d 2 h 17 1,234,567 34.3 MiB 12.5 s 1.2 ms"
        assert worker.split() in said
        assert ["users", "http://u1:9001", "healthy", "0.0/s", "3", "2", "5", "0"] in said
        assert ["user", "users", "9", "0.0/s", "2.0", "ms"] in said
        assert ["reloads:", "1", "ok,", "0", "failed"] in said
        assert said[-1][2:] == ["start", "started:", "generation", "1", "on", "1/1", "workers"]

    def test_a_worker_fits_into_a_line_of_80_columns(self, here):
        status = here.node.status()
        (line,) = [line for line in shown(status, status, 80).splitlines() if "4321" in line]
        assert line.split()[:4] == ["0", "ready", "4321", "1"]
        assert line.rstrip().endswith("1.2 ms")

    def test_a_long_name_is_not_cut(self, here):
        (upstream,) = here.node.upstreams_known
        here.node.upstreams_known = [msgspec.structs.replace(upstream, name="u" * 300)]
        assert re.sub(r"\s", "", run("status", place(here)).stdout).count("u") >= 300

    def test_watching_needs_a_terminal_and_people(self, here):
        for more in ((), ("--format", "json")):
            ended = run("status", place(here), "--watch", *more)
            assert ended.exit_code == 2
            assert "needs a terminal" in ended.stderr

    def test_a_rate_is_told_from_two_looks_at_the_same_gateway(self, here):
        before = here.node.status()
        later = msgspec.structs.replace(before, uptime_s=before.uptime_s + 2, requests=before.requests + 3000)
        assert "(1,500/s)" in shown(later, before)
        assert "/s)" not in shown(before, before)
        assert "/s)" not in shown(msgspec.structs.replace(later, started_date=1.0), before)

    def test_watching_goes_on_while_the_gateway_is_away(self, here, monkeypatch, capsys):
        looks = []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            here.node.broken = ValueError() if len(looks) == 1 else None
            if len(looks) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(status_tables, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
        monkeypatch.setattr(status_tables.signal, "signal", lambda number, action: None)
        status_tables.watch(AdminClient(parse_admin_address(here.authority), here.token))
        assert looks == [1.0] * 3


def shown(status: Status, before: Status, width: int = 120) -> str:
    console = status_tables.Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(status_tables.overview(status, status_tables.Upstreams([]), status_tables.Routes([]), before))
    return capture.get()


class TestToken:
    def test_it_comes_from_a_file_or_from_the_environment(self, tmp_path):
        file = tmp_path / "token"
        file.write_text("s3cret\n")
        with served(Secret(text="s3cret")) as here:
            assert run("status", place(here), "--token-file", str(file)).exit_code == 0
            assert run("status", place(here), FASTGW_ADMIN_TOKEN="s3cret").exit_code == 0
            assert run("status", place(here), "--token-file", str(file), FASTGW_ADMIN_TOKEN="wrong").exit_code == 0

    @pytest.mark.parametrize("command", COMMANDS)
    def test_without_it_the_hint_says_how_to_give_it(self, command):
        with served(Secret(text="s3cret")) as here:
            ended = run(command, place(here), FASTGW_ADMIN_TOKEN=None)
            told = f"fastgw: {here.authority}: A token is required: Authorization: Bearer …"
            assert ended.stderr == f"{told}; give --token-file FILE or set FASTGW_ADMIN_TOKEN\n"
            assert (ended.stdout, ended.exit_code) == ("", 1)
            assert "The token is wrong" in run(command, place(here), FASTGW_ADMIN_TOKEN="wrong").stderr
            assert here.node.told == []

    def test_a_file_that_holds_none_is_told(self, here, tmp_path):
        (tmp_path / "empty").write_text("")
        for name in ("empty", "missing"):
            ended = run("status", place(here), "--token-file", str(tmp_path / name))
            assert ended.exit_code == 1
            assert ended.stderr.startswith(f"fastgw: {tmp_path / name} ")

    @pytest.mark.parametrize("command", [("token", "--header"), ("status",)])
    def test_one_that_would_be_several_headers_is_refused(self, here, tmp_path, command):
        (tmp_path / "two").write_text("s3cret\nX-A: 1\n")
        ended = run(command[0], place(here), *command[1:], "--token-file", str(tmp_path / "two"))
        why = "is not a valid token: it contains a control character"
        assert (ended.stdout, ended.exit_code) == ("", 1)
        assert ended.stderr == f"fastgw: {tmp_path / 'two'} {why}\n"
        ended = run(*command, place(here), FASTGW_ADMIN_TOKEN="s3cret\rX-A: 1")
        assert (ended.stderr, ended.exit_code) == (f"fastgw: FASTGW_ADMIN_TOKEN {why}\n", 1)
        assert run(*command, place(here), FASTGW_ADMIN_TOKEN=f"{MADE}\n").exit_code == 0

    def test_one_of_the_configuration_is_not_printed_and_its_place_is_named(self):
        with served(Secret(text="s3cret")) as here:
            ended = run("token", place(here), FASTGW_ADMIN_TOKEN=None)
        where = "in the gateway's configuration (`admin.token`), or in a file that cannot be read"
        assert ended.stderr == f"fastgw: the token is {where}; give --token-file FILE or set FASTGW_ADMIN_TOKEN\n"
        assert (ended.stdout, ended.exit_code) == ("", 1)

    def test_a_gateway_that_requires_none_is_named_as_such(self, tmp_path):
        with served(path=tmp_path / "admin.sock"):
            ended = run("token", "--admin", f"unix:{tmp_path}/admin.sock", FASTGW_ADMIN_TOKEN=None)
        assert (ended.stdout, ended.stderr) == ("", "fastgw: the gateway requires no token\n")
        assert ended.exit_code == 1


class TestPlaces:
    def test_a_unix_socket(self, tmp_path):
        with served(path=tmp_path / "admin.sock") as here:
            assert run("status", "--admin", f"unix:{tmp_path}/admin.sock").exit_code == 0
            assert run("reload", "--admin", here.authority).exit_code == 0

    def test_https_with_a_certificate_that_is_trusted(self, tmp_path):
        authority = Certificates(tmp_path)
        certificate, key = authority.issue("localhost")
        tls = server_context(ServerTls(certificates=(ServerCertificate(certificate=certificate, key=key),)))
        with served(tls=tls) as here:
            where = f"https://localhost:{here.address.port}"
            assert run("status", "--admin", where, SSL_CERT_FILE=authority.ca).exit_code == 0
            ended = run("status", "--admin", where)
            assert ended.exit_code == 3
            assert "its certificate is not trusted" in ended.stderr
            assert ended.stderr.endswith("; set SSL_CERT_FILE=FILE to the CA certificates to trust\n")

    def test_plain_http_where_tls_is_spoken(self, tmp_path):
        certificate, key = Certificates(tmp_path).issue("localhost")
        tls = server_context(ServerTls(certificates=(ServerCertificate(certificate=certificate, key=key),)))
        with served(tls=tls) as here:
            ended = run("status", "--admin", f"localhost:{here.address.port}")
        assert ended.exit_code == 3
        assert ended.stderr.endswith(f" try --admin https://localhost:{here.address.port} if it has TLS\n")

    def test_a_client_certificate_is_shown(self, tmp_path):
        authority = Certificates(tmp_path)
        certificate, key = authority.issue("localhost")
        shown = tmp_path / "client.pem"
        shown.write_bytes(b"".join(Path(file).read_bytes() for file in authority.issue("operator.example")))
        pairs = (ServerCertificate(certificate=certificate, key=key),)
        tls = server_context(ServerTls(certificates=pairs, client_auth=ClientAuth(ca=authority.ca)))
        with served(tls=tls) as here:

            def reload(*more):
                where = f"https://localhost:{here.address.port}"
                return run("reload", "--admin", where, *more, SSL_CERT_FILE=authority.ca)

            assert reload("--certificate", str(shown)).exit_code == 0
            assert reload().exit_code == 3
            for wrong, why in (
                (certificate, "does not contain a certificate with its"),
                ("nowhere.pem", "No such file"),
            ):
                ended = reload("--certificate", wrong)
                assert ended.exit_code == 1
                assert why in ended.stderr
            ended = run("reload", "--admin", here.authority, "--certificate", str(shown))
            assert ended.exit_code == 2

    @pytest.mark.parametrize(
        "text",
        [
            "nowhere",
            "127.0.0.1",
            "127.0.0.1:0",
            "unix:relative",
            "ftp://a:1",
            "https://",
            "https://a:b",
            "https://a/path",
            "",
        ],
    )
    @pytest.mark.parametrize("command", COMMANDS)
    def test_what_is_none_is_a_matter_of_usage(self, command, text):
        ended = run(command, "--admin", text)
        assert (ended.stdout, ended.exit_code) == ("", 2)
        assert "--admin" in ended.stderr
        assert "expected host:port, unix:/path or https://host:port" in ended.stderr

    @pytest.mark.parametrize(
        ("text", "address", "tls"),
        [
            ("127.0.0.1:9901", Address(host="127.0.0.1", port=9901), False),
            ("[::1]:9901", Address(host="::1", port=9901), False),
            ("unix:/run/a.sock", Address(path="/run/a.sock"), False),
            ("https://gw.example", Address(host="gw.example", port=443), True),
            ("https://[::1]:9901/", Address(host="::1", port=9901), True),
            ("http://gw.example", Address(host="gw.example", port=80), False),
        ],
    )
    def test_how_they_are_written(self, text, address, tls):
        found = parse_admin_address(text)
        assert (found.address, found.tls) == (address, tls)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["debug", "--for", "2h"], "--for: 2h is not above 0 and at most 1h"),
        (["tap", "--body", "99GiB"], "--body: 99GiB is more than 1MiB"),
    ],
)
def test_a_value_that_is_out_of_range_is_refused_by_the_name_of_its_option(arguments, said):
    ended = run(*arguments)
    assert (ended.exit_code, ended.stderr) == (2, f"fastgw: {said}\n")


@pytest.mark.parametrize("share", ["2", "0", "-1", "nan"])
@pytest.mark.parametrize(
    ("option", "arguments"),
    [("--sample", ["tap"]), ("--ratio", ["record", "--requests", "1", "--out", "o", "--key-file", "k"])],
)
def test_a_share_that_is_none_is_a_matter_of_usage(tmp_path, monkeypatch, option, arguments, share):
    monkeypatch.chdir(tmp_path)
    ended = run(*arguments, option, share, "--admin", f"unix:{tmp_path}/none.sock")
    assert ended.exit_code == 2
    assert f"Invalid value for '{option}': {share} is not above 0 and at most 1" in ended.stderr
    assert list(tmp_path.iterdir()) == []


class TestNobody:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_nothing_listens_there(self, command):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{bound.getsockname()[1]}"
            ended = run(command, "--admin", where)
        hint = "start it, or give the address of its admin API by --admin ADDR"
        told = f"fastgw: no gateway answers at {where}: connection refused; {hint}\n"
        assert (ended.stdout, ended.stderr, ended.exit_code) == ("", told, 3)

    @pytest.mark.parametrize("command", ["status", "token"])
    def test_no_such_socket(self, tmp_path, command):
        ended = run(command, "--admin", f"unix:{tmp_path}/none.sock", FASTGW_ADMIN_TOKEN=None)
        assert (
            "no such file or directory; start it, or give the address of its admin API by --admin ADDR" in ended.stderr
        )
        assert ended.exit_code == 3

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (b"", "ended the connection without a response; see the gateway's log, or try --admin https://"),
            (b"220 mail.example ESMTP\r\n", "it does not speak HTTP"),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "it answers 404"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "it answers 200"),
            (JSON + b"Content-Length: 2\r\n\r\n{}", "its response is invalid"),
            (JSON + b"Content-Length: 9\r\n\r\n{}", "has ended the connection; see its log"),
        ],
    )
    def test_what_answers_is_something_else(self, answer, said):
        with speaking(answer) as where:
            ended = run("status", "--admin", where)
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert (ended.stdout, ended.exit_code) == ("", 3)

    def test_a_unix_socket_that_ends_the_connection_is_no_wrong_address(self, tmp_path):
        """As when control ends during a change: the address is right, and never has TLS."""
        path = f"{tmp_path}/admin.sock"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()

            def converse() -> None:
                with listening.accept()[0] as connection:
                    connection.recv(65536)

            thread = threading.Thread(target=converse)
            thread.start()
            ended = run("reload", "--admin", f"unix:{path}")
            thread.join()
        told = f"fastgw: unix:{path} ended the connection without a response; see the gateway's log\n"
        assert (ended.stderr, ended.exit_code) == (told, 3)


class TestTap:
    @pytest.mark.parametrize(
        "end",
        [b"", b'40\r\n{"a": ', b'6\r\n{"a": \r\n', b"0\r\n\r\n"],
        ids=["cut", "cut_in_chunk", "cut_in_line", "ended"],
    )
    def test_a_tap_that_the_gateway_ends_is_a_failure(self, end):
        """The death of control cuts it, an upgrade may end it properly: requests that follow are not shown."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        with speaking(head + b"1\r\n\n\r\n" + b"3\r\n{}\n\r\n" + end) as where:
            ended = run("tap", "--admin", where, "--format", "json")
        why = f"the gateway at {where} has ended the connection; see its log"
        assert ended.stderr == f"fastgw: the tap has ended early: {why}\n"
        assert (ended.stdout, ended.exit_code) == ("{}\n", 1)

    def test_lines_of_another_server_are_no_tap(self):
        with speaking(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nIt works\n") as where:
            ended = run("tap", "--admin", where)
        assert ended.stderr == (
            f"fastgw: {where} is not the admin API of fastgw: it answers with text/html; "
            "give the address of its admin API by --admin ADDR\n"
        )
        assert (ended.stdout, ended.exit_code) == ("", 3)

    def test_a_tap_with_as_many_requests_as_wanted_has_not_ended_early(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        with speaking(head + b"6\r\n{}\n{}\n\r\n") as where:
            ended = run("tap", "--admin", where, "--format", "json", "--requests", "2")
        assert (ended.stdout, ended.stderr, ended.exit_code) == ("{}\n{}\n", "", 0)


@contextlib.contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """Something that answers its first client with these bytes, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def converse() -> None:
            connection = listening.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=converse)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--name", "\udcff"),
        ("run", "--access-log", "\udcff"),
        ("run", "--listen", "\udcff"),
        ("run", "--status", "\udcff"),
        ("run", "--to", "\udcff"),
        ("analytics", "--route", "\udcff"),
        ("drain", "--name", "\udcff"),
        ("kyma-services", "none", "--namespace", "\udcff"),
        ("record", "--requests", "1", "--out", "\udcfe", "--key-file", "\udcfe", "--redact", "a", "--redact", "\udcff"),
        ("stories", "--route", "\udcff"),
        ("tap", "--status", "\udcff"),
        ("audit", "verify", "none", "--expect", "\udcff"),
    ],
    ids=lambda arguments: " ".join(arguments[:3]).encode("ascii", "replace").decode(),
)
def test_an_option_that_is_not_utf8_is_refused(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert (ended.stderr, ended.exit_code) == (f'fastgw: {arguments[-2]}: "\\udcff" is not UTF-8\n', 2)


def test_an_argument_that_is_not_utf8_is_refused(here: Served) -> None:
    ended = run("stories", "\udcff", place(here))
    assert (ended.stderr, ended.exit_code) == ('fastgw: "\\udcff" is not UTF-8\n', 2)


def test_a_debugged_request_is_encoded() -> None:
    request = parse_debugged_request("http://a.test/ü b%20c?q=é#f", "GET", ["X: ☃", "Y: a\udcff"])
    assert (request.host, request.port, request.tls) == ("a.test", 80, False)
    assert request.target == "/%C3%BC%20b%20c?q=%C3%A9"
    assert request.fields == {"X": "☃".encode(), "Y": b"a\xff"}


def test_a_debugged_request_over_tls_to_a_port_without_it_is_explained() -> None:
    with speaking(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as where:
        request = parse_debugged_request(f"https://{where}/users", "GET", ())
        with pytest.raises(Unreachable, match=f"^https://{where}/users: it does not speak TLS$"):
            send_debugged(request, "token")


@pytest.mark.parametrize(
    ("url", "method", "header", "error"),
    [
        ("http://a b/", "GET", "X: a", '"http://a b/" is not a URL; expected http://host:port/path'),
        ("http://[::1", "GET", "X: a", '"http://[::1" is not a URL; expected http://host:port/path'),
        ("http://a:x/", "GET", "X: a", '"http://a:x/" is not a URL; expected http://host:port/path'),
        ("http://a..b/", "GET", "X: a", '"http://a..b/" is not a URL; expected http://host:port/path'),
        ("http://a/", "GET /x", "X: a", '"GET /x" is not a method; expected one such as GET'),
        ("http://a/", "GET", "X Y: a", '"X Y" is not the name of a header'),
        ("http://a/", "GET", "X", "\"X\" is not a header; expected 'Name: value'"),
        ("http://a/", "GET", "X-Api-Key=s3cret", "\"X-Api-Key\" is not a header; expected 'Name: value'"),
        ("http://a/", "GET", "X-Api-Key\r\ns3cret", "\"X-Api-Key\" is not a header; expected 'Name: value'"),
        ("http://a/", "GET", "X-Api-Key=s3cret:b", '"X-Api-Key" is not the name of a header'),
        ("http://a/", "GET", "X-Api-Key\ns3cret: b", '"X-Api-Key" is not the name of a header'),
        ("http://a/", "GET", "X: s\nY: b", 'header "X" contains a line break or another control character'),
    ],
)
def test_an_invalid_debugged_request_is_refused_before_a_token_is_made(
    here: Served, url: str, method: str, header: str, error: str
) -> None:
    ended = run("debug", url, "-X", method, "-H", header, place(here))
    assert (ended.stderr, ended.exit_code) == (f"fastgw: {error}\n", 2)
    assert here.node.told == []
