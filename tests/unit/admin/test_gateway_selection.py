"""Which gateway a command means, when none, one or several run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from fastgw.admin import gateway_selection
from fastgw.admin.gateway_registry import Found, GatewayEntry, Registration, running
from fastgw.admin.gateway_selection import AmbiguousGateway, GatewayChoice, NoSuchGateway, choose
from fastgw.config.base.value_types import parse_address
from fastgw.config.settings.secrets import Secret
from tests.support import commands
from tests.support.admin import served


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    monkeypatch.setenv("RUNTIME_DIRECTORY", environment["RUNTIME_DIRECTORY"])
    monkeypatch.setattr("fastgw.admin.gateway_registry.directories", lambda environment: [str(tmp_path / "run")])
    monkeypatch.delenv("FASTGW_ADMIN_TOKEN", raising=False)


def ended(*arguments: str) -> Result:
    return commands.ended(*arguments, directory=Path())


class Running:
    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self._count = 0

    def __call__(self, name: str = "gw", token: str | None = "made", **more: Any) -> None:
        self._count += 1
        registration = Registration.create_entry()
        self._undo.callback(registration.end)
        registration.write_token(token)
        said: dict[str, Any] = {
            "pid": os.getpid(),
            "config": f"/etc/{name}.yaml",
            "version": "1",
            "began_date": float(self._count),
            "admin": f"127.0.0.1:{self._count}",
            "token_file": registration.token_file,
        }
        registration.write(GatewayEntry(name=name, **{**said, **more}))


@pytest.fixture
def run() -> Iterator[Running]:
    with ExitStack() as undo:
        yield Running(undo)


def test_the_one_that_runs_is_found_with_its_token(run):
    run()
    found = choose(GatewayChoice())
    assert (found.admin.address, found.token) == (parse_address("127.0.0.1:1"), "made")


def test_where_none_runs_it_is_the_default_address():
    """It may be another user's, or a container's."""
    assert choose(GatewayChoice()).admin.text == "127.0.0.1:9901"


def test_of_several_one_is_named(run, tmp_path):
    run("one")
    run("two", token="other")
    assert choose(GatewayChoice(name="two")).token == "other"
    assert choose(GatewayChoice(config="/etc/../etc/one.yaml")).token == "made"
    assert choose(GatewayChoice(admin="127.0.0.1:2")).token == "other"


def test_a_file_is_found_by_its_path_as_given_also_after_a_link_in_it_is_switched(run, tmp_path, monkeypatch):
    releases = [tmp_path / "1", tmp_path / "2"]
    for release in releases:
        release.mkdir()
        (release / "gateway.yaml").touch()
    (current := tmp_path / "current").symlink_to("1")
    file = current / "gateway.yaml"
    run("linked", token="linked", config=os.path.realpath(file), given=str(file))
    assert choose(GatewayChoice(config=str(file))).token == "linked"
    current.unlink()
    current.symlink_to("2")
    assert choose(GatewayChoice(config=str(file))).token == "linked"
    assert choose(GatewayChoice(config=str(releases[1] / "gateway.yaml"))).token == "linked"
    assert choose(GatewayChoice(config=str(releases[0] / "gateway.yaml"))).token == "linked"  # which it has read
    monkeypatch.chdir(tmp_path)
    assert choose(GatewayChoice(config="current/gateway.yaml")).token == "linked"
    direct = {"config": str(releases[0] / "gateway.yaml"), "given": "", "pid": 1}  # of a version without `given`
    run("direct", token="direct", **direct)
    assert choose(GatewayChoice(config=str(releases[0] / "gateway.yaml"))).token == "direct"
    assert choose(GatewayChoice(config=str(file))).token == "linked"


def test_an_entry_with_an_impossible_path_is_left_out(run):
    run("bad", given="/etc/\\0")
    run("good", token="other")
    assert choose(GatewayChoice(config="/etc/good.yaml")).token == "other"


def test_of_several_somebody_is_asked(run):
    run("one")
    run("two", token="other")
    assert choose(GatewayChoice(), lambda found: found[1]).token == "other"


def test_where_nobody_can_be_asked_they_are_listed(run):
    run("one")
    run("second", config="", admin=None)
    with pytest.raises(AmbiguousGateway) as caught:
        choose(GatewayChoice())
    assert str(caught.value).splitlines() == [
        "several gateways run; choose one with --config FILE, --name NAME or --admin ADDR:",
        f"    one     pid {os.getpid()}  127.0.0.1:1        /etc/one.yaml".replace("    one", "  one"),
        f"  second  pid {os.getpid()}  no admin listener  -",
    ]


def test_the_command_says_so_too(run):
    run("one")
    run("two")
    told = ended("status")
    assert told.exit_code == 2
    assert "/etc/one.yaml" in told.stderr
    assert "--name NAME" in told.stderr


@pytest.mark.parametrize("wanted", [GatewayChoice(name="none"), GatewayChoice(config="/etc/none.yaml")])
def test_one_that_does_not_run_is_not_replaced_by_another(run, wanted):
    run("one")
    with pytest.raises(NoSuchGateway, match=r'there is "one" \(/etc/one\.yaml\)'):
        choose(wanted)


def test_two_of_one_name_are_told_apart(run):
    run("one")
    run("one", config="/srv/one.yaml")
    with pytest.raises(AmbiguousGateway):
        choose(GatewayChoice(name="one"))
    assert choose(GatewayChoice(config="/srv/one.yaml")).admin.address.port == 2


def test_one_without_an_admin_listener_is_told(run):
    run(admin=None)
    with pytest.raises(NoSuchGateway, match=f"has no admin listener, .* its process {os.getpid()}: HUP reloads, TERM "):
        choose(GatewayChoice())


class TestToken:
    def test_what_is_given_goes_first(self, run, tmp_path, monkeypatch):
        run()
        monkeypatch.setenv("FASTGW_ADMIN_TOKEN", "of the environment")
        assert choose(GatewayChoice()).token == "of the environment"
        (tmp_path / "token").write_text("of a file")
        assert choose(GatewayChoice(token_file=str(tmp_path / "token"))).token == "of a file"

    def test_it_is_shown_only_where_the_gateway_is_bound(self, run):
        """`localhost` and other addresses may be somebody else's, and whoever answers would have it."""
        run(admin="127.0.0.1:7")
        for address in ("[::1]:7", "127.0.0.2:7", "127.0.0.1:8", "unix:/run/x", "https://127.0.0.1:7", "gw.example:7"):
            assert choose(GatewayChoice(admin=address)).token is None
        found = choose(GatewayChoice(admin="localhost:7"))
        assert (str(found.admin.address), found.token) == ("127.0.0.1:7", "made")

    def test_over_tls_the_name_stays(self, run):
        run(admin="127.0.0.1:7", admin_tls=True)
        found = choose(GatewayChoice(admin="https://localhost:7"))
        assert (found.admin.address.host, found.token) == ("localhost", "made")
        assert choose(GatewayChoice()).admin.tls

    def test_a_unix_socket_by_any_path(self, run, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path)
        run(admin=f"unix:{tmp_path}/a.sock")
        assert choose(GatewayChoice(admin=f"unix:{tmp_path}/link/a.sock")).token == "made"

    @pytest.mark.parametrize(("bound", "asked"), [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7")])
    def test_all_addresses_are_asked_at_one(self, run, bound, asked):
        run(admin=bound)
        assert str(choose(GatewayChoice()).admin.address) == asked

    def test_the_command_prints_it(self, run):
        run()
        assert ended("token").stdout == "made\n"
        assert ended("token", "--header").stdout == "Authorization: Bearer made\n"

    def test_where_there_is_none_that_is_told(self, run):
        with served(Secret(text="configured")) as here:
            run(admin=here.authority, token_file=None)
            told = ended("token")
        assert (told.exit_code, told.stdout) == (1, "")
        assert "the token is in the gateway's configuration" in told.stderr


def test_only_one_of_the_ways_to_name_it_is_taken():
    for first, second in (("--config", "--name"), ("--name", "--admin"), ("--config", "--admin")):
        assert ended("status", first, "x", second, "127.0.0.1:1").exit_code == 2


def test_somebody_at_a_terminal_chooses(run, monkeypatch):
    run("one")
    run("two")
    monkeypatch.setattr("typer.prompt", lambda *_, **options: options["type"].convert("2", None, None))
    from fastgw.commands.running_gateway import _ask_which

    found: list[Found] = running()
    assert _ask_which(found).entry.name == "two"
    assert gateway_selection.listed(found)[0].startswith("one")
