"""`state`: the Redis that nodes share, as far as it can be told without asking it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.redis import url
from tests.unit.config.settings.test_admin import problems, read

WANTED = "not a URL such as redis://:password@host:6379/0; expected a Redis URL"


def test_without_it_each_node_knows_for_itself(tmp_path: Path) -> None:
    assert read(tmp_path, "").state is None
    assert read(tmp_path, "state: null").state is None


def test_its_url_is_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("rediss://planted-user:planted@redis.test/3\n")
    monkeypatch.setenv("REDIS_URL", "unix:///run/planted.sock")
    for text in (f"{{file: {tmp_path}/url}}", "{env: REDIS_URL}", "redis://:planted@a:1"):
        made = read(tmp_path, f"state: {{url: {text}, prefix: b}}")
        assert (made.state.when_away, made.state.timeout, made.state.prefix) == ("local", 0.1, "b")
        assert "planted" not in str(config.effective(made)) + repr(made)


def test_a_url_that_is_none_is_told_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("planted")
    for text in (f"{{file: {tmp_path}/url}}", "http://planted", "redis://planted:x"):
        [problem] = problems(tmp_path, f"state: {{url: {text!r}}}" if text[0] != "{" else f"state: {{url: {text}}}")
        assert problem.startswith("a.yaml:3:")
        assert problem.endswith(f"state.url: {WANTED}")


def test_what_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        assert name == "redis"

    monkeypatch.setattr(url, "find_spec", absent)
    [problem] = problems(tmp_path, "state: {url: 'redis://a'}")
    assert "the package redis is missing; pip install 'fastgw[redis]'" in problem
