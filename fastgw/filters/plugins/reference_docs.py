"""Reference documentation of filters and settings: `fastgw filters`, and the pages filters.md and settings.md in
docs/reference.

Generated from the structs: their settings, defaults and docstrings.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from textwrap import fill, indent
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, Struct

from fastgw.config.decoding.decoder import (
    Decoder,
    Either,
    EntryDecoder,
    Field,
    Sequence,
    Structure,
    Table,
    fields_of,
    shape_of,
)
from fastgw.config.decoding.json_schema import field_docs
from fastgw.config.loading.writer import written
from fastgw.config.settings.gateway import Config
from fastgw.filters.api import Filter, Phase
from fastgw.filters.plugins import examples

WIDTH: Final = 110
DEEPEST: Final = 6
"""Maximum nesting of settings."""
FEW: Final = 3
"""Maximum number of nested settings that are documented inline; larger groups get a section of their own."""
OF_ALL: Final = (
    ("type", "string", "The filter type. Default: the name of the instance."),
    ("enforced", "true or false", "Whether inner levels are forbidden to replace or remove this instance."),
    (
        "shadow",
        "true or false",
        "Dry run: the filter decides and reports what it would do, in log and metrics, but does not act. It sees the "
        "identity that shadow filters before it would set, and is skipped where one of them would have answered. "
        "Bodies of requests are judged from a copy. Its decision is `unknown` where it depends on more: bodies of "
        "responses, bodies that a filter in shadow before it would decompress, messages of a WebSocket, and requests "
        "that it would answer from a cache, translate or sign.",
    ),
)
"""Keys of every instance, in addition to its type's settings."""


class Setting(Struct, frozen=True):
    """Setting of a filter."""

    name: str
    """Full name: `request.set`; `[]` stands for each element of a list, `NAME` for each name."""
    type: str
    """Expected form of the value."""
    required: bool
    default: Any
    """Default as written in a file; null also if it is required."""
    text: str


class Manual(Struct, frozen=True):
    """Documentation of a filter."""

    name: str
    phase: str
    early: bool
    """Whether it runs before routing."""
    source: str
    """The class, as `package.module:Class`."""
    text: str
    settings: tuple[Setting, ...]
    example: str = ""
    """Example use in YAML, as part of a configuration; empty for filters of other packages."""

    @property
    def summary(self) -> str:
        """Summary of the filter in a line."""
        return " ".join(self.text.split("\n\n")[0].split())


def manuals(filter_types: Mapping[str, type[Filter]]) -> list[Manual]:
    """Return the manuals of these filters, in running order."""
    in_turn = sorted(filter_types.items(), key=lambda each: (each[1].phase, each[1].order))
    return [manual(name, filter_type) for name, filter_type in in_turn]


def manual(name: str, filter_type: type[Filter]) -> Manual:
    return Manual(
        name=name,
        phase=filter_type.phase.name,
        early=filter_type.phase.early,
        source=f"{filter_type.__module__}:{filter_type.__qualname__}",
        text=inspect.cleandoc(filter_type.__doc__ or ""),
        settings=tuple(_settings(filter_type, "", 0)),
        example=examples.FILTERS.get(name, "") if filter_type.__module__.startswith("fastgw.") else "",
    )


def _settings(settings: type[Struct], above: str, depth: int) -> Iterator[Setting]:
    docs = field_docs(settings)
    defaults = {each.encode_name: each for each in msgspec.structs.fields(settings)}
    for key, field in fields_of(settings).items():
        name = f"{above}{key}"
        text = docs.get(field.name, "")
        default = None if field.required else _default(field, defaults[key])
        yield Setting(name, field.shape.expected, field.required, default, text)
        yield from _common_settings(field.shape, name)
        for suffix, inner in _structures(field.shape) if depth < DEEPEST else ():
            yield from _settings(inner, f"{name}{suffix}.", depth + 1)


def _common_settings(shape: Decoder, above: str) -> Iterator[Setting]:
    """Yield the settings of a mapping by name that concern the mapping itself."""
    if isinstance(shape, Table):
        if shape.besides is not None:
            name, about_all = f"{above}.{shape.besides.name}", shape_of(shape.besides.type)
            yield Setting(name, about_all.expected, False, [], shape.besides.text)
        yield from _common_settings(shape.each, f"{above}.NAME")


def _default(field: Field, declared: Any) -> Any:
    value = declared.default if declared.default is not NODEFAULT else declared.default_factory()
    if value == ():
        return []
    is_plain = value is None or isinstance(value, str) or _structure(field.shape) is None
    return written(field.shape, value) if is_plain else {}


def _structure(shape: Decoder) -> tuple[str, type[Struct]] | None:
    """Return the first of `_structures`."""
    return next(_structures(shape), None)


def _structures(shape: Decoder) -> Iterator[tuple[str, type[Struct]]]:
    """Yield the nested structs of a setting with their name suffix; for alternatives, each one after the first with the
    key that selects it.
    """
    if isinstance(shape, Structure):
        yield "", shape.type
    elif isinstance(shape, Either):
        for place, (suffix, inner) in enumerate(each for option in shape.shapes for each in _structures(option)):
            yield (f"{{{next(iter(fields_of(inner)))}}}{suffix}" if place else suffix), inner
    elif isinstance(shape, EntryDecoder):
        yield "", shape.usual.type
        yield f"{{{shape.expanded.first.key}}}", shape.expanded.type
    elif isinstance(shape, Sequence | Table):
        own = "[]" if isinstance(shape, Sequence) else ".NAME"
        yield from ((f"{own}{suffix}", inner) for suffix, inner in _structures(shape.each))


def table(all_manuals: Iterable[Manual]) -> str:
    """Return a table with one filter per line."""
    rows = [
        ("FILTER", "PHASE", "WHAT IT DOES"),
        *((each.name, each.phase.lower(), each.summary) for each in all_manuals),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {phase:<{widths[1]}}  {text}" for name, phase, text in rows)


def as_text(manual: Manual) -> str:
    """Return the documentation of one filter as text."""
    when = "before a route is found, for every request" if manual.early else "once a route is found"
    parts = [f"{manual.name} (phase {manual.phase.lower()}: {when})", fill_all(manual.text), "Settings:"]
    for each in manual.settings:
        parts.append(f"  {each.name}: {_kind(each)}\n{indent(fill_all(each.text, WIDTH - 6), ' ' * 6)}")
    if not manual.settings:
        parts.append("  none of its own")
    parts.append("Every filter:")
    parts += [f"  {name}: {kind}\n{indent(fill_all(text, WIDTH - 6), ' ' * 6)}" for name, kind, text in OF_ALL]
    if manual.example:
        parts.append(f"Example:\n\n{indent(manual.example.rstrip(), '  ')}")
    return "\n\n".join(parts)


def as_markdown(filter_types: Mapping[str, type[Filter]]) -> str:
    """Return the text of docs/reference/filters.md."""
    all_manuals = manuals(filter_types)
    lines = [
        "# Filters",
        "",
        "<!-- Generated by `make docs` from the filters themselves: change them, not this page. -->",
        "",
        "A filter (a policy; Kong's plugin, Traefik's middleware) is used under a name of your choice, at the level",
        "of the gateway, a listener, an upstream, a filter set or a route: `filters: {NAME: {type: TYPE, …settings}}`.",
        "`type` may be left out where the name is that of a type. Levels add up; the innermost use of a name counts,",
        "and `NAME: null` or `NAME: off` removes what an outer level added. [request_id](#request_id) is built in.",
        "",
        "Filters run in the order of this table, whatever the order in the file; responses pass them in reverse order.",
        f"Those of the phases {_listed([phase for phase in Phase if phase.early])} run before a route is found.",
        "",
        "| Filter | Phase | What it does |",
        "|---|---|---|",
        *(f"| [{each.name}](#{each.name}) | {each.phase.lower()} | {_cell(each.summary)} |" for each in all_manuals),
        "",
        "Every filter has these keys as well:",
        "",
        *(f"- `{name}` ({kind}): {text}" for name, kind, text in OF_ALL),
        "",
        "To write one of your own, see [Write a filter](../guides/write-a-filter.md).",
    ]
    described: dict[type[Struct], str] = {}
    for each in all_manuals:
        lines += ["", f"## {each.name}", "", each.text, "", f"Phase: {each.phase.lower()}."]
        if each.example:
            lines += ["", "```yaml", each.example.rstrip(), "```"]
        lines += _reference(filter_types[each.name], "", f"{each.name}.", described)
    return "\n".join(lines) + "\n"


def settings_as_markdown() -> str:
    """Return docs/reference/settings.md: all settings of a configuration, except those of filters."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated by `make docs` from the settings themselves: change them, not this page. -->",
        "",
        "All that a configuration may contain, in YAML, TOML or JSON. `[]` stands for each element of a list, `NAME`",
        "for each name. Every number means the node, not one worker. See [Filters](filters.md) for what `filters` may",
        "be, and [Consumers](../guides/consumers.md) for what consumers are for.",
        "",
        "Any plain value (text, a number, `true`, a duration, an address, the name of a file, …) may be `{env: NAME}`:",
        "what the environment variable NAME holds when the configuration is read, judged as if it stood there.",
        "In place of a list it holds the elements, with commas between them. `${NAME}` within a text means nothing. A",
        "document that comes over the admin API may not read the environment so.",
    ]
    docs = field_docs(Config)
    described: dict[type[Struct], str] = {}
    for key, field in fields_of(Config).items():
        lines += ["", f"## {key}", "", docs.get(field.name, ""), "", "```yaml", examples.SETTINGS[key].rstrip(), "```"]
        for place, (suffix, inner) in enumerate(_structures(field.shape)):
            heading = f"{key}{suffix}"
            if place:
                example = examples.SETTINGS[heading].rstrip()
                lines += [
                    "",
                    f"### {heading}",
                    "",
                    inspect.cleandoc(inner.__doc__ or ""),
                    "",
                    "```yaml",
                    example,
                    "```",
                ]
            lines += _reference(inner, f"{key}{suffix}.", f"{key}{suffix}.", described)
    return "\n".join(lines) + "\n"


def _reference(settings: type[Struct], above: str, place: str, described: dict[type[Struct], str]) -> Iterator[str]:
    """Yield the settings of a struct as a list with anchors, followed by a section for each group of settings in it.

    `above`: prefix of the names; `place`: prefix of the anchors. `described`: by struct, the anchor of the group that
    has described it; further groups with the same settings link to it.
    """
    docs, defaults = field_docs(settings), {each.encode_name: each for each in msgspec.structs.fields(settings)}
    groups: list[tuple[str, str, type[Struct], str]] = []
    for key, field in fields_of(settings).items():
        name, text = f"{above}{key}", docs.get(field.name, "")
        default = None if field.required else _default(field, defaults[key])
        yield from ("", *_item(Setting(name, field.shape.expected, field.required, default, text), f"{place}{key}"))
        for each in _common_settings(field.shape, name):
            yield from ("", *_item(each, f"{place}{each.name.removeprefix(above)}"))
        beside: list[tuple[str, type[Struct]]] = []
        for suffix, inner in _structures(field.shape):
            anchor = f"{place}{key}{suffix}"
            if inner not in described and _is_small(inner):
                beside.append((suffix, inner))
                continue
            if inner not in described:
                described[inner] = anchor
                groups.append((f"{name}{suffix}", anchor, inner, text))
            yield from ("", f"    Keys: see [`{described[inner]}`](#{_slug(described[inner])}).")
        for suffix, inner in beside:
            yield from _reference(inner, f"{name}{suffix}.", f"{place}{key}{suffix}.", described)
    for name, anchor, inner, text in groups:
        yield from ("", f"### {anchor}", "", text)
        if anchor in examples.SETTINGS:
            yield from ("", "```yaml", examples.SETTINGS[anchor].rstrip(), "```")
        yield from _reference(inner, f"{name}.", f"{anchor}.", described)


def _is_small(settings: type[Struct]) -> bool:
    """Whether the settings are documented beside the setting that contains them."""
    fields = fields_of(settings).values()
    return len(fields) <= FEW and not any(_structure(each.shape) for each in fields)


def _slug(heading: str) -> str:
    """Return the anchor of a heading, as Markdown renderers generate it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def _item(setting: Setting, anchor: str) -> Iterator[str]:
    yield f'- <a id="{anchor}"></a>`{setting.name}` ({_kind(setting, "`")})'
    if setting.text:
        yield from ("", indent(setting.text, "    "))


def _kind(setting: Setting, quote: str = "") -> str:
    if setting.required:
        return f"{setting.type}; required"
    return f"{setting.type}; default {quote}{json.dumps(setting.default, ensure_ascii=False)}{quote}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _listed(phases: list[Phase]) -> str:
    *first, last = (phase.name.lower() for phase in phases)
    return f"{', '.join(first)} and {last}"


def fill_all(text: str, width: int = WIDTH) -> str:
    """Fill each paragraph of a text."""
    return "\n\n".join(fill(" ".join(each.split()), width) for each in text.split("\n\n"))
