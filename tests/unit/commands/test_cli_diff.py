"""`fastgw diff`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fastgw.cli import app

OLD = "version: 1\nlisteners: {main: {address: '127.0.0.1:8080'}}\nroutes: [{name: x, respond: {body: ok}}]\n"
NEW = OLD.replace("[", "[{name: y, paths: [/y], respond: {body: y}}, ")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "old": OLD,
        "new": NEW,
        "bad": OLD.replace("routes", "ruotes"),
        "worse": "listeners: {}",
    }.items():
        Path(f"{name}.yaml").write_text(text)
    return tmp_path


def diff(*arguments: str) -> Result:
    ended = CliRunner().invoke(app, ["diff", *arguments], prog_name="fastgw")
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_what_would_change_is_told_and_nothing_is_wrong_with_that(files):
    ended = diff("old.yaml", "new.yaml")
    assert (ended.stdout, ended.stderr, ended.exit_code) == ("route y: added\n", "", 0)
    assert diff("new.yaml", "old.yaml").stdout == "route y: removed\n"


def test_nothing_may_change_too(files):
    ended = diff("old.yaml", "old.yaml")
    assert (ended.stdout, ended.exit_code) == ("nothing changes\n", 0)


def test_as_json(files):
    ended = diff("old.yaml", "new.yaml", "--format", "json")
    told = json.loads(ended.stdout)
    assert ended.exit_code == 0
    assert list(told) == ["settings", "listeners", "upstreams", "routes", "consumers", "filters", "needs"]
    assert [item["name"] for item in told["routes"]["added"]] == ["y"]


@pytest.mark.parametrize("command", [["diff", "bad.yaml", "old.yaml"], ["explain", "bad.yaml", "GET", "http://a/"]])
def test_what_is_wrong_is_json_too_if_that_is_asked_for(files, command):
    """The same problems as of `check`."""
    ended = CliRunner().invoke(app, [*command, "--format", "json"], prog_name="fastgw")
    checked = CliRunner().invoke(app, ["check", "bad.yaml", "--format", "json"], prog_name="fastgw")
    assert (ended.exit_code, ended.stderr) == (1, "")
    assert json.loads(ended.stdout) == {"problems": json.loads(checked.stdout)["problems"]}


def test_what_is_wrong_with_either_file_is_told(files):
    ended = diff("bad.yaml", "worse.yaml")
    assert (ended.stdout, ended.exit_code) == ("", 1)
    assert ended.stderr.splitlines()[0] == 'bad.yaml:3:1: ruotes: unknown key; did you mean "routes"?'
    assert "worse.yaml:1:1: version: missing; expected 1" in ended.stderr
    for files_given in (("old.yaml", "bad.yaml"), ("bad.yaml", "old.yaml"), ("missing.yaml", "old.yaml")):
        ended = diff(*files_given)
        assert (ended.stdout, ended.exit_code) == ("", 1)
        assert len(ended.stderr.splitlines()) == 1


def test_what_is_wrong_with_a_file_that_is_both_is_told_once(files):
    assert len(diff("bad.yaml", "bad.yaml").stderr.splitlines()) == 1


def test_an_empty_file_is_told_to_be_empty(files):
    Path("empty.yaml").write_text("\n")
    assert "the file is empty; expected an object" in diff("empty.yaml", "old.yaml").stderr


def test_two_files_are_needed(files):
    assert diff("old.yaml").exit_code == 2
