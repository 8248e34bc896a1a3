"""Commands about configuration files: `check`, `explain`, `diff`, `schema` and `filters`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from fastgw import config
from fastgw.commands.configuration_input import load_configuration, read_configuration
from fastgw.commands.exit_codes import WRONG
from fastgw.commands.options import STDIN, ExtensionDirOption, FileArgument, Format, FormatOption, Syntax, SyntaxOption
from fastgw.commands.output import fail, print_json, refuse, with_excerpts
from fastgw.config.base.value_types import Address


class FilterFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


class SchemaFormat(StrEnum):
    JSON = "json"
    MARKDOWN = "markdown"


MORE_FILES: Final = {"allow_extra_args": True}
"""Settings of commands that refuse further arguments themselves (`_expect_one_file`), with a hint."""


def check(
    context: typer.Context,
    file: FileArgument,
    syntax: SyntaxOption = Syntax.YAML,
    extension_dir: ExtensionDirOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Check a configuration and report all errors and notes."""
    _expect_one_file(context)
    from fastgw.analytics.usage import why_not_analytics
    from fastgw.cache.tiers.disk_claims import why_not_disk
    from fastgw.config.loading.locate_setting import UnusableSetting, locate_settings
    from fastgw.filters import TYPES
    from fastgw.gateway.compiler import compile
    from fastgw.gateway.tables import CompileError
    from fastgw.observe.access_log.sink import why_not
    from fastgw.runtime.reload.config_notes import notes_of
    from fastgw.runtime.reload.sink_checks import unusable_sinks
    from fastgw.runtime.sockets.listening_sockets import why_not_listen

    excerpts: Mapping[config.Problem, str] = {}
    try:
        loaded = load_configuration(file, syntax)
        file = loaded.files[0]
        problems, notes = [], notes_of(loaded, compile(loaded.config, 1, loaded.captured))
        unusable = [*unusable_sinks(loaded)]
        for path, address in _addresses(loaded.config):
            if problem := why_not_listen(address):
                unusable.append(UnusableSetting(path, problem))
        if (quotas := loaded.config.quotas.file) and (reason := why_not(quotas)):
            unusable.append(
                UnusableSetting(("quotas", "file"), f"{reason}: counters would be lost when the gateway stops")
            )
        if (audit := loaded.config.audit) and (reason := why_not(audit.path)):
            unusable.append(UnusableSetting(("audit", "path"), f"{reason}: entries would wait in memory"))
        if (kept := loaded.config.analytics) and (reason := why_not_analytics(kept.path)):
            unusable.append(UnusableSetting(("analytics", "path"), reason))
        for name, each in loaded.config.caches.items():
            if each.disk is not None and (reason := why_not_disk(each.disk.path)):
                unusable.append(UnusableSetting(("caches", name, "disk", "path"), reason))
        notes += locate_settings(loaded, TYPES, unusable)
    except config.ConfigError as error:
        problems, notes, excerpts = [*error.problems], [], error.excerpts
    except CompileError as error:
        problems, notes = [*error.problems(loaded, TYPES)], []
    if answer is Format.JSON:
        print_json({"problems": problems, "notes": notes})
    else:
        for line in with_excerpts(problems, excerpts):
            typer.echo(line)
        for note in notes:
            typer.echo(f"note: {note}")
        if not problems:
            typer.echo(f"{file}: configuration is valid{_notes_suffix(notes)}")
    if problems:
        raise typer.Exit(WRONG)


def explain(
    file: FileArgument,
    method: Annotated[str, typer.Argument(metavar="METHOD")],
    url: Annotated[str, typer.Argument(metavar="URL", help="URL as the client requests it.")],
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", metavar="'N: V'", help="Header of the request.")
    ] = None,
    client: Annotated[str, typer.Option(metavar="IP", help="Client address of the request.")] = "127.0.0.1",
    listener: Annotated[
        str | None, typer.Option(metavar="NAME", help="Listener that receives the request. Default: by the URL's port.")
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The client certificate, in PEM. It is treated as verified."),
    ] = None,
    syntax: SyntaxOption = Syntax.YAML,
    extension_dir: ExtensionDirOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Explain how a request would be routed and why, without sending it."""
    from fastgw.explain import as_text, certificate_in
    from fastgw.explain import explain as explanation_of
    from fastgw.filters import TYPES
    from fastgw.gateway.compiler import compile
    from fastgw.gateway.tables import CompileError

    loaded = read_configuration(lambda: load_configuration(file, syntax), answer)
    logging.getLogger("fastgw").addHandler(logging.NullHandler())  # exceptions of filters are part of the explanation
    try:
        gateway = compile(loaded.config, 1, loaded.captured)
        shown = None if certificate is None else certificate_in(certificate)
        explanation = explanation_of(gateway, method, url, header or (), client, listener, shown, loaded.config.routes)
    except CompileError as error:
        refuse(answer, [*error.problems(loaded, TYPES)])
    except ValueError as error:
        fail(WRONG, f"fastgw: {error}")
    if answer is Format.JSON:
        print_json(explanation)
    else:
        typer.echo(as_text(explanation))


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A configuration; - reads it from stdin.")],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The configuration to compare it with; - reads it from stdin.")
    ],
    syntax: SyntaxOption = Syntax.YAML,
    extension_dir: ExtensionDirOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show what a reload from one configuration to the other would change."""
    from fastgw.diff import as_text, differences

    problems: list[config.Problem] = []
    excerpts: dict[config.Problem, str] = {}
    loaded = []
    if old == new == STDIN:
        raise typer.BadParameter("only one of them can come from stdin")
    for file in (old, new):
        try:
            loaded.append(load_configuration(file, syntax))
        except config.ConfigError as error:
            problems += error.problems
            excerpts |= error.excerpts
    if problems:
        refuse(answer, [*dict.fromkeys(problems)], excerpts)
    found = differences(*loaded)
    if answer is Format.JSON:
        print_json(found)
    else:
        typer.echo(as_text(found))


def schema(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A configuration whose extensions are included in the schema.")
    ] = None,
    extension_dir: ExtensionDirOption = None,
    answer: Annotated[SchemaFormat, typer.Option("--format", help="Output format.")] = SchemaFormat.JSON,
) -> None:
    """Print the JSON Schema of configuration files, for editors; or all settings as Markdown."""
    from fastgw.config.decoding.json_schema import schema as schema_of
    from fastgw.filters.plugins import reference_docs

    if answer is SchemaFormat.MARKDOWN:
        typer.echo(reference_docs.settings_as_markdown(), nl=False)
    else:
        print_json(schema_of(_filter_types(file)))


def filters(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show the full manual of this filter.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="A configuration whose extensions are listed too.")
    ] = None,
    extension_dir: ExtensionDirOption = None,
    answer: Annotated[FilterFormat, typer.Option("--format", help="Output format.")] = FilterFormat.TEXT,
) -> None:
    """List all filters, or show the manual of one."""
    from fastgw.config.sources.extension_packages import UnknownType, type_called
    from fastgw.filters import TYPES
    from fastgw.filters.plugins import reference_docs

    known = _filter_types(file)
    if name is not None and name not in known:
        try:
            known = {name: type_called(name, known)}
        except UnknownType as error:
            instances = (
                [] if file is None else [*_instances(read_configuration(lambda: config.load(file, TYPES)).config, name)]
            )
            if not instances:
                hint = (
                    "" if file is not None else f"; for a filter of a configuration: fastgw filters {name} --file FILE"
                )
                fail(WRONG, f"fastgw: {'; '.join(filter(None, (error.wrong, error.expected)))}{hint}")
            for use, type_name in instances:
                typer.echo(f"{use}: a {type_name} filter named {name}", err=True)
            name = instances[0][1]
            known = {name: type_called(name, known)}
    chosen = known if name is None else {name: known[name]}
    all_manuals = reference_docs.manuals(chosen)
    if answer is FilterFormat.JSON:
        print_json(all_manuals if name is None else all_manuals[0])
    elif answer is FilterFormat.MARKDOWN:
        typer.echo(reference_docs.as_markdown(chosen), nl=False)
    else:
        typer.echo(reference_docs.table(all_manuals) if name is None else reference_docs.as_text(all_manuals[0]))


def _expect_one_file(context: typer.Context) -> None:
    if context.args:
        further = ", ".join(context.args)
        raise typer.BadParameter(f"expected one FILE, but got {further} too; one FILE may `include` others")


def _addresses(configuration: config.Config) -> Iterator[tuple[tuple[str, ...], Address]]:
    """Yield the listening addresses, and their settings."""
    for name, listener in configuration.listeners.items():
        yield ("listeners", name, "address"), listener.address
    for name in ("status", "admin"):
        if (own := getattr(configuration, name)) is not None:
            yield (name, "address"), own.address


def _notes_suffix(notes: Sequence[config.Problem]) -> str:
    return f", with {'a note' if len(notes) == 1 else 'notes'} above" if notes else ""


def _filter_types(file: str | None) -> Mapping[str, Any]:
    """Return the filter types, including those of this configuration's extensions."""
    from fastgw.filters import TYPES

    if file is None:
        return TYPES
    try:
        return config.filter_types_of(file, TYPES)
    except config.ConfigError as error:
        fail(WRONG, *map(str, error.problems))


def _instances(configuration: config.Config, name: str) -> Iterator[tuple[str, str]]:
    """Yield the places of the filters with this name, and the type of each."""
    levels = {"filters": configuration.filters}
    levels |= {f"filter_sets.{key}": filters for key, filters in configuration.filter_sets.items()}
    levels |= {f"listeners.{key}.filters": each.filters for key, each in configuration.listeners.items()}
    levels |= {f"upstreams.{key}.filters": each.filters for key, each in configuration.upstreams.items()}
    levels |= {f"routes.{each.name}.filters": each.filters for each in configuration.routes}
    for level, filters in levels.items():
        if (use := filters.get(name)) is not None:
            yield f"{level}.{name}", use.type
