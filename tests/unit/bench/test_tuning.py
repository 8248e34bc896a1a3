"""The guide to tuning names nothing that is not there: settings, defaults, metrics, faults, commands, rows."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.knobs.knobs import KNOBS
from bench.scenarios import SCENARIOS
from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.observe.metrics.families import FAMILIES
from fastgw.runtime.node.metrics import Exposition
from fastgw.runtime.process.machine_capacity import connections_held
from fastgw.runtime.sockets.listening_sockets import BACKLOG

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "tuning.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL))
UNITS = {"s": 1, "m": 60, "KiB": 1024, "MiB": 1024**2}


FOREIGN = re.compile(r"(net|fs|cpu|bench)\.|limits\.conf$")
"""What has dots as settings do: the kernel's own, files and modules."""


def settings_in(struct: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its default, by its path. What is in a list or a mapping begins a path: `pool.max_idle`."""
    for field in msgspec.structs.fields(struct):
        name = f"{path}{field.name}"
        yield name, field.default
        for part, is_value in structs_in(field.type):
            yield from settings_in(part, f"{name}." if is_value else "")


def structs_in(annotation: Any, is_value: bool = True) -> Iterator[tuple[type, bool]]:
    """The structs of a type, and whether the setting is one of them, not a collection."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation, is_value
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated)
    for part in typing.get_args(annotation):
        yield from structs_in(part, is_value and is_union)


DEFAULTS = dict(settings_in(settings.Config))


def value_of(text: str) -> Any:
    """`75s`, 1,024, `32KiB`, `null`, `auto` as the configuration holds them."""
    text = text.strip("`")
    if found := re.fullmatch(r"([\d,]+)(\w*)", text):
        return int(found[1].replace(",", "")) * UNITS.get(found[2], 1)
    return {"null": None}.get(text, text)


def test_every_setting_that_is_named_exists():
    named = [span for span in SPANS if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) and not FOREIGN.match(span)]
    assert len(named) > 15
    assert not [name for name in named if name not in DEFAULTS]


def test_every_default_that_is_named_is_the_default():
    told = re.findall(r"`([a-z_.]+)`\s+\(default\s+(`[^`]+`|[\d,]+)\)", TEXT)
    assert len(told) >= 11
    assert {name: value_of(text) for name, text in told} == {name: DEFAULTS[name] for name, _ in told}


def test_every_metric_that_is_named_exists():
    source = Path(typing.cast(str, __import__(Exposition.__module__, fromlist=["_"]).__file__)).read_text()
    known = {family.name for family in FAMILIES} | set(re.findall(r'"(fastgw_\w+)"', source))
    named = set(re.findall(r"\bfastgw_\w+", TEXT))
    assert len(named) >= 8
    assert {name.removesuffix("_bucket") for name in named} <= known


def test_every_fault_that_is_named_exists():
    named = set(re.findall(r'fault="(\w+)"', TEXT))
    assert named
    assert named <= {fault.label for fault in Fault}


def test_every_benchmark_that_is_named_exists():
    assert set(re.findall(r"python -m bench ([a-z]+)", TEXT)) <= {*SCENARIOS, "all", "hold", "compare"}
    for module in re.findall(r"python -m (bench\.\w+)", TEXT):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists()


def test_every_row_that_is_named_is_a_knob():
    named = set(re.findall(r"\b[Rr]ows? `(\w+)`", TEXT)) | set(re.findall(r"\brows `\w+` and `(\w+)`", TEXT))
    assert named == {make.__name__ for make in KNOBS}


def test_links_within_it_lead_to_headings():
    titles = re.findall(r"^#+ (.*)", TEXT, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)\s]+)\)", TEXT)) <= headings


def test_numbers_of_the_runtime_are_told_as_they_are():
    table = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \|$", TEXT, re.MULTILINE)
    assert table
    assert [value_of(held) for _, held in table] == [connections_held(value_of(files)) for files, _ in table]
    assert f"fastgw asks for {BACKLOG:,}" in " ".join(TEXT.split())
