"""Targets that stand in a file of their own: read and captured with the configuration, and wrong at their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.loading.writer import effective
from fastgw.filters import TYPES

MAIN = """\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams:
  u: {targets: {file: lists/targets.yaml}}
  v: {targets: [{url: "http://127.0.0.1:9"}]}
routes: [{name: u, upstream: u}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    (tmp_path / "gw.yaml").write_text(MAIN)
    return tmp_path / "lists" / "targets.yaml"


def loaded(file: Path) -> config.Loaded:
    return config.load(str(file.parent.parent / "gw.yaml"), TYPES)


def wrong(file: Path) -> list[str]:
    with pytest.raises(config.ConfigError) as raised:
        loaded(file)
    return [str(each).replace(f"{file.parent.parent}/", "") for each in raised.value.problems]


def test_they_are_as_if_they_stood_in_the_configuration(file: Path) -> None:
    file.write_text("- {url: 'http://127.0.0.1:9001', weight: 3}\n- {url: 'http://127.0.0.1:9002'}\n")
    made = loaded(file)
    assert [(target.url.port, target.weight) for target in made.config.upstreams["u"].targets] == [(9001, 3), (9002, 1)]
    assert made.captured[str(file)] == file.read_bytes()
    file.unlink()
    assert config.load_sources(made.sources, made.captured, TYPES).config == made.config
    assert effective(made.config)["upstreams"]["u"]["targets"] == {"file": str(file)}


def test_json_by_its_ending(file: Path) -> None:
    other = file.with_suffix(".json")
    other.write_text('[{"url": "http://127.0.0.1:9001"}]')
    (file.parent.parent / "gw.yaml").write_text(MAIN.replace("targets.yaml", "targets.json"))
    assert loaded(file).config.upstreams["u"].targets[0].url.port == 9001


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- {url: nowhere}\n", "1:9: [0].url: not a valid value"),
        ("- {ur: 'http://a:1'}\n", '1:4: [0]["…"]: unknown key; did you mean "url"?'),
        ("[]\n", "1:1: an empty list; expected at least one"),
        ("targets: []\n", "1:1: an object; expected a list of targets"),
        ("{a", "1:1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    problems = wrong(file)
    assert problems[0].startswith(f"lists/targets.yaml:{told}") or f"lists/targets.yaml:2:1: {told[5:]}" in problems[0]


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ("{file: lists/other.yaml}", '4:23: upstreams.u.targets.file: "lists/other.yaml" cannot be read: No such file'),
        (
            "{files: x}",
            "4:16: upstreams.u.targets: an object; expected a non-empty list (each element: a URL or an object)",
        ),
        (
            "5",
            "4:16: upstreams.u.targets: 5; expected a non-empty list (each element: a URL or an object) or {file: …}",
        ),
        ("[{url: 5}]", "4:23: upstreams.u.targets[0].url: 5; expected a URL"),
    ],
)
def test_what_names_no_file_is_told_in_the_configuration(file: Path, targets: str, told: str) -> None:
    (file.parent.parent / "gw.yaml").write_text(MAIN.replace("{file: lists/targets.yaml}", targets))
    assert wrong(file)[0].startswith(f"gw.yaml:{told}")


def urls(count: int) -> list[str]:
    return [f"http://10.{number >> 16}.{number >> 8 & 255}.{number & 255}:80" for number in range(count)]


def test_an_upstream_has_a_bounded_number_of_targets(file: Path) -> None:
    """A worker would be silent for so long that it is killed."""
    main = file.parent.parent / "gw.yaml"
    file.write_text("".join(f"- {url}\n" for url in urls(5000)))
    made = loaded(file)
    assert len(made.config.upstreams["u"].targets) == 5000
    file.write_text("".join(f"- {url}\n" for url in urls(5001)))
    assert wrong(file) == ["lists/targets.yaml:1:1: not a valid value; expected at most 5000 elements"]
    main.write_text(MAIN.replace("{file: lists/targets.yaml}", json.dumps(urls(5001))))
    assert wrong(file) == ["gw.yaml:4:16: upstreams.u.targets: a list of 5001; expected at most 5000 elements"]
    put = config.Source("upstreams.u.targets", json.dumps(urls(5001)).encode(), suffix=".json", upstream="u")
    with pytest.raises(config.ConfigError) as raised:
        config.load_sources([*made.sources, put], made.captured, TYPES)
    assert "a list of 5001; expected at most 5000 elements" in str(raised.value)


def test_a_list_of_targets_has_a_bounded_size(file: Path) -> None:
    """The count is known only after a file was parsed."""
    file.write_text("- http://127.0.0.1:9001\n" + "#" * 1024 * 1024)
    assert wrong(file) == ["lists/targets.yaml: longer than 1 MiB; expected a shorter list of targets"]


def test_all_upstreams_together_have_a_bounded_number_of_targets(file: Path) -> None:
    """More have no slots in the node's shared memory: `check` says so, and not only the start."""
    upstreams = {f"u{number}": {"targets": urls(5000)} for number in range(14)}
    given = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "upstreams": upstreams, "routes": []}
    (file.parent.parent / "gw.yaml").write_text(json.dumps(given))
    (said,) = wrong(file)
    assert said.endswith(
        "upstreams.u13.targets: more than 65536 targets in all upstreams together; expected fewer targets"
    )
