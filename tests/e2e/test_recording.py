"""Requests of a running gateway are recorded without their credentials, and replayed against other configurations."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

import pytest

from fastgw.recording.file import read_key, read_recording
from tests.e2e.admin_calls import admin
from tests.e2e.test_reload import Reloadable
from tests.support.commands import ended
from tests.support.forked import FASTGW, start
from tests.support.gateway import wait_until
from tests.support.peer import DEADLINE
from tests.support.small_file_system import small_file_system
from tests.support.threaded import Threaded

LONG = 4 * DEADLINE
KEY = "alice-has-this-key-0001"
PASSWORD = "bob-has-this-password-2"
TOKEN = "secret-of-a-query-333"
COOKIE = "session-of-a-browser-44"
BEARER = "token-of-no-filter-5555"
NUMBER = "number-in-a-log-666666"
TRAILER = "token-of-a-trailer-7777"
SECRETS = (KEY, PASSWORD, TOKEN, COOKIE, BEARER, NUMBER)


class _Echo(BaseHTTPRequestHandler):
    """Answers with what it got, credentials too."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        received = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path.startswith("/orders"):
            body = b'[{"sku": "a1"}, {"sku": "b2"}]'
        else:
            shown = {name: value for name, value in self.headers.items() if name != "X-Request-Id"}
            body = json.dumps({"path": self.path, "headers": shown, "body": received}).encode()
        self.send_response(503 if self.path.endswith("/down") else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", f"sid={COOKIE}; Path=/")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


def settings(origin: str) -> dict[str, Any]:
    auth = {"any_of": [{"key_auth": {"key_names": ["x-token"], "hide_credentials": True}}, {"basic_auth": {}}]}
    return {
        "upstreams": {"users": {"targets": [{"url": origin}]}, "orders": {"targets": [{"url": origin}]}},
        "consumers": [
            {"name": "alice", "groups": ["staff"], "key_auth": [{"key": KEY}]},
            {"name": "bob", "basic_auth": [{"username": "bob", "password": PASSWORD}]},
        ],
        "access_logs": [{"sink": "stdout", "redact": ["ssn"]}],
        "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
        "routes": [
            {
                "name": "users",
                "paths": ["/users/*"],
                "upstream": "users",
                "strip_prefix": "/users",
                "filters": {"auth": auth, "authorize": {"consumers": {"any": ["alice", "bob"]}}},
            },
            {"name": "open", "paths": ["/open/*"], "upstream": "users"},
            {"name": "tried", "paths": ["/tried"], "respond": {"body": "tried"},
             "filters": {"ip": {"allow": ["192.0.2.0/24"], "shadow": True}}},
            {"name": "said", "paths": ["/said"], "respond": {"body": "hello"}},
            {
                "name": "page",
                "paths": ["/page/{id}"],
                "compose": {
                    "parts": [
                        {"name": "user", "upstream": "users", "path": "/users/{id}", "allow": ["path"]},
                        {"name": "orders", "upstream": "orders", "path": "/orders?of={id}", "is_collection": True,
                         "wrap": "orders"},
                    ]
                },
            },
        ],
    }  # fmt: skip


class Recorder:
    """`fastgw record` as it runs. The `with` ends once it has ended; `code`, `output`: its results."""

    def __init__(self, gateway: Reloadable, directory: Path, requests: int, *more: str, name: str = "r.bin") -> None:
        self.file = directory / name
        token = directory / "token"
        token.write_text(gateway.token)
        self.process = start(
            [FASTGW, "record", "--admin", str(gateway.ready["admin"]), "--token-file", str(token),
             "--requests", str(requests), "--out", str(self.file), "--key-file", str(directory / "key"), *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.output = ""
        assert self.process.stderr is not None
        self.began = self.process.stderr.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.process.kill()
        out, err = self.process.communicate(timeout=LONG)
        self.output, self.code = out + err, self.process.returncode


def call(gateway: Reloadable, *arguments: str) -> str:
    """The status of a request by curl."""
    *flags, path = arguments
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *flags, f"{gateway.url()}{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


CALLS: Mapping[tuple[str, ...], str] = {
    ("-H", f"x-token: {KEY}", f"/users/1?access_token={TOKEN}&page=2"): "200",
    ("-u", f"bob:{PASSWORD}", "-d", '{"a": 1}', "-H", "Content-Type: application/json", "/users/2"): "200",
    ("-H", "x-token: unknown-key-of-nobody", "/users/3"): "401",
    ("/users/4",): "401",
    ("-H", f"Authorization: Bearer {BEARER}", "-b", f"sid={COOKIE}; lang=de", "/open/5"): "200",
    ("--http2-prior-knowledge", "-d", "over HTTP/2", "/open/6"): "200",
    ("-H", "Transfer-Encoding: chunked", "-d", "chunked", "/open/7"): "200",
    ("-I", f"/open/8?ssn={NUMBER}"): "501",
    ("/open/9/down",): "503",
    ("/said",): "200",
    ("/tried",): "200",
    ("/page/7",): "200",
    ("/nowhere",): "404",
}


class Scene:
    def __init__(self, directory: Path, origin: Threaded) -> None:
        self.directory, self.origin = directory, origin
        self.config = settings(origin.origin)
        self.gateway = Reloadable(self.config, directory)
        with Recorder(self.gateway, directory, len(CALLS)) as recorder:
            assert "recording" in recorder.began, recorder.began
            for arguments, status in CALLS.items():
                assert call(self.gateway, *arguments) == status, arguments
        assert recorder.code == 0, recorder.output
        self.file = recorder.file

    def replay(self, new: Mapping[str, Any], *more: str, old: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """The exit code, and the report."""
        (self.directory / "new.json").write_text(json.dumps({"version": 1, **self.config, **new}))
        arguments = ["replay", str(self.file), "--config", "new.json", "--key-file", "key", "--format", "json", *more]
        if old is not None:
            (self.directory / "old.json").write_text(json.dumps({"version": 1, **self.config, **old}))
            arguments += ["--against", "old.json"]
        told = ended(*arguments, directory=self.directory)
        return told.exit_code, json.loads(told.stdout) if told.exit_code < 2 else told.output

    def routes(self, route: str, /, **changes: Any) -> dict[str, Any]:
        """The routes, with changes of one."""
        return {"routes": [{**each, **changes} if each["name"] == route else each for each in self.config["routes"]]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("recording")
    with Threaded(_Echo, None) as origin:
        origin.begin()
        made = Scene(directory, origin)
        with made.gateway:
            yield made


def found(report: Any) -> list[tuple[str, str, str, int]]:
    return [(each["route"], each["where"], each["name"], each["count"]) for each in report["differences"]]


@pytest.mark.landing
def test_a_recording_has_each_request_without_its_credentials(scene: Scene) -> None:
    assert scene.file.stat().st_mode & 0o777 == 0o600
    assert (scene.directory / "key").stat().st_mode & 0o777 == 0o600
    raw = scene.file.read_bytes()
    recording = read_recording(str(scene.file), read_key(str(scene.directory / "key")))
    shown = repr(recording)
    for secret in SECRETS:
        assert secret.encode() not in raw
        assert secret not in shown
    assert "page=2" in shown
    assert len(recording.requests) == len(CALLS)
    by_line = {each.request.split(b" ")[1].partition(b"?")[0]: each for each in recording.requests}
    assert by_line[b"/users/1"].identity.consumer == "alice"
    assert by_line[b"/users/1"].identity.groups == ("staff",)
    assert by_line[b"/users/2"].identity.consumer == "bob"
    assert by_line[b"/users/2"].request_body.content == b'{"a": 1}'
    assert by_line[b"/users/3"].answered_by == "auth"
    assert by_line[b"/open/6"].version == 20
    assert by_line[b"/open/7"].request_body.content == b"chunked"
    assert [each.upstream for each in by_line[b"/page/7"].calls] == ["users", "orders"]
    assert by_line[b"/nowhere"].route == ""


@pytest.mark.landing
def test_the_same_configuration_has_no_difference(scene: Scene) -> None:
    for old in (None, {}):
        code, report = scene.replay({}, old=old)
        assert found(report) == []
        assert code == 0
        assert report["requests"] == len(CALLS)
        assert report["routes"]["open"] == {"requests": 5, "statuses": {"200": 3, "501": 1, "503": 1}}
        assert report["routes"]["users"] == {"requests": 4, "statuses": {"200": 2, "401": 2}}


@pytest.mark.parametrize(
    ("route", "change", "expected"),
    [
        ("said", {"respond": {"status": 201, "body": "hello"}}, [("status", "200 -> 201", 1)]),
        ("said", {"respond": {"body": "hallo"}}, [("body", "digest", 1)]),
        ("open", {"filters": {"headers": {"response": {"set": {"X-Version": "2"}}}}}, [("header", "X-Version", 5)]),
        ("open", {"rewrite": "/closed"}, [("upstream", "path", 5)]),
        ("open", {"filters": {"headers": {"request": {"set": {"X-Via": "b"}}}}}, [("upstream", "X-Via", 5)]),
        ("open", {"upstream": "orders"}, [("upstream", "name", 5)]),
        ("users", {"filters": {}}, [("filters", "auth", 2), ("status", "401 -> none", 2)]),
    ],
)  # fmt: skip
def test_a_change_is_exactly_its_difference(
    scene: Scene, route: str, change: dict[str, Any], expected: list[tuple[str, str, int]]
) -> None:
    code, report = scene.replay(scene.routes(route, **change))
    if change == {"filters": {}}:  # nobody knows what the upstream would have answered
        assert {("users", "filters", "auth", 2)} <= set(found(report))
    else:
        assert found(report) == [(route, *each) for each in expected]
    assert code == 1


@pytest.mark.landing
def test_a_filter_that_refuses_is_named_with_the_status(scene: Scene) -> None:
    changed = scene.routes(
        "users", filters={**scene.config["routes"][0]["filters"], "authorize": {"groups": {"any": ["staff"]}}}
    )
    for old in (None, {}):
        code, report = scene.replay(changed, old=old)
        assert found(report) == [("users", "filters", "authorize", 1), ("users", "status", "200 -> 403", 1)]
        assert code == 1


def test_a_body_is_compared_by_its_json_paths_and_a_route_by_its_name(scene: Scene) -> None:
    page = scene.config["routes"][4]["compose"]["parts"]
    _, report = scene.replay(scene.routes("page", compose={"parts": [page[0], {**page[1], "wrap": "bought"}]}))
    changed = [("body", "$.bought"), ("body", "$.orders"), ("header", "Etag")]
    assert found(report) == [("page", *each, 1) for each in changed]
    _, report = scene.replay(scene.routes("page", compose={"parts": [page[0]]}))
    assert ("page", "upstream", "missing", 1) in found(report)
    _, report = scene.replay(scene.routes("said", name="uttered"))
    assert found(report) == [("said", "route", "uttered", 1)]


@pytest.mark.landing
def test_rules_allow_differences(scene: Scene) -> None:
    changed = scene.routes("open", rewrite="/v2", filters={"headers": {"response": {"set": {"X-Version": "2"}}}})
    rules = scene.directory / "rules.yaml"
    rules.write_text("[{route: open, header: x-version}]")
    code, report = scene.replay(changed, "--allow", "rules.yaml")
    assert code == 1
    assert found(report) == [("open", "upstream", "path", 5)]
    rules.write_text("- {route: 'o*', upstream: path}\n- {header: X-*}\n")
    code, report = scene.replay(changed, "--allow", "rules.yaml")
    assert (code, found(report)) == (0, [])
    assert len(report["allowed"]) == 2
    for wrong, why in {
        "{route: a}": "expected a list",
        "[{route: open}]": "exactly one of",
        "[{rout: open, header: X}]": 'unknown key "rout"',
        "[{route: open, header: [X]}]": "expected text",
        "[": "rules.yaml: ",
    }.items():
        rules.write_text(wrong)
        code, told = scene.replay(changed, "--allow", "rules.yaml")
        assert code == 2
        assert why in told


def test_live_upstreams_answer_themselves(scene: Scene) -> None:
    code, report = scene.replay({}, "--upstreams", "live", old={})
    assert found(report) == []
    assert code == 0


def test_what_cannot_be_replayed_is_an_error_of_its_own(scene: Scene, tmp_path: Path) -> None:
    content = scene.file.read_bytes()
    (tmp_path / "new.json").write_text(json.dumps({"version": 1, **scene.config}))
    (tmp_path / "bad.json").write_text('{"version": 1, "listeners": {}}')
    (tmp_path / "key").write_bytes((scene.directory / "key").read_bytes())
    (tmp_path / "other").write_text("another key, of the same length or so")
    (tmp_path / "short").write_text("short")
    (tmp_path / "whole").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[:-7])
    (tmp_path / "head").write_bytes(content[:80])
    (tmp_path / "changed").write_bytes(content[:200] + bytes((content[200] ^ 1,)) + content[201:])
    (tmp_path / "longer").write_bytes(content + b"\0")
    (tmp_path / "text").write_text("no recording")
    cases = {
        ("whole", "other", "new.json"): "the key is not that of this recording",
        ("whole", "short", "new.json"): "a key has from 16",
        ("whole", "missing", "new.json"): "No such file",
        ("cut", "key", "new.json"): "it is truncated",
        ("head", "key", "new.json"): "it is truncated",
        ("changed", "key", "new.json"): "it was changed",
        ("longer", "key", "new.json"): "it was changed",
        ("text", "key", "new.json"): "it is not a recording",
        ("missing", "key", "new.json"): "No such file",
        ("whole", "key", "bad.json"): "listeners",
        ("whole", "key", "missing.json"): "missing.json",
    }
    for (file, key, config), why in cases.items():
        told = ended("replay", file, "--config", config, "--key-file", key, directory=tmp_path)
        assert told.exit_code == 2, (file, key, config, told.output)
        assert why in told.output


def test_requests_are_selected_and_bodies_cut(scene: Scene) -> None:
    more = ("--route", "open", "--status", "2xx", "--body-bytes", "10", "--seconds", "60", "--redact", "x-mine")
    with Recorder(scene.gateway, scene.directory, 2, *more, name="few.bin") as recorder:
        told = admin(scene.gateway, "POST /recordings", "{}", "application/json")
        assert told.status == 409
        for _ in range(2):
            assert call(scene.gateway, "/said") == "200"
            assert call(scene.gateway, "/open/9/down") == "503"
            assert call(scene.gateway, "-H", "X-Mine: of-mine-alone", "-d", "more than ten bytes", "/open/1") == "200"
    assert recorder.code == 0, recorder.output
    recording = read_recording(str(recorder.file), read_key(str(scene.directory / "key")))
    assert [each.route for each in recording.requests] == ["open", "open"]
    assert recording.requests[0].request_body.content == b"more than "
    assert recording.requests[0].request_body.is_cut
    assert "of-mine-alone" not in repr(recording)
    assert admin(scene.gateway, "GET /recordings/none").status == 404
    told = admin(scene.gateway, "POST /recordings", '{"ratio": 2}', "application/json")
    assert (told.status, b"ratio is 2" in told.body) == (400, True)


def test_trailers_are_recorded_without_credentials(scene: Scene) -> None:
    with Recorder(scene.gateway, scene.directory, 1, name="trailers.bin") as recorder:
        body = b"1\r\na\r\n0\r\nX-Auth-Token: %b\r\nX-Sum: 5\r\n\r\n" % TRAILER.encode()
        head = b"POST /open/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", scene.gateway.port()), LONG) as client:
            client.sendall(head + body)
            assert client.recv(12) == b"HTTP/1.1 200"
            while client.recv(4096):
                pass
    assert recorder.code == 0, recorder.output
    (request,) = read_recording(str(recorder.file), read_key(str(scene.directory / "key"))).requests
    assert request.request_trailers == ((b"X-Auth-Token", b"***"), (b"X-Sum", b"5"))
    assert TRAILER not in repr(request)


@pytest.mark.landing
def test_a_reload_and_the_death_of_a_worker_do_not_end_a_recording(scene: Scene) -> None:
    gateway = scene.gateway
    with Recorder(gateway, scene.directory, 6, name="killed.bin") as recorder:
        assert call(gateway, "/said") == "200"
        gateway.reload()
        assert call(gateway, "/open/1") == "200"
        worker = gateway.worker_pids[0]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in gateway.worker_pids and len(gateway.worker_pids) == 2, "a worker", LONG)
        wait_until(lambda: call(gateway, "/said") == "200" and recorder.process.poll() is not None, "its end", LONG)
    assert recorder.code == 0, recorder.output
    recording = read_recording(str(recorder.file), read_key(str(scene.directory / "key")))
    assert len(recording.requests) == 6


def test_the_death_of_control_ends_a_recording_which_is_kept(scene: Scene) -> None:
    gateway = scene.gateway
    with Recorder(gateway, scene.directory, 1000, name="control.bin") as recorder:
        assert call(gateway, "/said") == "200"
        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        assert call(gateway, "/said") == "200"
    assert recorder.code == 1
    assert "ended early" in recorder.output
    assert re.search("the gateway (at .*)?has ended", recorder.output), recorder.output
    assert "https://" not in recorder.output
    if "0 requests recorded, no file is written" in recorder.output:  # control died before it had the record
        assert not recorder.file.exists()
    else:
        assert len(read_recording(str(recorder.file), read_key(str(scene.directory / "key"))).requests) == 1
    wait_until(lambda: control not in gateway.child_pids and gateway.status() != {}, "another control process", LONG)
    with Recorder(gateway, scene.directory, 1, name="after.bin") as again:
        assert call(gateway, "/said") == "200"
    assert again.code == 0, again.output


def test_an_upgrade_ends_a_recording_and_is_its_reason(scene: Scene) -> None:
    gateway = scene.gateway
    with Recorder(gateway, scene.directory, 1000, name="upgraded.bin") as recorder:
        assert call(gateway, "/said") == "200"
        gateway.signal(signal.SIGUSR2)
        gateway.stderr.wait_for(lambda line: b"all 2 workers are new" in line, LONG)
    assert recorder.code == 1
    assert "ended early: the gateway was upgraded or stopped" in recorder.output
    read_recording(str(recorder.file), read_key(str(scene.directory / "key")))


def test_a_client_that_leaves_ends_its_recording_and_no_space_is_an_error(scene: Scene, tmp_path: Path) -> None:
    with Recorder(scene.gateway, scene.directory, 1000, name="left.bin") as recorder:
        recorder.process.send_signal(signal.SIGINT)
        call(scene.gateway, "/said")
    assert recorder.code == 1
    assert "interrupted" in recorder.output
    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder) as limited, limited():
        sender = threading.Event()

        def send() -> None:
            body = os.urandom(400_000).hex()
            (tmp_path / "body").write_text(body)
            while not sender.is_set():
                call(scene.gateway, "-d", f"@{tmp_path / 'body'}", "/open/1")

        thread = threading.Thread(target=send)
        thread.start()
        try:
            out = str(folder / "full.bin")
            more = ("--body-bytes", "1000000", "--out", out)
            with Recorder(scene.gateway, scene.directory, 10_000, *more, name="unused.bin") as full:
                pass
        finally:
            sender.set()
            thread.join()
        assert full.code == 74, full.output
        assert f"the output cannot be written: {out}: No space left on device" in full.output
        assert not [*folder.iterdir()]
    with Recorder(scene.gateway, scene.directory, 1, name="next.bin") as recorder:  # the last one has been ended
        assert call(scene.gateway, "/said") == "200"
    assert recorder.code == 0, recorder.output


def test_filters_in_shadow_are_summed_up_by_the_gateway_and_over_a_recording(scene: Scene) -> None:
    address, token = str(scene.gateway.ready["admin"]), scene.directory / "token"
    token.write_text(scene.gateway.token)
    running = ("--admin", address, "--token-file", str(token), "--format", "json")
    told = ended("shadow-report", *running, directory=scene.directory)
    report = json.loads(told.stdout)
    assert report["rows"] == [{"filter": "ip", "route": "tried", "decision": "answer", "requests": 1}]
    assert report["routes"] == {"ip": ["tried"]}
    told = ended("shadow-report", "--recording", "r.bin", "--key-file", "key", directory=scene.directory)
    assert told.exit_code == 0
    assert "ip tried answer 1 " in " ".join(told.stdout.split())
    code, replayed = scene.replay(scene.routes("tried", filters={}))
    assert (code, found(replayed)) == (1, [("tried", "filters", "ip", 1)])


def test_top_shows_routes_and_consumers(scene: Scene) -> None:
    running = ("--admin", str(scene.gateway.ready["admin"]), "--token-file", str(scene.directory / "token"))
    told = ended("top", *running, "--format", "json", "--interval", "0.1", directory=scene.directory)
    seen = json.loads(told.stdout)
    assert {each["name"] for each in seen["routes"]} >= {"users", "open", "said"}
    assert {each["name"] for each in seen["consumers"]} >= {"alice", "bob"}
    told = ended("top", *running, "--once", "--interval", "0.1", directory=scene.directory)
    assert told.exit_code == 0
    assert "requests/s" in told.stdout
    assert "alice" in told.stdout
