"""Syslog sinks against rsyslog: it takes each line whole, over UDP, TCP and a unix socket, and after it was killed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.config.base.value_types import parse_target_url
from fastgw.config.settings.log_sinks import RemoteSink, Spool, SyslogSink
from fastgw.observe.access_log import remote_sink
from fastgw.observe.sink_kinds import sink_of
from tests.support.gateway import wait_until

WAIT_S = 60.0
CONFIG = """
global(workDirectory="{folder}")
template(name="seen" type="string" string="%protocol-version%|%pri%|%app-name%|%msgid%|%msg%\\n")
module(load="imudp")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
ruleset(name="keep") {{ action(type="omfile" file="{folder}/seen" template="seen") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="keep")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="keep")
input(type="imuxsock" socket="{folder}/socket" useSpecialParser="off" rateLimit.interval="0" ruleset="keep")
"""


def unused_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Rsyslog:
    """A running rsyslog that writes what it receives to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.udp, self.tcp = unused_port(socket.SOCK_DGRAM), unused_port(socket.SOCK_STREAM)
        text = CONFIG.format(folder=folder, udp=self.udp, tcp=self.tcp)
        (folder / "rsyslog.conf").write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("rsyslogd", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin")
        assert program is not None, "rsyslogd is not installed"
        command = [program, "-n", "-f", str(self.folder / "rsyslog.conf"), "-i", str(self.folder / "pid")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until(self._listens, "rsyslog listens", WAIT_S)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.tcp), 1.0).close()
        except OSError:
            return False
        return (self.folder / "socket").exists()

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(WAIT_S)
            self.process = None
        for name in ("pid", "socket"):
            (self.folder / name).unlink(missing_ok=True)

    def seen(self) -> list[str]:
        file = self.folder / "seen"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(scope="module")
def rsyslog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rsyslog]:
    server = Rsyslog(tmp_path_factory.mktemp("rsyslog"))
    server.start()
    yield server
    server.kill()


def address_of(server: Rsyslog, kind: str) -> str:
    unix = f"unix:{server.folder}/socket"
    return {"udp": f"udp://127.0.0.1:{server.udp}", "tcp": f"tcp://127.0.0.1:{server.tcp}", "unix": unix}[kind]


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix"])
def test_each_line_is_a_message(rsyslog: Rsyslog, kind: str) -> None:
    """With its facility and name, also a long one and one with other letters than ASCII."""
    lines = [f'{{"kind":"{kind}","name":"ü"}}', f"{kind} " + "x" * 4000]
    settings = SyslogSink(address=parse_target_url(address_of(rsyslog, kind)), app_name="gateway")
    sink = sink_of(RemoteSink(syslog=settings))
    assert sink.write("".join(f"{line}\n" for line in lines).encode()) == sink.flush() == 0
    sink.close()
    expected = {f"1|134|gateway|access|{line}" for line in lines}
    wait_until(lambda: expected <= {*rsyslog.seen()}, "both lines", WAIT_S)


def test_lines_of_a_server_that_was_killed_arrive_when_it_is_back(
    rsyslog: Rsyslog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in the spool. What the dead server's kernel took before the gateway could notice may be lost."""
    monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(remote_sink, "RETRY_MOST_S", 0.05)
    spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
    settings = SyslogSink(address=parse_target_url(address_of(rsyslog, "tcp")), app_name="gateway", spool=spool)
    sink = sink_of(RemoteSink(syslog=settings))
    sink.write(b"before\n")
    assert sink.flush() == 0
    wait_until(lambda: "1|134|gateway|access|before" in rsyslog.seen(), "the first line", WAIT_S)
    rsyslog.kill()
    for number in range(100):
        sink.write(b"meanwhile-%d\n" % number)
        assert sink.flush() == 0
        sink.refresh()
    rsyslog.start()
    until = time.monotonic() + WAIT_S
    expected = {f"1|134|gateway|access|meanwhile-{number}" for number in range(100)}
    while not expected <= {*rsyslog.seen()}:
        assert time.monotonic() < until
        time.sleep(0.05)
        sink.refresh()
    sink.close()
