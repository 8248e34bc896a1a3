"""What is wrong with filters only when they are built is told at its place, all of it at once."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastgw import config
from fastgw.cli import app
from fastgw.config.loading.load import PROBLEMS_LISTED
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Filter, Hooks, Phase
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import CompileError

MAIN = """\
version: 1
include: [more.yaml]
listeners:
  main: {address: "127.0.0.1:0", filters: {own: {type: jwt, algorithms: [HS256], secret: short}}}
  other: {address: "127.0.0.1:0"}
upstreams:
  u:
    targets: [{url: "http://127.0.0.1:9"}]
    filters:
      basic_auth: {htpasswd: users}
filters:
  jwt: {algorithms: [HS256], secret: short}
filter_sets:
  s:
    sets: {type: jwt, algorithms: [RS256], jwks_file: keys.json}
routes:
  - {name: fine, upstream: u, use: [s]}
  - name: two
    upstream: u
    use: [s]
    filters:
      size: {body: 1MiB}
      "a.b": {type: jwt, algorithms: [HS512], secret: short}
"""
MORE = """\
routes:
  - name: three
    upstream: u
    filters:
      jwt: {algorithms: [HS384], secret: short}
"""
SHORT = "the secret: a shared secret of less than 32 bytes; expected at least 32 for HS256, 48 for HS384, 64 for HS512"
NO_KEY = "it contains no key for RS256; expected a public key RSA; it has no usable key"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "more.yaml").write_text(MORE)
    (tmp_path / "users").write_text("nonsense\n")
    (tmp_path / "keys.json").write_text('{"keys": []}')
    file = tmp_path / "gw.yaml"
    file.write_text(MAIN)
    return file


def problems_of(file: Path, types: Any = TYPES) -> list[str]:
    loaded = config.load(str(file), types)
    with pytest.raises(CompileError) as raised:
        compile_tables(loaded.config, 1, loaded.captured)
    return [str(each).replace(f"{file.parent}/", "") for each in raised.value.problems(loaded, types)]


def test_all_are_told_each_at_its_place_and_once(file: Path) -> None:
    assert problems_of(file) == [
        f"gw.yaml:4:44: listeners.main.filters.own: {SHORT}",
        "gw.yaml:10:7: upstreams.u.filters.basic_auth: users: line 1: no colon; expected `user:hash`",
        f"gw.yaml:12:3: filters.jwt: {SHORT}",
        f"gw.yaml:15:5: filter_sets.s.sets: keys.json: {NO_KEY}",
        f'gw.yaml:23:7: routes[1].filters["a.b"]: {SHORT} (route "two")',
        f'more.yaml:5:7: routes[0].filters.jwt: {SHORT} (route "three")',
    ]


def test_the_places_are_those_of_the_bytes_that_were_read(file: Path) -> None:
    """Whatever has become of the files since."""
    loaded = config.load(str(file), TYPES)
    file.write_text("gone")
    with pytest.raises(CompileError) as raised:
        compile_tables(loaded.config, 1, loaded.captured)
    assert len(raised.value.problems(loaded, TYPES)) == 6


@pytest.mark.parametrize("command", [["check"], ["run"], ["explain"]])
def test_every_command_tells_them(file: Path, command: list[str]) -> None:
    asked = ["GET", "http://a.test/"] if command == ["explain"] else []
    ended = CliRunner().invoke(app, [*command, str(file), *asked])
    assert ended.exit_code == 1
    assert len(ended.output.splitlines()) == 6
    assert f"{file}:12:3: filters.jwt: {SHORT}" in ended.output


def test_what_nobody_uses_is_told_too(file: Path) -> None:
    file.write_text(MAIN.replace("use: [s]", "use: []"))
    assert f"gw.yaml:15:5: filter_sets.s.sets: keys.json: {NO_KEY}" in problems_of(file)


class Choosy(Filter, name="choosy", phase=Phase.TRANSFORM):
    """Refuses to stand on any route but one."""

    def build(self, env: Env) -> Hooks:
        if env.route != "r0":
            raise ValueError(f"not on {env.route}")
        return Hooks()


def test_more_than_anybody_reads_are_counted(tmp_path: Path) -> None:
    routes = [
        f"  - {{name: r{i}, paths: [/{i}], respond: {{}}, filters: {{choosy: {{}}}}}}"
        for i in range(PROBLEMS_LISTED + 3)
    ]
    file = tmp_path / "gw.yaml"
    file.write_text('version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\nroutes:\n' + "\n".join(routes))
    told = problems_of(file, {**TYPES, "choosy": Choosy})
    assert told[0] == 'gw.yaml:5:52: routes[1].filters.choosy: not on r1 (route "r1")'
    assert told[-1] == "gw.yaml: and 2 more"
    assert len(told) == PROBLEMS_LISTED + 1


def test_what_came_from_no_file_is_told_without_a_place() -> None:
    made = config.from_flags("127.0.0.1:0", "http://127.0.0.1:9", {})
    (problem,) = CompileError("gateway: filter x: no").problems(config.Loaded.of(made), TYPES)
    assert str(problem) == "gateway: filter x: no"
