"""What filters are built from: files, secrets, things they share; and when they are built anew, started and stopped."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from fastgw.config.base.value_types import ReadableFile
from fastgw.config.settings.gateway import Config
from fastgw.consumers.index import Roster
from fastgw.exchange import FilterInstance
from fastgw.filters import TYPES as ALL_TYPES
from fastgw.filters.api import Env, Filter, FilterResources, Hooks, Phase, Secret, Services
from fastgw.gateway.compiler import building, compile
from fastgw.gateway.tables import CompileError, Gateway
from fastgw.routing.table import at_once
from fastgw.shm.memory import Column
from tests.support.generations import load_document, plan_after

SERVICES = cast(Services, type("Nobody", (), {"worker_loop": None})())
COLUMN = cast(Column, None)


class Reader(Filter, name="reader", phase=Phase.AUTHENTICATE):
    """Reads a file and a secret."""

    file: ReadableFile
    secret: Secret | None = None

    def build(self, env: Env) -> Hooks:
        content = env.read(self.file)
        secret = "" if self.secret is None else env.secret(self.secret)
        # What is asked for is remembered on the hook, for the test to look at.
        return Hooks(explain=lambda exchange: f"{content!r} {secret}")


class EarlyReader(Reader, name="early_reader", phase=Phase.ADMIT):
    """The same before routing."""


class Sharing(Filter, name="sharing", phase=Phase.AUTHENTICATE):
    """Shares an object by its policy."""

    number: int = 0

    def build(self, env: Env) -> Hooks:
        held = env.shared(("sharing", env.policy), object)
        return Hooks(explain=lambda exchange: str(id(held)))


class Living(Filter, name="living", phase=Phase.AUTHENTICATE):
    """Notes when it is started and stopped."""

    number: int = 0

    def build(self, env: Env) -> Hooks:
        return Hooks(
            start=lambda services: NOTES.append(f"start {env.route} {self.number}"),
            stop=lambda: NOTES.append(f"stop {env.route} {self.number}"),
        )


class Outer(Filter, name="outer", phase=Phase.AUTHENTICATE):
    """Holds another."""

    file: ReadableFile

    def build(self, env: Env) -> Hooks:
        return Reader(file=self.file).build(env.inner("reader", Reader(file=self.file)))


NOTES: list[str] = []
TYPES = {each.type_name: each for each in (Reader, EarlyReader, Sharing, Living, Outer)}


def loaded(filters: Mapping[str, Any], routes: Mapping[str, Mapping[str, Any]]) -> Config:
    document = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "filters": filters,
        "routes": [
            {"name": name, "paths": [f"/{name}"], "respond": {}, "filters": own} for name, own in routes.items()
        ],
    }
    return load_document(document, TYPES)


def after(base: Gateway, before: Config, now: Config, files: Mapping[str, bytes]) -> Gateway:
    return at_once(building(plan_after(before, now, files), 1, base))


def links(gateway: Gateway, route: str) -> dict[str, FilterInstance]:
    rule = gateway.routes_by_name[route].rules[0]
    assert rule is not None
    return {link.use.name: link for link in rule[0].route.chain.links}


def said(link: FilterInstance) -> str:
    assert link.hooks.explain is not None
    return link.hooks.explain(cast(Any, None))


@pytest.mark.parametrize(
    ("type_name", "level"),
    [("reader", "gateway"), ("reader", "route"), ("early_reader", "gateway"), ("outer", "gateway"), ("outer", "route")],
)
def test_a_filter_is_built_anew_when_what_it_has_read_changes(tmp_path: Path, type_name: str, level: str):
    file = tmp_path / "file"
    file.write_text("one")
    use = {type_name: {"file": str(file)}}
    configuration = loaded(*((use, {"a": {}, "b": {}}) if level == "gateway" else ({}, {"a": use, "b": {}})))
    base = compile(configuration, 1, {str(file): b"one"})
    assert said(links(base, "a")[type_name]).startswith("b'one'")

    same = after(base, configuration, configuration, {str(file): b"one"})
    assert links(same, "a")[type_name] is links(base, "a")[type_name]
    other = after(same, configuration, configuration, {str(file): b"two"})
    assert said(links(other, "a")[type_name]).startswith("b'two'")
    assert said(links(base, "a")[type_name]).startswith("b'one'")
    if level == "route":
        assert other.routes_by_name["b"] is base.routes_by_name["b"]


def test_a_secret_in_a_file_is_read_like_one(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("one\n")
    use = {"reader": {"file": str(file), "secret": {"file": str(file)}}}
    configuration = loaded({}, {"a": use})
    base = compile(configuration, 1, {str(file): b"one\n"})
    assert said(links(base, "a")["reader"]) == r"b'one\n' one"
    other = after(base, configuration, configuration, {str(file): b"two\r\n"})
    assert said(links(other, "a")["reader"]) == r"b'two\r\n' two"


def test_a_secret_that_is_none_any_more_is_told_with_its_place(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("one")
    configuration = loaded({}, {"a": {"reader": {"file": str(file), "secret": {"file": str(file)}}}})
    with pytest.raises(CompileError) as told:
        compile(configuration, 1, {str(file): b""})
    assert str(told.value) == f"route: filter reader: {file} is empty"


def test_a_policy_on_many_routes_is_one_and_goes_on_after_a_reload():
    configuration = loaded({"sharing": {}}, {"a": {}, "b": {}, "other": {"sharing": {"number": 1}}})
    base = compile(configuration, 1)
    (one,) = {said(links(base, route)["sharing"]) for route in ("a", "b")}
    assert said(links(base, "other")["sharing"]) != one
    now = loaded({"sharing": {}}, {"a": {"living": {}}, "new": {}})
    made = after(base, configuration, now, {})
    assert {said(links(made, route)["sharing"]) for route in ("a", "new")} == {one}


def test_filters_are_started_once_and_stopped_when_they_are_gone():
    NOTES.clear()
    configuration = loaded({}, {"a": {"living": {}}, "b": {"living": {}}})
    base = compile(configuration, 1)
    assert NOTES == []
    base.start(SERVICES, COLUMN)
    base.start(SERVICES, COLUMN)
    assert sorted(NOTES) == ["start a 0", "start b 0"]
    NOTES.clear()
    now = loaded({}, {"a": {"living": {"number": 1}}, "b": {"living": {}}})
    made = after(base, configuration, now, {})
    made.start(SERVICES, COLUMN)
    base.retire(made)
    assert NOTES == ["start a 1", "stop a 0"]
    NOTES.clear()
    made.stop()
    assert sorted(NOTES) == ["stop a 1", "stop b 0"]


def test_tables_that_are_not_wanted_stop_what_is_theirs_alone():
    NOTES.clear()
    configuration = loaded({}, {"a": {"living": {}}})
    base = compile(configuration, 1)
    base.start(SERVICES, COLUMN)
    made = after(base, configuration, loaded({}, {"a": {"living": {}}, "b": {"living": {}}}), {})
    made.start(SERVICES, COLUMN)
    made.retire(base)
    assert NOTES == ["start a 0", "start b 0", "stop b 0"]


def in_namespaces(settings: Filter) -> list[Env]:
    resources = FilterResources()
    return [Env("a", "r", settings, resources, {}, namespace=each) for each in ("shop", "bank")]


def test_namespaces_share_what_knows_no_consumers_and_have_policies_of_their_own() -> None:
    """Such as pools of helper processes, whose number must not grow with that of the namespaces."""
    shop, bank = in_namespaces(Sharing())
    assert shop.shared("pool", object) is bank.shared("pool", object)
    assert shop.policy != bank.policy


@pytest.mark.parametrize("name", ["key_auth", "hmac", "certificate_auth"])
def test_what_knows_consumers_is_shared_within_a_namespace(name: str) -> None:
    settings = ALL_TYPES[name]()
    envs = in_namespaces(settings)
    for env in envs:
        settings.build(env)
    shared = [kept.value for env in envs for kept in env.keeps]
    rosters = [each for value in shared for each in gc.get_referents(value) if isinstance(each, Roster)]
    assert [each.namespace for each in rosters] == ["shop", "bank"]
