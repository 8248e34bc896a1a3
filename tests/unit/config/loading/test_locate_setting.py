"""Settings that this machine cannot use are reported where they stand, by `check`, a start and a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.loading.locate_setting import UnusableSetting, locate_settings
from fastgw.filters import TYPES
from fastgw.runtime.reload.sink_checks import unusable_sinks
from tests.support.commands import ended

MAIN = """\
version: 1
include: [more.yaml]
listeners: {main: {address: "127.0.0.1:0"}}
status: null
admin: null
access_logs: [{sink: stdout}]
routes: []
"""
MORE = """\
access_logs:
  - {format: json, sink: FOLDER}
  - sink: {file: {path: FOLDER/none/a.log, every: 24h}}
  - sink: {http: {url: "https://logs.test/a", ca: FOLDER/a.pem}}
"""
FILE = "expected `stdout`, or a file that this user can write, in a directory that exists"


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Loaded:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gw.yaml").write_text(MAIN)
    (tmp_path / "a.pem").write_text("no certificate")
    (tmp_path / "more.yaml").write_text(MORE.replace("FOLDER", str(tmp_path)))
    return config.load("gw.yaml", TYPES)


def lines(folder: Path) -> list[str]:
    return [
        f"more.yaml:2:26: access_logs[0].sink: {folder} is a directory; {FILE}",
        f"more.yaml:3:11: access_logs[1].sink: directory {folder}/none does not exist; {FILE}",
        f"more.yaml:4:11: access_logs[2].sink: {folder}/a.pem has no certificate in PEM; "
        "expected files in PEM that this user can read",
    ]


def test_each_unusable_access_log_has_its_position(loaded: config.Loaded, tmp_path: Path) -> None:
    assert [str(each) for each in locate_settings(loaded, TYPES, unusable_sinks(loaded))] == lines(tmp_path)


def test_check_shows_them_as_notes(loaded: config.Loaded, tmp_path: Path) -> None:
    told = ended("check", "gw.yaml", directory=tmp_path).stdout.splitlines()
    assert [line.removeprefix("note: ") for line in told if "access_logs" in line] == lines(tmp_path)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("listeners", "main", "address"), "gw.yaml:3:29: listeners.main.address"),
        (("status", "address"), "gw.yaml:4:9: status.address"),
        (("quotas", "file"), "gw.yaml: quotas.file"),
        (("upstreams", "none", "targets"), "gw.yaml: upstreams.none.targets"),
    ],
)
def test_a_setting_has_the_position_of_its_value_or_that_of_the_file(
    loaded: config.Loaded, path: tuple[str, ...], place: str
) -> None:
    (problem,) = locate_settings(loaded, TYPES, [UnusableSetting(path, "wrong", "expected right")])
    assert str(problem) == f"{place}: wrong; expected right"


def test_an_option_of_the_command_line_is_named(tmp_path: Path) -> None:
    made = config.from_flags("127.0.0.1:0", "http://a.test", TYPES, access_log=str(tmp_path))
    flags = config.Loaded.of(made)
    (problem,) = locate_settings(flags, TYPES, unusable_sinks(flags))
    assert str(problem) == f"--access-log: {tmp_path} is a directory; {FILE}"


@pytest.mark.parametrize("of", ["traces", "metrics"])
@pytest.mark.parametrize("secret", [r'"a\0b"', "{env: COLLECTOR_KEY}", "{file: key}"])
def test_a_value_that_no_header_can_have_is_reported_at_the_header_of_the_collector(tmp_path, monkeypatch, of, secret):
    monkeypatch.setenv("COLLECTOR_KEY", "a\x7fb")
    (tmp_path / "key").write_bytes(b"a\x01b")
    export = f"{of}:\n    otlp:\n      url: http://127.0.0.1:4318\n      headers:\n        X-Key: {secret}\n"
    main = MAIN.replace("include: [more.yaml]\n", "")
    (tmp_path / "gw.yaml").write_text(f"{main}telemetry:\n  {export}")
    checked = ended("check", "gw.yaml", directory=tmp_path)
    assert checked.exit_code == 1
    wrong = "its value is not allowed in a header"
    assert f"gw.yaml:12:16: telemetry.{of}.otlp.headers.X-Key: {wrong}" in checked.output
