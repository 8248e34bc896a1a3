"""Targets that DNS knows: every address, or what SRV records say, held with the configuration and looked up again."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.resolver
import dns.rrset
import pytest

from fastgw import config
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources import dns_targets
from fastgw.config.sources.dns_targets import is_lookup, looked_up, lookup_name, turn_of
from fastgw.config.sources.files import read_again
from fastgw.errors import Fault
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.runtime.reload.file_watch import FileWatch
from tests.support.gateway import wait_until
from tests.support.peer import DEADLINE

MAIN = """\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams:
  u: {targets: %s}
routes: [{name: u, upstream: u}]
"""
NAME = "_http._tcp.users.test."


class NameServer:
    """Answers for one name over UDP."""

    def __init__(self, name: str) -> None:
        self.records: list[str] = []
        self._name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            asked, client = self._socket.recvfrom(4096)
            if asked == b"end":
                return self._socket.close()
            query = dns.message.from_wire(asked)
            answer = dns.message.make_response(query)
            if self.records:
                answer.answer.append(dns.rrset.from_text(self._name, 1, "IN", "SRV", *self.records))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), client)

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"end", ("127.0.0.1", self.port))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer(NAME)
    dns_targets.keep_lookups(())  # what another test has had reported of the name is reported again
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], made.port
    monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
    yield made
    made.stop()


def addresses(*found: str) -> Any:
    """What the system's resolver says: it cannot be had from a server of a test."""

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port)) for each in found]

    return resolve


def loaded(tmp_path: Path, targets: str) -> config.Loaded:
    (tmp_path / "gw.yaml").write_text(MAIN % targets)
    return config.load(str(tmp_path / "gw.yaml"), TYPES)


def told(made: config.Loaded) -> list[tuple[str, int, int]]:
    return [(str(each.url), each.weight, each.priority) for each in made.config.upstreams["u"].targets]


def test_every_address_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"))
    made = loaded(tmp_path, "{dns: users.test, port: 9001, interval: 1s}")
    assert told(made) == [
        ("http://192.0.2.1:9001", 1, 0),
        ("http://192.0.2.2:9001", 1, 0),
        ("http://[2001:db8::1]:9001", 1, 0),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    assert config.load_sources(made.sources, made.captured, TYPES).config == made.config  # nothing is looked up there


def test_an_address_that_comes_and_one_that_goes_are_new_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.1"))
    made = loaded(tmp_path, "{dns: users.test, port: 9001}")
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.3", "192.0.2.2"))
    now = read_again(made.captured)
    assert [url for url, *_ in told(config.load_sources(made.sources, now, TYPES))] == [
        "http://192.0.2.2:9001",
        "http://192.0.2.3:9001",
    ]
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.2", "192.0.2.3"))
    assert read_again(now) == now  # the order of answers says nothing
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    away = dict.fromkeys(now, "")
    assert read_again(now, away) == now
    assert any("users.test cannot be resolved: Name or service not known" in why for why in away.values())


def test_an_srv_record_with_port_0_is_left_out(
    server: NameServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.records = ["0 1 0 a.test.", "0 1 8001 b.test."]
    (target,) = loaded(tmp_path, f"{{srv: {NAME}}}").config.upstreams["u"].targets
    assert target.url.port == 8001
    assert f"srv: {NAME}: 1 record has port 0 and is left out" in caplog.text


@pytest.mark.parametrize(
    "host", ["-host.test.", r"ho\032st.test.", r"ho\047st.test.", r"ho\063st.test.", r"a\064b.test.", "10.0.0.999."]
)
def test_an_srv_record_without_a_valid_host_is_left_out(
    server: NameServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """The others are used, at the start as well. A label may have a slash: it is no base path."""
    server.records = [f"0 5 8000 {host}", "0 5 8001 host2.test."]
    assert told(loaded(tmp_path, f"{{srv: {NAME}}}")) == [("http://host2.test:8001", 5, 0)]
    assert f"srv: {NAME}: 1 record has no valid host name and is left out" in caplog.text


def test_srv_records_that_are_all_unusable_are_an_error(server: NameServer, tmp_path: Path) -> None:
    server.records = ["0 5 8000 -host.test.", "0 5 0 host2.test."]
    made = loaded(tmp_path, f"{{srv: {NAME}}}")
    why = f"srv: {NAME}: {NAME} cannot be used: no SRV record has a valid host name and a port"
    assert [each.wrong.partition(": requests")[0] for each in made.notes] == [why]


def test_srv_records_with_more_priorities_than_there_are_share_the_last(
    server: NameServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.records = [f"{1000 + at} 5 {8000 + at} h.test." for at in range(110)]
    made = told(loaded(tmp_path, f"{{srv: {NAME}}}"))
    assert [priority for _, _, priority in made] == [min(at, 100) for at in range(110)]
    assert f"srv: {NAME}: 110 priorities, and all after 101 count as the last one of these" in caplog.text


@pytest.mark.parametrize("step", [1, -1])
def test_srv_records_of_one_target_are_one(server: NameServer, tmp_path: Path, step: int) -> None:
    """In whatever order: the first priority and the greatest weight count."""
    server.records = ["5 1 8000 A.test.", "5 9 8000 a.test.", "9 99 8000 a.test.", "9 2 8001 a.test."][::step]
    assert told(loaded(tmp_path, f"{{srv: {NAME}}}")) == [("http://a.test:8000", 9, 0), ("http://a.test:8001", 2, 1)]


def test_srv_records_say_ports_weights_and_groups(server: NameServer, tmp_path: Path) -> None:
    server.records = ["10 60 9001 a.test.", "10 0 9002 b.test.", "20 5000 9003 c.test."]
    made = loaded(tmp_path, f"{{srv: {NAME}, scheme: https}}")
    assert told(made) == [
        ("https://a.test:9001", 60, 0),
        ("https://b.test:9002", 1, 0),
        ("https://c.test:9003", 1000, 1),
    ]
    server.records = ["10 20000 9001 a.test.", "10 10000 9002 b.test.", "10 1 9003 c.test.", "20 30 9004 d.test."]
    assert told(config.load_sources(made.sources, read_again(made.captured), TYPES)) == [
        ("https://a.test:9001", 1000, 0),
        ("https://b.test:9002", 500, 0),
        ("https://c.test:9003", 1, 0),
        ("https://d.test:9004", 30, 1),
    ]
    server.records = ["10 1 9001 a.test."]
    assert told(config.load_sources(made.sources, read_again(made.captured), TYPES)) == [("https://a.test:9001", 1, 0)]


def test_a_service_that_is_decidedly_not_there(server: NameServer, tmp_path: Path) -> None:
    """RFC 2782: the target `.`. As a name without records, it is an error, and the last list stays."""
    server.records = ["0 0 0 ."]
    made = loaded(tmp_path, f"{{srv: {NAME}}}")
    why = f"srv: {NAME}: {NAME} cannot be used: its SRV record says that the service is not available (target `.`)"
    assert (told(made), [each.wrong.partition(": requests")[0] for each in made.notes]) == ([], [why])
    server.records = ["10 1 9001 a.test."]
    before = read_again(made.captured)
    server.records = ["0 0 0 ."]
    failed = dict.fromkeys(before, "")
    assert read_again(before, failed) == before
    assert any("says that the service is not available" in each for each in failed.values())


def test_what_cannot_be_looked_up_yet_has_no_targets_and_is_told(server: NameServer, tmp_path: Path) -> None:
    """As for a URL: the name is allowed in a moment, and the gateway starts without."""
    made = loaded(tmp_path, f"{{srv: {NAME}, scheme: https}}, tls: {{verify: false}}")
    (note,) = made.notes
    assert (told(made), note.path) == ([], "upstreams.u.targets")
    assert f"srv: {NAME}: {NAME} cannot be resolved: " in note.wrong
    assert note.wrong.endswith(": requests are answered 503 until it can be")
    (request,) = [compile(made.config, 1, made.captured).upstreams["u"]]
    assert request.unavailable() is Fault.NO_HEALTHY_TARGET
    server.records = ["10 1 9001 a.test."]
    now = config.load_sources(made.sources, read_again(made.captured, dict.fromkeys(made.captured, "")), TYPES)
    assert (told(now), now.notes) == ([("https://a.test:9001", 1, 0)], ())


def test_what_was_found_before_stays_when_it_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload while DNS is unreachable: only a name that is new has no targets."""
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.1"))
    before = loaded(tmp_path, "{dns: users.test, port: 9001}")
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    file = tmp_path / "gw.yaml"
    file.write_text(file.read_text().replace("routes", "  v: {targets: {dns: new.test, port: 1}}\nroutes"))
    now = config.load(str(file), TYPES, known=before.captured)
    assert (told(now), now.config.upstreams["v"].targets) == (told(before), ())
    (why,) = now.withheld.values()
    assert why.startswith("dns: users.test:9001: users.test cannot be resolved: ")
    assert [each.path for each in now.notes] == ["upstreams.v", "upstreams.v.targets"]  # and no route uses it


class HangingSystem:
    """Stands in for `getaddrinfo`: names of `.hang` have no answer before `release`; others are answered at once."""

    def __init__(self) -> None:
        self.found = addresses("192.0.2.1")
        self.asked: list[str] = []
        self.release = threading.Event()

    def resolve(self, host: str, port: int, **options: Any) -> Any:
        self.asked.append(host)
        if host.endswith(".hang"):
            assert self.release.wait(DEADLINE)
        return self.found(host, port, **options)

    def answer(self, found: Any) -> None:
        """Let all lookups end with this result, and wait until they have."""
        self.found = found
        self.release.set()
        for thread in threading.enumerate():
            if thread.name == "lookup of targets":
                thread.join()
        self.release.clear()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingSystem]:
    system = HangingSystem()
    monkeypatch.setattr(socket, "getaddrinfo", system.resolve)
    monkeypatch.setattr(dns_targets, "ANSWER_S", 0.01)
    monkeypatch.setattr(dns_targets, "AT_START_S", 0.01)
    yield system
    system.answer(addresses())
    dns_targets.keep_lookups(())


def names_of(*hosts: str) -> dict[str, bytes]:
    """Contents of lookups, before they are looked up."""
    return {lookup_name("dns", host, 9001, "http", 1e9): TARGET % b"192.0.2.9" for host in hosts}


TARGET = b'[{"url": "http://%b:9001"}]'


def test_very_many_that_do_not_answer_hold_up_no_start(tmp_path: Path, hanging: HangingSystem) -> None:
    """All are looked up at the same time, and by the gateway that runs if that takes too long."""
    hosts = [f"n{number}.hang" for number in range(50)]
    upstreams = ", ".join(f"{host[:-5]}: {{targets: {{dns: {host}, port: 1}}}}" for host in hosts)
    (tmp_path / "gw.yaml").write_text(
        f"version: 1\nlisteners: {{main: {{address: '127.0.0.1:0'}}}}\nupstreams: {{{upstreams}}}\nroutes: []\n"
    )
    made = config.load(str(tmp_path / "gw.yaml"), TYPES)
    assert sum("not resolved yet: DNS has not answered" in note.wrong for note in made.notes) == 50
    wait_until(lambda: len(hanging.asked) >= dns_targets.AT_ONCE, "the threads to begin")
    assert sorted(hanging.asked) == sorted(hosts[: dns_targets.AT_ONCE])
    hanging.answer(addresses("192.0.2.1"))
    now = config.load(str(tmp_path / "gw.yaml"), TYPES, known=made.captured)
    assert {str(target.url) for each in now.config.upstreams.values() for target in each.targets} == {
        "http://192.0.2.1:1"
    }


def test_a_reading_goes_on_without_names_that_do_not_answer(
    hanging: HangingSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their previous targets stay, others are new; and the next reading neither waits for them nor asks again."""
    monkeypatch.setattr(dns_targets, "ANSWER_S", 0.5)  # enough for the one that answers at once
    before = names_of("a.hang", "b.hang", "well.test")
    away = dict.fromkeys(before, "")
    now = read_again(before, away)
    assert now == {**before, [*before][2]: TARGET % b"192.0.2.1"}
    assert [why.partition(":9001: ")[2] for why in away.values()] == ["not resolved yet: DNS has not answered"] * 2 + [
        ""
    ]
    assert read_again(before, dict.fromkeys(before, "")) == now
    assert sorted(hanging.asked) == ["a.hang", "b.hang", "well.test", "well.test"]


def test_an_answer_that_no_reading_has_waited_for_is_a_changed_file(hanging: HangingSystem) -> None:
    before = names_of("a.hang")
    (name,) = before
    watch = FileWatch()
    watch.watch(before)
    watch.changed()
    read_again(before, dict.fromkeys(before, ""))
    assert not watch.changed()
    hanging.answer(addresses("192.0.2.7"))
    assert watch.changed()
    assert not watch.changed()
    assert read_again(before) == {name: TARGET % b"192.0.2.7"}
    assert hanging.asked == ["a.hang"], "it was slow, and is asked again after its interval"


def test_a_failure_after_a_reading_has_gone_on_is_reported_by_the_next(hanging: HangingSystem) -> None:
    before = names_of("a.hang")
    watch = FileWatch()
    watch.watch(before)
    watch.changed()
    read_again(before, dict.fromkeys(before, ""))
    hanging.answer(addresses())
    assert watch.changed()
    away = dict.fromkeys(before, "")
    assert read_again(before, away) == before
    assert [why.partition(":9001: ")[2] for why in away.values()] == [
        "a.hang cannot be resolved: Name or service not known"
    ]
    assert not watch.changed()


def test_a_lookup_that_fails_before_it_is_due_is_no_reason_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of another file looks all names up."""
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    monkeypatch.setattr(dns_targets, "_FIRST_S", 1e9)
    monkeypatch.setattr(dns_targets, "ANSWER_S", DEADLINE)
    before = names_of("none.test")
    watch = FileWatch()
    watch.watch(before)
    read_again(before, dict.fromkeys(before, ""))
    watch.changed()
    for _ in range(3):
        read_again(before, dict.fromkeys(before, ""))
        assert not watch.changed()
    dns_targets.keep_lookups(())


def test_a_forked_process_has_no_lookups_of_its_parent(hanging: HangingSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has none of the threads; and what the supervisor has found at its start is older than what is in force."""
    before = names_of("a.hang", "well.test")
    hung, well = before
    dns_targets.begin_lookups([hung])
    monkeypatch.setattr(dns_targets, "AT_START_S", DEADLINE)
    assert looked_up(well) == TARGET % b"192.0.2.1"
    receiving, sending = os.pipe()
    if not (pid := os.fork()):
        with suppress(BaseException):
            hanging.release.set()
            hanging.found = addresses("192.0.2.8")
            os.write(sending, b" ".join(looked_up(name) for name in before))
        os._exit(0)
    os.close(sending)
    os.waitpid(pid, 0)
    assert os.read(receiving, 4096) == TARGET % b"192.0.2.8" + b" " + TARGET % b"192.0.2.8"
    os.close(receiving)


def test_a_system_without_threads_is_a_failed_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(SyntaxProblem, match="cannot be resolved: can't start new thread"):
        looked_up(*names_of("users.test"))
    dns_targets.keep_lookups(())


def test_a_missing_package_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    with pytest.raises(config.ConfigError, match=r"pip install 'fastgw\[dns\]'"):
        loaded(tmp_path, f"{{srv: {NAME}}}")


def test_settings_for_tls_are_for_targets_that_will_be_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    with pytest.raises(config.ConfigError, match="no target of this upstream uses https"):
        loaded(tmp_path, "{dns: users.test, port: 1}, tls: {verify: false}")


@pytest.mark.parametrize(("own", "interval"), [("", "7"), (", interval: 2s", "2")])
def test_its_interval_is_that_of_the_upstream_where_it_says_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, interval: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.1"))
    made = loaded(tmp_path, f"{{dns: users.test, port: 9001{own}}}, resolve: {{interval: 7s}}")
    assert [*made.captured] == [f"dns://users.test:9001?scheme=http&interval={interval}"]


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ("{dns: users.test}", "4:7: upstreams.u.targets.port: missing; expected a whole number from 1 to 65535"),
        ("{dns: 'a b', port: 1}", '4:22: upstreams.u.targets.dns: "a b" is not a host name; expected a host name such'),
        ("{dns: a.test, port: 0}", "4:36: upstreams.u.targets.port: 0; expected a whole number from 1 to 65535"),
        (
            "{srv: a.test, port: 1}",
            '4:30: upstreams.u.targets.port: unknown key; expected one of "interval", "scheme", "srv"',
        ),
        ("{dns: a.test, srv: b.test}", "4:16: upstreams.u.targets: an object; expected a non-empty list"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(tmp_path: Path, targets: str, problem: str) -> None:
    with pytest.raises(config.ConfigError) as raised:
        loaded(tmp_path, targets)
    assert str(raised.value.problems[0]).removeprefix(f"{tmp_path}/gw.yaml:").startswith(problem)


def test_it_is_looked_up_again_when_its_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert turn_of(lookup_name("dns", "users.test", 9001, "http", 1_036_800.0)).isdecimal(), "twelve days"
    name = lookup_name("dns", "users.test", 9001, "http", 2.5)
    assert is_lookup(name)
    clock = [1000.0]
    monkeypatch.setattr(dns_targets, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    watch = FileWatch()
    watch.watch([name])
    assert watch.changed()  # it was not looked at yet
    for date, due in ((1001.0, False), (1002.5, True), (1004.9, False), (1005.0, True)):
        clock.append(date)
        assert watch.changed() is due
    assert turn_of(name) == "402"


def test_after_a_failure_it_is_looked_up_sooner_and_then_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    name = lookup_name("dns", "users.test", 9001, "http", 5.0)
    clock = [1000.0]
    monkeypatch.setattr(dns_targets, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    watch = FileWatch()
    watch.watch([name])
    looked_at = []
    for quarter in range(4 * 20):
        clock.append(1000.0 + quarter / 4)
        if watch.changed():
            looked_at.append(clock[-1] - 1000.0)
            with pytest.raises(SyntaxProblem):
                looked_up(name)
            watch.changed()  # what was just tried is not tried at once again
    assert looked_at == [0.0, 1.0, 3.0, 7.0, 12.0, 17.0]  # 1, 2, 4 and 5 s: never more than the interval
    monkeypatch.setattr(socket, "getaddrinfo", addresses("192.0.2.1"))
    looked_up(name)
    assert turn_of(name) == str(int(clock[-1] / 5.0))
    monkeypatch.setattr(socket, "getaddrinfo", addresses())
    with pytest.raises(SyntaxProblem):
        looked_up(lookup_name("dns", "a..b", 1, "http", 5.0))
    watch.watch([name])
    assert [*dns_targets._lookups] == [name]  # and not of a name that nobody looks up any more


def test_names_of_files_are_none() -> None:
    assert not any(map(is_lookup, ("/etc/targets.yaml", "dns", "srv:x", "/dns://x")))
    with pytest.raises(SyntaxProblem, match="cannot be resolved:"):
        looked_up("dns://nowhere.invalid:1?scheme=http&interval=1")
    for name in ("a..b", f"{'a' * 64}.test"):
        with pytest.raises(SyntaxProblem, match=" cannot be resolved: "):
            looked_up(f"dns://{name}:80?scheme=http&interval=1")
    assert json.loads(looked_up("dns://127.0.0.1:1?scheme=http&interval=1")) == [{"url": "http://127.0.0.1:1"}]
