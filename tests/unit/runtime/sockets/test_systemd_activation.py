"""Sockets from systemd: real ones, passed as systemd passes them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fastgw.config.base.value_types import Address, parse_address
from fastgw.runtime.sockets import systemd_activation
from fastgw.runtime.sockets.systemd_activation import MOST_REPORTED, Inherited, bound_to, inherited

FIRST_FD = 600  # of this test, where pytest has none of its own

Pass = Callable[..., dict[str, str]]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def passing(opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Passes sockets as systemd does, and returns the environment that tells of them."""
    monkeypatch.setattr(systemd_activation, "FIRST_FD", FIRST_FD)

    def passing(*sockets: socket.socket, **told: str) -> dict[str, str]:
        for index, each in enumerate(sockets):
            os.dup2(each.fileno(), FIRST_FD + index)
            each.close()
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "HOME": "/", **told}

    return passing


@pytest.fixture
def listening(opened: ExitStack) -> Callable[..., socket.socket]:
    def listening(address: str = "127.0.0.1:0", dual: bool = False, reused: bool = False) -> socket.socket:
        bound = parse_address(address)
        if bound.path:
            made = socket.socket(socket.AF_UNIX)
            made.bind(bound.path)
        else:
            family = socket.AF_INET6 if ":" in bound.host else socket.AF_INET
            made = socket.create_server((bound.host, bound.port), family=family, dualstack_ipv6=dual, reuse_port=reused)
        made.listen()
        return opened.enter_context(made)

    return listening


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


@pytest.fixture
def find(opened: ExitStack) -> Callable[[dict[str, str]], Inherited]:
    """`inherited`, with everything closed at the end."""

    def find(environ: dict[str, str]) -> Inherited:
        found = inherited(environ)
        for each in found.left:
            opened.enter_context(each.socket)
        return found

    return find


class TestWhatIsPassed:
    def test_becomes_ours(self, passing, listening, find):
        """No child finds the variables or the descriptors, and `accept` does not wait."""
        tcp = listening()
        port = port_of(tcp)
        environ = passing(tcp, LISTEN_FDNAMES="public", LISTEN_PIDFDID="7")
        (passed,) = find(environ).left
        assert environ == {"HOME": "/"}
        assert (passed.name, bound_to(passed.socket)) == ("public", Address(host="127.0.0.1", port=port))
        assert (passed.socket.fileno(), passed.socket.get_inheritable()) == (FIRST_FD, False)
        assert passed.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(BlockingIOError):
            passed.socket.accept()

    @pytest.mark.parametrize("names", ["", "public", "public:status:more"])
    def test_has_a_name_each_whatever_is_told(self, passing, listening, find, names):
        found = find(passing(listening(), listening(), LISTEN_FDNAMES=names))
        wanted = (names.split(":") if names else []) + ["unknown", "unknown"]
        assert [each.name for each in found.left] == wanted[:2]

    @pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}])
    def test_is_nothing_without_systemd(self, environ):
        found = inherited(environ)
        assert (found.left, found.unclaimed(), environ) == ((), (), {})

    def test_is_left_alone_when_it_is_for_another_process(self):
        """A shell between systemd and us: the numbers may stand for anything."""
        environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        found = inherited(environ)
        (told,) = found.unclaimed()
        assert "for process 1" in told
        assert "exec" in told
        assert (found.left, environ) == ((), {})

    @pytest.mark.parametrize("numbers", [("x", "1"), (str(os.getpid()), "-1"), (str(os.getpid()), "two")])
    def test_is_told_when_it_makes_no_sense(self, numbers):
        found = inherited(dict(zip(("LISTEN_PID", "LISTEN_FDS"), numbers, strict=True)))
        (told,) = found.unclaimed()
        assert "no numbers" in told

    def test_is_not_tried_beyond_the_limit_of_open_files(self):
        found = inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1000000"}, files=1024)
        (told,) = found.unclaimed()
        assert "LISTEN_FDS=1000000 is more than the 1021 that this process may have (ulimit -n)" in told
        found = inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "9" * 5000})
        (told,) = found.unclaimed()
        assert "no numbers" in told

    def test_is_reported_in_a_few_lines_when_much_of_it_is_closed(self, monkeypatch):
        def closed(fd: int) -> socket.socket:
            raise OSError(errno.EBADF, "Bad file descriptor")

        monkeypatch.setattr(systemd_activation, "_listening", closed)
        found = inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(MOST_REPORTED + 8)})
        *_, last = lines = found.unclaimed()
        assert (len(lines), last) == (MOST_REPORTED + 1, "8 more descriptors from systemd are not used")

    def test_is_checked(self, passing, listening, find, opened, tmp_path):
        """One that cannot be used is told, and the others are."""
        datagrams = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        bound = opened.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        with ExitStack() as plain:
            file = plain.enter_context((tmp_path / "file").open("wb"))
            environ = passing(datagrams, bound, listening(), LISTEN_FDNAMES="udp:bound:good:file:gone")
            os.dup2(file.fileno(), FIRST_FD + 3)
        opened.callback(os.close, FIRST_FD + 3)
        found = find({**environ, "LISTEN_FDS": "5"})
        assert [each.name for each in found.left] == ["good"]
        udp, idle, file_told, gone, good = found.unclaimed()
        assert "(udp)" in udp
        assert "expected a stream socket" in udp
        assert "(bound)" in idle
        assert "does not listen" in idle
        assert "(file) is not used: Socket operation on non-socket" in file_told
        assert "(gone) is not used: Bad file descriptor" in gone
        assert "(good)" in good


class TestTaking:
    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "localhost"])
    def test_by_address_once(self, passing, listening, find, host):
        bound = host.replace("localhost", "127.0.0.1")
        other, tcp = listening(), listening(f"{bound}:0")
        address = parse_address(f"{host}:{port_of(tcp)}")
        found = find(passing(other, tcp))
        (taken,) = found.claim_sockets(address)
        assert bound_to(taken.socket) == parse_address(f"{bound}:{address.port}")
        assert found.claim_sockets(address) == ()
        assert len(found.left) == 1

    def test_not_by_the_address_of_another(self, passing, listening, find):
        tcp = listening()
        port = port_of(tcp)
        found = find(passing(tcp))
        for address in (f"127.0.0.2:{port}", f"0.0.0.0:{port}", f"[::1]:{port}", "127.0.0.1:0", "no.host.invalid:80"):
            assert found.claim_sockets(parse_address(address)) == (), address

    def test_every_address_of_a_host_name(self, passing, listening, find):
        four = listening("127.0.0.1:0")
        six = listening(f"[::1]:{port_of(four)}")
        address = Address(host="localhost", port=port_of(four))
        taken = find(passing(four, six)).claim_sockets(address)
        assert {bound_to(each.socket).host for each in taken} <= {"127.0.0.1", "::1"}
        assert len(taken) == len({info[4][0] for info in socket.getaddrinfo("localhost", address.port)})

    def test_all_that_share_an_address(self, passing, listening, find):
        """`ReusePort=` in the socket unit."""
        one = listening(reused=True)
        address = bound_to(one)
        two = listening(str(address), reused=True)
        assert len(find(passing(one, two)).claim_sockets(address)) == 2

    def test_a_bare_port_listens_for_both(self, passing, listening, find):
        """`ListenStream=8080` is `[::]:8080` for IPv6 and IPv4."""
        both = listening("[::]:0", dual=True)
        address = Address(host="0.0.0.0", port=port_of(both))
        (taken,) = find(passing(both)).claim_sockets(address)
        assert bound_to(taken.socket).host == "::"

    def test_ipv6_alone_is_not_ipv4(self, passing, listening, find):
        six = listening("[::]:0")
        port = port_of(six)
        found = find(passing(six))
        assert found.claim_sockets(Address(host="0.0.0.0", port=port)) == ()
        assert len(found.claim_sockets(Address(host="::", port=port))) == 1

    def test_the_socket_for_ipv4_goes_before_one_for_both(self, passing, listening, find):
        four = listening("0.0.0.0:0", reused=True)
        port = port_of(four)
        six = listening(f"[::]:{port}", reused=True)
        (taken,) = find(passing(six, four)).claim_sockets(Address(host="0.0.0.0", port=port))
        assert taken.socket.family == socket.AF_INET

    def test_a_path_however_it_is_written(self, passing, listening, find, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "var").symlink_to(tmp_path / "run")
        found = find(passing(listening(f"unix:{tmp_path}/run/gw.sock")))
        assert found.claim_sockets(Address(path=f"{tmp_path}/run/other.sock")) == ()
        (taken,) = found.claim_sockets(Address(path=f"{tmp_path}/var/gw.sock"))
        assert taken.socket.family == socket.AF_UNIX


class TestWhatIsLeft:
    def test_is_told_with_its_address_and_name(self, passing, listening, find, opened, tmp_path):
        abstract = opened.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0fastgw-test-{os.getpid()}")
        abstract.listen()
        tcp, unix = listening("[::1]:0"), listening(f"unix:{tmp_path}/gw.sock")
        port = port_of(tcp)
        found = find(passing(tcp, unix, abstract, LISTEN_FDNAMES="six:path:name"))
        assert [line.partition(", ")[0] for line in found.unclaimed()] == [
            f"systemd listens on [::1]:{port} (six)",
            f"systemd listens on unix:{tmp_path.resolve()}/gw.sock (path)",
            f"systemd listens on unix:@fastgw-test-{os.getpid()} (name)",
        ]
        advice = "no listener has that address; write a listener with this address, or change ListenStream"
        assert found.unclaimed()[0].endswith(f", and {advice}")
        assert repr(found).startswith(f"<Inherited six=[::1]:{port}, path=unix:")

    def test_can_be_taken_later_by_an_upgrade_too(self, passing, listening, find):
        tcp = listening()
        address = bound_to(tcp)
        found = find(passing(tcp, LISTEN_FDNAMES="public"))
        (still,) = found.left
        carried = Inherited([still])
        assert carried.claim_sockets(address) == (still,)
        assert carried.unclaimed() == ()

    def test_is_also_what_a_listener_has_given_back(self, passing, listening, find):
        found = find(passing(listening(), LISTEN_FDNAMES="public"))
        address = bound_to(found.left[0].socket)
        taken = found.claim_sockets(address)
        found.take_back(taken)
        assert found.unclaimed()[0].startswith(f"systemd listens on {address} (public), and ")
        assert found.claim_sockets(address) == taken

    def test_is_closed_at_the_end(self, passing, listening, find):
        found = find(passing(listening()))
        ((still, _),) = found.left
        found.close()
        assert (found.left, still.fileno()) == ((), -1)
