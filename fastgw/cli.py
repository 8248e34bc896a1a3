"""The commands. Errors are reported in one line each, without a traceback.

Exit codes: 0 success, 1 invalid file or request, 2 usage, 3 the gateway could not start or be reached, 70 an internal
error, 74 the output cannot be written.

PERF: each command imports what it needs. `fastgw reload` takes 0.17 s of user time instead of 0.46, `--version` 0.10,
`check` 0.38 instead of 0.43 (CPython 3.11, `time fastgw reload`).
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import msgspec
import typer
from typer.core import TyperCommand
from typer.main import get_command_name

from fastgw import VERSION, config
from fastgw.admin import TOKEN
from fastgw.config.base.value_types import Address, parse_address
from fastgw.config.settings.secrets import SecretError
from fastgw.config.sources.files import LARGEST
from fastgw.kernel import CallRefused

if TYPE_CHECKING:
    from typer.models import CommandInfo

    from fastgw.admin.client import AdminClient
    from fastgw.admin.gateway_registry import Found
    from fastgw.admin.gateway_selection import Choice, GatewayChoice
    from fastgw.admin.node_interface import Outcome
    from fastgw.runtime.node.bound_addresses import Bound
    from fastgw.runtime.node.child_slots import Work

WRONG: Final = 1
USAGE: Final = 2
CANNOT_START: Final = 3
UNREACHABLE: Final = 3
PROGRAM: Final = "fastgw"
COMPLETE: Final = "_FASTGW_COMPLETE"
"""Environment variable by which a shell requests completions."""
STORY_S: Final = 5.0
"""Seconds to wait for the story of a request that was answered."""
OUTPUT_LOST: Final = 74  # EX_IOERR of sysexits.h
DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h: an internal error
GATEWAYS: Final = (["run"], ["demo"])
"""Commands that start a gateway."""
UNCOLLECTED: Final = 200_000
"""Number of new objects after which a command collects garbage, or a gateway that is importing. Imports make fewer."""
USUAL: Final = gc.get_threshold()
"""Thresholds of garbage collection that the interpreter starts with, for what goes on after its imports."""

app = typer.Typer(
    help="An API gateway and reverse proxy.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
audit_app = typer.Typer(help="Audit logs.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")


T = TypeVar("T")


def _checked_share(share: float) -> float:
    """Return the value of an option, which click's ranges cannot check: `nan` is in all of them."""
    if not 0.0 < share <= 1.0:
        raise typer.BadParameter(f"{share:g} is not above 0 and at most 1")
    return share


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class AnalyticsFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class By(StrEnum):
    ROUTE = "route"
    CONSUMER = "consumer"
    PLAN = "plan"
    STATUS = "status"
    STATUS_CLASS = "status_class"
    METHOD = "method"


class AnalyticsStep(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


class ReplayedUpstreams(StrEnum):
    RECORDED = "recorded"
    LIVE = "live"


class FilterFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


class Syntax(StrEnum):
    """Syntax of a configuration without a file name."""

    YAML = "yaml"
    TOML = "toml"
    JSON = "json"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


class SchemaFormat(StrEnum):
    JSON = "json"
    MARKDOWN = "markdown"


STDIN: Final = "-"
"""Argument in place of a file's name."""
_LIKE_TOML: Final = re.compile(rb"^(\[\[?[\w.\"' -]+\]\]?[ \t]*(#.*)?\r?|[\w.-]+[ \t]*=[ \t]*\S.*)$", re.MULTILINE)
"""Matches a line that begins a table, or assigns a value to a key."""
_BYTES_ALLOWED: Final = frozenset(
    (
        *("against", "allow", "certificate", "extension_dir", "file", "key_file", "new", "out", "recording"),
        *("token_file", "header"),
    )
)
"""Options that name files or are headers."""
MORE_FILES: Final = {"allow_extra_args": True}
"""Settings of commands that refuse further arguments themselves (`_expect_one_file`), with a hint."""
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A configuration (YAML, TOML or JSON); - reads it from stdin.")
]
SyntaxOption = Annotated[Syntax, typer.Option("--syntax", help="The syntax of the configuration on stdin.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, max=1024, metavar="N", help="Number of worker processes. Default: auto.")
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="The gateway that runs from this file.")
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="The gateway of this name.")]
AdminOption = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="The gateway at this address: host:port, unix:/path or https://host:port."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=f"File with the admin token. Default: ${TOKEN}, if set; else the gateway's own.",
    ),
]
CertificateOption = Annotated[
    str | None,
    typer.Option("--certificate", metavar="FILE", help="A client certificate and its key, for https://host:port."),
]
ReadyFdOption = Annotated[
    int | None,
    typer.Option(
        "--ready-fd",
        metavar="N",
        help="Write the bound addresses as JSON to this file descriptor when all workers accept.",
    ),
]


def _add_extension_dirs(given: list[str] | None) -> list[str] | None:
    """Add directories to the search path of packages, after the installed ones, which they cannot replace."""
    for each in given or ():
        try:
            mode = os.stat(each).st_mode
        except OSError as error:
            raise typer.BadParameter(f"{each} cannot be used: {error.strerror}") from error
        if not stat.S_ISDIR(mode):
            raise typer.BadParameter(f"{each} is not a directory")
        if mode & stat.S_IWOTH:
            raise typer.BadParameter(f"{each} is writable by every user, who could run code in the gateway")
        if (path := os.path.abspath(each)) not in sys.path:
            sys.path.append(path)
    return given


ExtensionDirOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extension-dir",
        metavar="DIR",
        callback=_add_extension_dirs,
        help="Directory to import `extensions` from, after installed packages. Repeatable.",
    ),
]


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastgw {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="A configuration (YAML, TOML or JSON).")] = None,
    listen: Annotated[str | None, typer.Option(metavar="ADDR", help="Without a file: address to listen on.")] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Without a file: upstream URL.")] = None,
    workers: WorkersOption = None,
    access_log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Without a file: path of the access log.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Without a file: address for metrics and probes.")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Reload automatically when FILE or a file that it includes changes."),
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of this gateway for other commands. Default: the file's name without its suffix."
        ),
    ] = "",
    extension_dir: ExtensionDirOption = None,
    ready_fd: ReadyFdOption = None,
) -> None:
    """Run the gateway, from a configuration file or from --listen and --to."""
    from fastgw.filters import TYPES
    from fastgw.runtime.supervisor.handover_state import is_successor

    flags = {"--listen": listen, "--to": to, "--workers": workers, "--access-log": access_log, "--status": status}
    given = [name for name, value in flags.items() if value is not None]
    if file is not None and given:
        raise typer.BadParameter(f"a file and {', '.join(given)} are mutually exclusive")
    if ready_fd is not None and not is_successor():
        _check_open(ready_fd)
    if watch and file is None:
        raise typer.BadParameter("--watch needs a file")
    if file is not None:
        _serve(lambda: config.load(file, TYPES), _announce, ready_fd, follow_files=watch, name=name)
    elif listen is not None and to is not None:
        try:
            configuration = config.from_flags(listen, to, TYPES, workers=workers, access_log=access_log, status=status)
        except config.ConfigError as error:
            _fail(USAGE, *map(str, error.problems))
        _serve(lambda: config.Loaded.of(configuration), _announce, ready_fd, name=name)
    else:
        raise typer.BadParameter("expected a file, or --listen and --to")


@app.command(context_settings=MORE_FILES)
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
    from fastgw.shm import rate_limit_table

    excerpts: Mapping[config.Problem, str] = {}
    try:
        loaded = _load(file, syntax)
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
        if not rate_limit_table.COMPILED:
            notes.append(
                config.Problem(
                    file, 0, 0, "", f"limits by key are kept by {rate_limit_table.describe()}: exact, but slower"
                )
            )
    except config.ConfigError as error:
        problems, notes, excerpts = [*error.problems], [], error.excerpts
    except CompileError as error:
        problems, notes = [*error.problems(loaded, TYPES)], []
    if answer is Format.JSON:
        _print_json({"problems": problems, "notes": notes})
    else:
        for line in _with_excerpts(problems, excerpts):
            typer.echo(line)
        for note in notes:
            typer.echo(f"note: {note}")
        if not problems:
            typer.echo(f"{file}: configuration is valid{_notes_suffix(notes)}")
    if problems:
        raise typer.Exit(WRONG)


@app.command()
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

    loaded = _read(lambda: _load(file, syntax), answer)
    logging.getLogger("fastgw").addHandler(logging.NullHandler())  # exceptions of filters are part of the explanation
    try:
        gateway = compile(loaded.config, 1, loaded.captured)
        shown = None if certificate is None else certificate_in(certificate)
        explanation = explanation_of(gateway, method, url, header or (), client, listener, shown, loaded.config.routes)
    except CompileError as error:
        _refuse(answer, [*error.problems(loaded, TYPES)])
    except ValueError as error:
        _fail(WRONG, f"fastgw: {error}")
    if answer is Format.JSON:
        _print_json(explanation)
    else:
        typer.echo(as_text(explanation))


@app.command()
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
            loaded.append(_load(file, syntax))
        except config.ConfigError as error:
            problems += error.problems
            excerpts |= error.excerpts
    if problems:
        _refuse(answer, [*dict.fromkeys(problems)], excerpts)
    found = differences(*loaded)
    if answer is Format.JSON:
        _print_json(found)
    else:
        typer.echo(as_text(found))


@app.command()
def reload(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Reload the configuration file of a running gateway, and wait until it is active on all workers."""
    from fastgw.admin.node_interface import Outcome

    wanted = _gateway_choice(file, name, admin, token_file)
    _tell_outcome(_query_gateway(wanted, certificate, lambda client: client.change("/reload", Outcome)), answer)


@app.command()
def rollback(
    generation: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The generation to roll back to. Default: the previous one.")
    ] = None,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Roll back a running gateway to an earlier configuration; each time one further back."""
    from fastgw.admin.node_interface import Outcome

    body = {"generation": generation}
    wanted = _gateway_choice(file, name, admin, token_file)
    _tell_outcome(_query_gateway(wanted, certificate, lambda client: client.change("/rollback", Outcome, body)), answer)


def _tell_outcome(outcome: Outcome, answer: Format) -> None:
    if answer is Format.JSON:
        _print_json(outcome)
    elif outcome.ok:
        for note in outcome.notes:
            typer.echo(f"note: {note}")
        typer.echo(outcome.summary)
    else:
        hint = f"; choose one with --generation {outcome.kept[0]}" if outcome.kept else ""
        _fail(WRONG, *map(str, outcome.problems), f"fastgw: {outcome.summary}{hint}")
    if not outcome.ok:
        raise typer.Exit(WRONG)


@app.command()
def tap(
    route: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Requests of this route.")] = None,
    status: Annotated[list[str] | None, typer.Option(metavar="STATUS", help="This status, or class: 5xx.")] = None,
    method: Annotated[list[str] | None, typer.Option(metavar="METHOD", help="Requests with this method.")] = None,
    path: Annotated[str, typer.Option(metavar="PREFIX", help="Requests whose path begins like this.")] = "",
    consumer: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Requests of this consumer.")] = None,
    sample: Annotated[
        float,
        typer.Option(metavar="RATIO", help="Share of these requests: 0.1 = one in ten.", callback=_checked_share),
    ] = 1.0,
    body: Annotated[str, typer.Option(metavar="SIZE", help="Maximum size of each body; 0: no bodies.")] = "16KiB",
    requests: Annotated[int, typer.Option(metavar="N", min=0, help="End after N requests; 0: with Ctrl-C.")] = 0,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show requests and responses of a running gateway with their bodies, as they end. Secrets are masked. Options for
    routes, statuses, methods and consumers may be repeated.
    """
    from fastgw.admin.client import Unreachable
    from fastgw.admin.tap_text import as_text
    from fastgw.admin.tapped_request import TappedRequest, TapRequest
    from fastgw.capture.captured_exchange import MOST_BODY
    from fastgw.config.base.value_types import parse_size, write_size

    try:
        size = 0 if body == "0" else parse_size(body)
        if size > MOST_BODY:
            raise ValueError(f"--body: {body} is more than {write_size(MOST_BODY)}")
        methods = [each.upper() for each in method or ()]
        wanted = TapRequest(route or (), methods, status or (), path, consumer or (), sample, body_bytes=size)
    except ValueError as error:
        _fail(USAGE, f"fastgw: {error}")

    def show(client: AdminClient) -> str:
        """Return why the tap has ended early; "": it has not."""
        lines = client.stream_lines("/tap", wanted, wanted.seconds)
        try:
            for count, line in enumerate(lines, 1):
                if answer is Format.JSON:
                    typer.echo(line.decode(), nl=False)
                else:
                    typer.echo(as_text(msgspec.json.decode(line, type=TappedRequest)))
                if count == requests:
                    return ""
        except Unreachable as error:
            if not client.has_answered:
                raise
            return str(error)
        return "the time is over"

    if why := _query_gateway(_gateway_choice(file, name, admin, token_file), certificate, show):
        _fail(WRONG, f"fastgw: the tap has ended early: {why}")


@app.command()
def stories(
    story: Annotated[str | None, typer.Argument(metavar="[ID]", help="Request id, trace id or number.")] = None,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="Stories of this route.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="This status, or class: 5xx.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of stories.")] = 20,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the stories of failed and slow requests of a running gateway: filters, attempts and timings."""
    from fastgw.admin.client import resource_path
    from fastgw.admin.story_text import as_table, as_text
    from fastgw.observe.access_log.formats import rfc3339

    asked = {"limit": str(limit), **({"route": route} if route else {}), **({"status": status} if status else {})}
    names, query = (("stories",), asked) if story is None else (("stories", story), {})
    wanted = _gateway_choice(file, name, admin, token_file)
    found = _query_gateway(
        wanted, certificate, lambda client: client.read(resource_path(*names, query=query), dict[str, Any])
    )
    if answer is Format.JSON:
        _print_json(found)
    elif story is not None:
        typer.echo(as_text(found, rfc3339))
    else:
        typer.echo(as_table(found["stories"], rfc3339))


@app.command()
def debug(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Request this URL, and show the story of the request.")
    ] = None,
    method: Annotated[str, typer.Option("-X", "--method", metavar="METHOD", help="Method of the request.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", metavar="'N: V'", help="Header of the request.")
    ] = None,
    route: Annotated[str, typer.Option(metavar="NAME", help="The token is valid for this route alone.")] = "",
    lifetime: Annotated[str, typer.Option("--for", metavar="TIME", help="Lifetime of the token, at most 1h.")] = "10m",
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the story of a request to URL; without a URL, make a token for the header X-Fastgw-Debug of any request."""
    from fastgw.admin.client import parse_debugged_request, send_debugged
    from fastgw.admin.node_interface import DebugTokenMade, DebugWanted
    from fastgw.admin.story_text import as_text
    from fastgw.capture.debug_token import MOST_S
    from fastgw.config.base.value_types import parse_duration, write_duration
    from fastgw.observe.access_log.formats import rfc3339

    try:
        wanted = DebugWanted(route, parse_duration(lifetime))
        if not 0.0 < wanted.seconds <= MOST_S:
            raise ValueError(f"--for: {lifetime} is not above 0 and at most {write_duration(MOST_S)}")
        request = None if url is None else parse_debugged_request(url, method, header or ())
    except ValueError as error:
        _fail(USAGE, f"fastgw: {error}")

    def debugged(client: AdminClient) -> None:
        made = client.change("/debug", DebugTokenMade, wanted)
        if request is None:
            if answer is Format.JSON:
                _print_json(made)
            else:
                typer.echo(f"X-Fastgw-Debug: {made.token}")
                typer.echo(f"valid until {rfc3339(made.expires_date)}", err=True)
            return
        story = _debugged_story(client, lambda: send_debugged(request, made.token))
        if answer is Format.JSON:
            _print_json(story)
        else:
            typer.echo(as_text(story, rfc3339))

    _query_gateway(_gateway_choice(file, name, admin, token_file), certificate, debugged)


def _debugged_story(client: AdminClient, send: Callable[[], tuple[int, str]]) -> dict[str, Any]:
    """Send a request, and return its story, which comes a moment later than the response."""
    from fastgw.admin.client import RefusedByGateway

    status, number = send()
    until = time.monotonic() + STORY_S
    if not number:
        _fail(WRONG, f"fastgw: the response ({status}) has no story: is it a URL of this gateway, and of the route?")
    while True:
        try:
            return client.read(f"/stories/{number}", dict[str, Any])
        except RefusedByGateway:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


@app.command()
def purge(
    url: Annotated[str | None, typer.Option(metavar="URL", help="Purge this URL, as clients see it.")] = None,
    prefix: Annotated[str | None, typer.Option(metavar="URL", help="Purge all URLs with this beginning.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Purge this tag. May be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Purge all objects of the store.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Mark objects as stale instead of removing them.")] = False,
    store: Annotated[str, typer.Option(metavar="NAME", help="Store in `caches`.")] = "main",
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Purge objects of the response cache of a running gateway, by URL, by prefix, by tag, or all."""
    from fastgw.admin.cache_purges import CachePurge, read_purge
    from fastgw.admin.node_interface import CachePurged

    if sum([url is not None, prefix is not None, bool(tag), everything]) != 1:
        _fail(USAGE, "fastgw: expected exactly one of --url, --prefix, --tag and --all")
    wanted = CachePurge(url, prefix, tag or None, everything, soft, store)
    try:
        read_purge(wanted)
    except ValueError as error:
        _fail(USAGE, f"fastgw: {error}")
    purged = _query_gateway(
        _gateway_choice(file, name, admin, token_file),
        certificate,
        lambda client: client.change("/cache/purge", CachePurged, wanted),
    )
    if answer is Format.JSON:
        _print_json(purged)
    else:
        others = {"node": "", "shared": "; other nodes follow", "away": "; other nodes follow when Redis is reachable"}
        count = f"{purged.objects} object{'' if purged.objects == 1 else 's'}"
        typer.echo(f"purged: {count}{' (soft)' if soft else ''}{others[purged.reach]}")
        if purged.objects == 0 and re.match(r"https?://[^/?]*:[0-9]+(?:[/?]|$)", url or prefix or ""):
            typer.echo("hint: URLs are stored without the port of the listener", err=True)
    if not purged.holds_after_restart:
        why = "the disk of the store can neither be written nor emptied, or did not answer in time"
        _fail(
            WRONG, f"fastgw: the purge holds now, but a restart may undo it: {why}; see the log for cache_disk_failed"
        )


@app.command()
def drain(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Drain a running gateway: finish requests in flight, accept no new connections, and stop."""
    from fastgw.admin.node_interface import Draining

    draining = _query_gateway(
        _gateway_choice(file, name, admin, token_file), certificate, lambda client: client.change("/drain", Draining)
    )
    if answer is Format.JSON:
        _print_json(draining)
    else:
        typer.echo("draining: the gateway stops when all requests in flight have finished")


@app.command()
def status(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the display until Ctrl-C.")] = False,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the status of a running gateway."""
    if watch and (answer is Format.JSON or not sys.stdout.isatty()):
        raise typer.BadParameter("--watch needs a terminal", param_hint="--watch")
    if answer is Format.JSON:
        typer.echo(_query_gateway(_gateway_choice(file, name, admin, token_file), certificate, _all_status))
        return
    from fastgw.admin import status_tables  # this imports rich, which no other command needs

    if watch:
        _query_gateway(_gateway_choice(file, name, admin, token_file), certificate, status_tables.watch)
    else:
        status_tables.console().print(
            status_tables.overview(
                *_query_gateway(_gateway_choice(file, name, admin, token_file), certificate, status_tables.read_tables)
            )
        )


@app.command()
def analytics(
    by: Annotated[By, typer.Option(help="Kind of the rows.")] = By.ROUTE,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Begin: 7d before now, or a time such as 2026-01-31T00:00:00Z.")
    ] = "24h",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End, in the same form. Default: now.")] = None,
    step: Annotated[
        AnalyticsStep | None, typer.Option(help="Rows for each step of the time. Default: one for all.")
    ] = None,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="Only this route.")] = None,
    consumer: Annotated[str | None, typer.Option(metavar="NAME", help="Only this consumer.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="NAME", help="Only this plan; an empty one: none.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Maximum number of rows.")] = 1000,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: Annotated[AnalyticsFormat, typer.Option("--format", help="Output format.")] = AnalyticsFormat.TABLE,
) -> None:
    """Show the requests of a running gateway by route, consumer, plan, status or method, over minutes to weeks."""
    from fastgw.admin.client import resource_path
    from fastgw.admin.node_interface import Analytics

    given = {"until": until, "step": step, "route": route, "consumer": consumer, "plan": plan}
    query = {"by": by.value, "since": since, "limit": str(limit), **{key: each for key, each in given.items() if each}}
    wanted = _gateway_choice(file, name, admin, token_file)
    if answer is AnalyticsFormat.JSON:
        typer.echo(
            _query_gateway(wanted, certificate, lambda client: client.get(resource_path("analytics", query=query)))
        )
        return
    found = _query_gateway(
        wanted, certificate, lambda client: client.read(resource_path("analytics", query=query), Analytics)
    )
    if answer is AnalyticsFormat.CSV:
        from fastgw.admin.analytics_csv import as_csv

        typer.echo(as_csv(found), nl=False)
    else:
        from fastgw.admin.analytics_tables import print_table

        print_table(found, step)


@app.command()
def token(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header", help="Print it as a header, for `curl -H @-`, which keeps it out of the process list."
        ),
    ] = False,
) -> None:
    """Print the token of a running gateway's admin API."""
    wanted = _gateway_choice(file, name, admin, token_file)
    choice = _chosen(wanted)
    held = choice.token
    if held is None:
        if not _query_chosen(choice, None, _requires_token):
            _fail(WRONG, "fastgw: the gateway requires no token")
        where = "in the gateway's configuration (`admin.token`), or in a file that cannot be read"
        _fail(WRONG, f"fastgw: the token is {where}; give --token-file FILE or set {TOKEN}")
    typer.echo(f"Authorization: Bearer {held}" if header else held)


@app.command()
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
        _print_json(schema_of(_filter_types(file)))


@app.command()
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
            instances = [] if file is None else [*_instances(_read(lambda: config.load(file, TYPES)).config, name)]
            if not instances:
                hint = (
                    "" if file is not None else f"; for a filter of a configuration: fastgw filters {name} --file FILE"
                )
                _fail(WRONG, f"fastgw: {'; '.join(filter(None, (error.wrong, error.expected)))}{hint}")
            for use, type_name in instances:
                typer.echo(f"{use}: a {type_name} filter named {name}", err=True)
            name = instances[0][1]
            known = {name: type_called(name, known)}
    chosen = known if name is None else {name: known[name]}
    all_manuals = reference_docs.manuals(chosen)
    if answer is FilterFormat.JSON:
        _print_json(all_manuals if name is None else all_manuals[0])
    elif answer is FilterFormat.MARKDOWN:
        typer.echo(reference_docs.as_markdown(chosen), nl=False)
    else:
        typer.echo(reference_docs.table(all_manuals) if name is None else reference_docs.as_text(all_manuals[0]))


@audit_app.command("verify")
def audit_verify(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Audit logs; rotated ones in their order, the oldest first.")
    ],
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="Hash of an entry, noted earlier, that must be among them.")
    ] = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Verify that no entry of an audit log was changed, removed or inserted: exit status 0, else 1."""
    from fastgw.audit.chain import LINE_MAX, BrokenChain, Link, verify

    first: Link | None = None
    last: Link | None = None
    met = expect is None
    for file in files:
        try:
            with open(file, "rb") as log:
                for link in verify(iter(lambda log=log: log.readline(LINE_MAX + 1), b""), last):  # type: ignore[misc]
                    first, last = first or link, link
                    met = met or link.hash == expect
        except OSError as error:
            _refuse(answer, [config.Problem(file, 0, 0, "", error.strerror or str(error))])
        except BrokenChain as flaw:
            _refuse(answer, [config.Problem(file, flaw.line, 0, "", str(flaw))])
    if first is None or last is None:
        _refuse(answer, [config.Problem(files[-1], 0, 0, "", "there are no entries")])
    if not met:
        missing = f"no entry has the hash {expect}: entries were removed, or the log was replaced"
        _refuse(answer, [config.Problem(files[-1], 0, 0, "", missing)])
    if answer is Format.JSON:
        _print_json({"entries": last.number - first.number + 1, "first": first.number, "hash": last.hash})
    else:
        typer.echo(f"intact: entries {first.number} to {last.number}; hash of the last one: {last.hash}")


@app.command()
def record(
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="Number of requests to record.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="The recording, encrypted; its mode is 0600.")],
    key_file: Annotated[
        str,
        typer.Option(
            "--key-file", metavar="FILE", help="The key of the recording: a file of mode 0600. A missing one is made."
        ),
    ],
    route: Annotated[
        list[str] | None, typer.Option("--route", metavar="NAME", help="Only requests of this route. Repeatable.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only responses of 404 or 5xx. Repeatable.")
    ] = None,
    ratio: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the requests: 0.1 = one in ten.", callback=_checked_share),
    ] = 1.0,
    seconds: Annotated[float, typer.Option(metavar="S", help="End after this time, whatever was recorded.")] = 3600.0,
    body_bytes: Annotated[
        int, typer.Option("--body-bytes", min=0, metavar="N", help="Bytes that are kept of each body.")
    ] = 65536,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Mask this header, query parameter or cookie too. Repeatable."),
    ] = None,
    keep_cookies: Annotated[
        bool, typer.Option("--keep-cookies", help="Record values of cookies that filters do not check.")
    ] = False,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Record requests of a running gateway with their responses, without credentials, for `fastgw replay`."""
    from fastgw.admin.node_interface import RecordingWanted
    from fastgw.recording.file import UnusableRecordingFile, UnusableRecordingKey, is_exposed, read_key
    from fastgw.replay.capture import CannotWriteRecording, capture, describe_size

    try:
        key = read_key(key_file, create=True)
    except UnusableRecordingKey as error:
        _fail(USAGE, f"fastgw: {error}")
    if is_exposed(key_file):
        typer.echo(f"fastgw: {key_file} can be read by other users: chmod 600 {key_file}", err=True)
    wanted = RecordingWanted(
        requests, seconds, ratio, route or (), status or (), body_bytes, redact or (), keep_cookies
    )

    def began() -> None:
        typer.echo(f"fastgw: recording {requests} requests", err=True)

    try:
        captured = _query_gateway(
            _gateway_choice(file, name, admin, token_file),
            certificate,
            lambda client: capture(client, wanted, out, key, began),
        )
    except UnusableRecordingFile as error:
        _fail(USAGE, f"fastgw: {error}")
    except CannotWriteRecording as error:
        _fail(OUTPUT_LOST, f"fastgw: the output cannot be written: {error}")
    if captured.why:
        typer.echo(f"fastgw: the recording has ended early: {captured.why}", err=True)
    if answer is Format.JSON:
        written = out if captured.requests else None
        _print_json({"requests": captured.requests, "dropped": captured.dropped, "file": written})
    else:
        dropped = f", {captured.dropped} dropped" if captured.dropped else ""
        result = describe_size(out) if captured.requests else "no file is written"
        typer.echo(f"{out}: {captured.requests} requests recorded{dropped}, {result}")
    if captured.why:
        raise typer.Exit(WRONG)


@app.command()
def replay(
    recording: Annotated[str, typer.Argument(metavar="FILE", help="A recording of `fastgw record`.")],
    new: Annotated[str, typer.Option("--config", metavar="NEW", help="The configuration to try.")],
    key_file: Annotated[str, typer.Option("--key-file", metavar="FILE", help="The key of the recording.")],
    against: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="The configuration to compare with. Default: the recorded responses."),
    ] = None,
    upstreams: Annotated[
        ReplayedUpstreams, typer.Option(help="Who answers: the recording, or the upstreams of the configuration.")
    ] = ReplayedUpstreams.RECORDED,
    allow: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="File with differences that are allowed: [{route: r, header: X}]."),
    ] = None,
    extension_dir: ExtensionDirOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Replay a recording in a sandbox, and report every difference: exit status 0 for none, 1 for some, else 2."""
    from fastgw.filters import TYPES
    from fastgw.gateway.tables import CompileError
    from fastgw.recording.file import UnreadableRecording, UnusableRecordingKey, is_exposed, read_key, read_recording
    from fastgw.replay.rules import InvalidRules, read_rules
    from fastgw.replay.run import as_text
    from fastgw.replay.run import replay as replay_recording

    try:
        rules = () if allow is None else read_rules(allow)
        key = read_key(key_file)
        content = read_recording(recording, key)
    except (UnusableRecordingKey, UnreadableRecording, InvalidRules) as error:
        _fail(USAGE, f"fastgw: {error}")
    if is_exposed(key_file):
        typer.echo(f"fastgw: {key_file} can be read by other users: chmod 600 {key_file}", err=True)
    loaded: list[config.Loaded] = []
    for file in (new,) if against is None else (new, against):
        try:
            loaded.append(config.load(file, TYPES))
        except config.ConfigError as error:
            _fail(USAGE, *_with_excerpts(error.problems, error.excerpts))
    logging.getLogger("fastgw").addHandler(logging.NullHandler())
    try:
        report = replay_recording(
            content,
            loaded[0],
            loaded[1] if against is not None else None,
            rules,
            live=upstreams is ReplayedUpstreams.LIVE,
        )
    except CompileError as error:
        _fail(USAGE, *map(str, error.problems(loaded[0], TYPES)))
    if answer is Format.JSON:
        _print_json(report)
    else:
        typer.echo(as_text(report))
    if report.differences:
        raise typer.Exit(WRONG)


@app.command(name="shadow-report")
def shadow_report(
    recording: Annotated[
        str | None, typer.Option(metavar="FILE", help="Count in the requests of this recording instead.")
    ] = None,
    key_file: Annotated[
        str | None, typer.Option("--key-file", metavar="FILE", help="The key of the recording.")
    ] = None,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Sum up what filters in shadow mode would have done, since the start of a running gateway or in a recording."""
    from fastgw.admin import traffic_tables

    if recording is not None:
        from fastgw.recording.file import UnreadableRecording, UnusableRecordingKey, read_key, read_recording
        from fastgw.replay.shadows import shadow_decisions

        if key_file is None:
            raise typer.BadParameter("--recording needs --key-file")
        try:
            report = shadow_decisions(read_recording(recording, read_key(key_file)))
        except (UnusableRecordingKey, UnreadableRecording) as error:
            _fail(USAGE, f"fastgw: {error}")
    else:
        choice = _gateway_choice(file, name, admin, token_file)
        report = _query_gateway(choice, certificate, traffic_tables.read_shadow_report)
    if answer is Format.JSON:
        _print_json(report)
    else:
        traffic_tables.console().print(traffic_tables.shadow_text(report))


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=60.0, metavar="S", help="Seconds over which rates are measured.")
    ] = 2.0,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the busiest routes and consumers of a running gateway, with rates, errors and latencies, until Ctrl-C."""
    from fastgw.admin import traffic_tables

    choice = _gateway_choice(file, name, admin, token_file)
    if not once and answer is Format.TEXT and sys.stdout.isatty():
        _query_gateway(choice, certificate, lambda client: traffic_tables.watch_top(client, interval))
        return
    seen = _query_gateway(choice, certificate, lambda client: traffic_tables.read_top(client, interval))
    if answer is Format.JSON:
        _print_json(seen)
    else:
        traffic_tables.console().print(traffic_tables.top_table(seen))


@app.command()
def kyma_services(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Kyma's Applications, as YAML or JSON; - is standard input.")
    ],
    namespace: Annotated[str, typer.Option(metavar="NAME", help="Namespace of the Services.")] = "kyma-integration",
    gateway: Annotated[
        str, typer.Option(metavar="HOST", help="The DNS name of the gateway's own Service, which has port 80.")
    ] = "fastgw-egress.kyma-system.svc.cluster.local",
) -> None:
    """Print the Kubernetes Services by which applications call APIs as {app}-{id}, for kubectl apply."""
    from pathlib import Path

    from fastgw.config.kyma.service_manifests import services_of

    made: dict[str, Any] = {}
    errors: list[str] = []
    for file in files:
        try:
            content = _read_stdin() if file == STDIN else Path(file).read_bytes()
        except OSError as error:
            _fail(WRONG, f"fastgw: {file}: {error.strerror}")
        name = "standard input.json" if file == "-" and content.lstrip().startswith((b"{", b"[")) else file
        services = services_of(name, content, namespace, gateway)
        for each in services.notes:
            typer.echo(f"note: {each}", err=True)
        errors.extend(map(str, services.errors))
        made |= {each["metadata"]["name"]: each for each in services.manifests}
    if errors:  # no part of the list, because what reads it would take it for the whole
        _fail(WRONG, *errors)
    _print_json({"apiVersion": "v1", "kind": "List", "items": [*made.values()]})


@app.command(name="demo")
def run_demo(
    listen: Annotated[str, typer.Option(metavar="ADDR", help="Address to listen on.")] = "127.0.0.1:8080",
    workers: WorkersOption = None,
    ready_fd: ReadyFdOption = None,
) -> None:
    """Run a demo: the gateway in front of a small service of its own."""
    from fastgw import demo

    if ready_fd is not None:
        _check_open(ready_fd)
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error
    with demo.demo(address, workers or "auto") as (configuration, origin):
        in_use = (
            "stop that process, or take a free port: fastgw demo --listen 127.0.0.1:0, or make run LISTEN=127.0.0.1:0"
        )
        _serve(lambda: config.Loaded.of(configuration), demo.announce, ready_fd, {"demo origin": origin}, in_use=in_use)


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")],
) -> None:
    """Print the shell completion of fastgw: `source <(fastgw completion bash)`."""
    os.environ[COMPLETE] = f"source_{shell}"
    try:
        typer.main.get_command(app)(args=[], prog_name=PROGRAM)  # prints the script and exits
    finally:
        del os.environ[COMPLETE]


@app.command()
def version(answer: FormatOption = Format.TEXT) -> None:
    """Print the versions of fastgw and its dependencies."""
    from importlib.metadata import version as version_of
    from platform import python_implementation, python_version

    import fastgw.runtime.run  # noqa: F401  # and with it each compiled module, which `compiled` tells of
    from fastgw import compiled
    from fastgw.http.http2 import session as http2_session
    from fastgw.net import ocsp_stapling, openssl
    from fastgw.shm import rate_limit_table

    versions = {
        "fastgw": VERSION,
        "python": f"{python_version()} ({python_implementation()})",
        "uvloop": version_of("uvloop"),
        "httptools": version_of("httptools"),
        "msgspec": version_of("msgspec"),
        "wire": compiled.describe(),
        "http2": http2_session.describe(),
        "ocsp": ocsp_stapling.describe(),
        "limits": rate_limit_table.describe(),
        "tickets": openssl.describe_tickets(),
    }
    if answer is Format.JSON:
        _print_json(versions)
    else:
        typer.echo("\n".join(f"{name + ':':<11}{value}" for name, value in versions.items()))


def _filter_types(file: str | None) -> Mapping[str, Any]:
    """Return the filter types, including those of this configuration's extensions."""
    from fastgw.filters import TYPES

    if file is None:
        return TYPES
    try:
        return config.filter_types_of(file, TYPES)
    except config.ConfigError as error:
        _fail(WRONG, *map(str, error.problems))


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


def _addresses(configuration: config.Config) -> Iterator[tuple[tuple[str, ...], Address]]:
    """Yield the listening addresses, and their settings."""
    for name, listener in configuration.listeners.items():
        yield ("listeners", name, "address"), listener.address
    for name in ("status", "admin"):
        if (own := getattr(configuration, name)) is not None:
            yield (name, "address"), own.address


def _load(file: str, syntax: Syntax) -> config.Loaded:
    """Return a configuration; `-` = from stdin, with names in it relative to the working directory.

    Raises `ConfigError`.
    """
    from fastgw.filters import TYPES

    if file != STDIN:
        return config.load(file, TYPES)
    try:
        text = _read_stdin(LARGEST + 1)
    except OSError as error:
        problem = config.Problem("<stdin>", 0, 0, "", f"cannot be read: {error.strerror or error}")
        raise config.ConfigError([problem]) from error
    try:
        return config.load_text(text, "<stdin>", TYPES, f".{syntax}")
    except config.ConfigError as error:
        if syntax is not Syntax.YAML or all(each.path for each in error.problems) or not _LIKE_TOML.search(text):
            raise
        hint = config.Problem("<stdin>", 0, 0, "", "it looks like TOML", f"expected YAML, or --syntax {Syntax.TOML}")
        raise config.ConfigError([*error.problems, hint], error.excerpts) from error


def _read_stdin(size: int = -1) -> bytes:
    """Return at most `size` bytes of stdin; -1: all. Raises `OSError`, also if it was closed at the start."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read(size)


def _read(source: Callable[[], T], answer: Format = Format.TEXT) -> T:
    try:
        return source()
    except config.ConfigError as error:
        _refuse(answer, error.problems, error.excerpts)


def _refuse(
    answer: Format, problems: Sequence[config.Problem], excerpts: Mapping[config.Problem, str] = {}
) -> NoReturn:
    """Report that files are invalid: on stderr, or as JSON in place of the output."""
    if answer is not Format.JSON:
        _fail(WRONG, *_with_excerpts(problems, excerpts))
    _print_json({"problems": problems})
    raise typer.Exit(WRONG)


def _with_excerpts(problems: Sequence[config.Problem], excerpts: Mapping[config.Problem, str]) -> Iterator[str]:
    """Yield a line for each problem, followed by the excerpt for syntax errors."""
    for problem in problems:
        yield str(problem)
        if problem in excerpts:
            yield excerpts[problem]


def _gateway_choice(file: str | None, name: str | None, admin: str | None, token_file: str | None) -> GatewayChoice:
    from fastgw.admin.gateway_selection import GatewayChoice

    if sum(each is not None for each in (file, name, admin)) > 1:
        raise typer.BadParameter("--config, --name and --admin are mutually exclusive")
    return GatewayChoice(admin, file, name, token_file)


def _chosen(wanted: GatewayChoice) -> Choice:
    """Return the selected gateway, and its token."""
    from fastgw.admin.gateway_selection import AmbiguousGateway, NoSuchGateway, choose

    is_asked = all(each is not None and each.isatty() for each in (sys.stdin, sys.stderr))
    try:
        return choose(wanted, _ask_which if is_asked else None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--admin") from error
    except AmbiguousGateway as error:
        _fail(USAGE, f"fastgw: {error}")
    except NoSuchGateway as error:
        _fail(UNREACHABLE, f"fastgw: {error}")
    except SecretError as error:
        _fail(WRONG, f"fastgw: {error}")


def _ask_which(found: Sequence[Found]) -> Found:
    from click import IntRange

    from fastgw.admin.gateway_selection import listed

    typer.echo("Several gateways run:", err=True)
    for index, line in enumerate(listed(found), 1):
        typer.echo(f"  {index}  {line}", err=True)
    number: int = typer.prompt("Which one", type=IntRange(1, len(found)), err=True)
    return found[number - 1]


def _query_gateway(wanted: GatewayChoice, certificate: str | None, ask: Callable[[AdminClient], T]) -> T:
    """Return the response of a running gateway."""
    return _query_chosen(_chosen(wanted), certificate, ask)


def _query_chosen(choice: Choice, certificate: str | None, ask: Callable[[AdminClient], T]) -> T:
    from fastgw.admin.client import AdminClient, NotUtf8, RefusedByGateway, Unreachable

    if certificate is not None and not choice.admin.tls:
        raise typer.BadParameter("a client certificate needs https://", param_hint="--certificate")
    try:
        return ask(AdminClient(choice.admin, choice.token, certificate))
    except Unreachable as error:
        _fail(UNREACHABLE, f"fastgw: {error}")
    except RefusedByGateway as error:
        _fail(WRONG, f"fastgw: {error}")
    except NotUtf8 as error:
        _fail(USAGE, f"fastgw: {error}")


def _requires_token(client: AdminClient) -> bool:
    """Whether the gateway rejects a request without a token. Raises `Unreachable`."""
    from fastgw.admin.client import RefusedByGateway

    try:
        client.get("/status")
    except RefusedByGateway:
        return True
    return False


def _all_status(client: AdminClient) -> str:
    """Return the node's status with its upstreams and routes, as one JSON object."""
    status: dict[str, msgspec.Raw] = {}
    for path in ("/status", "/upstreams", "/routes"):
        status |= msgspec.json.decode(client.get(path), type=dict[str, msgspec.Raw])
    return msgspec.json.encode(status).decode()


def _serve(
    load: Callable[[], config.Loaded],
    announce: Callable[[Bound], None],
    ready_fd: int | None,
    companions: Mapping[str, Work] = {},
    *,
    follow_files: bool = False,
    name: str = "",
    in_use: str = "",
) -> None:
    """Run the gateway until a signal ends it. `in_use`: advice if another process uses the address."""
    from fastgw.gateway.tables import CompileError
    from fastgw.runtime.node.startup import CannotStart, UnusableSettings
    from fastgw.runtime.run import run_gateway
    from fastgw.runtime.sockets.listening_sockets import AddressInUse, CannotListen
    from fastgw.runtime.supervisor.handover_state import IncompatibleHandover

    gc.freeze()  # what is imported stays: no collection walks it from here on
    gc.set_threshold(*USUAL)
    try:
        run_gateway(load, announce, ready_fd, companions, follow_files=follow_files, name=name)
    except config.ConfigError as error:
        _fail(WRONG, *map(str, error.problems))
    except CompileError as error:
        _fail(WRONG, str(error))
    except UnusableSettings as error:
        _fail(CANNOT_START, *map(str, error.problems))
    except (CannotListen, CannotStart, IncompatibleHandover) as error:
        advice = f"; {in_use}" if in_use and isinstance(error, AddressInUse) else ""
        _fail(CANNOT_START, f"fastgw: {error}{advice}")


def _announce(bound: Bound) -> None:
    from fastgw.operator_events import OperatorEvent
    from fastgw.operator_log import notice

    notice(OperatorEvent.LISTENING, f"fastgw {VERSION}: listening on {bound}")


def _notes_suffix(notes: Sequence[config.Problem]) -> str:
    return f", with {'a note' if len(notes) == 1 else 'notes'} above" if notes else ""


def _expect_one_file(context: typer.Context) -> None:
    if context.args:
        further = ", ".join(context.args)
        raise typer.BadParameter(f"expected one FILE, but got {further} too; one FILE may `include` others")


def _check_open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise typer.BadParameter(f"{descriptor} is not an open file descriptor", param_hint="--ready-fd") from error


def _print_json(value: object) -> None:
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:  # an argument, such as the name of a file, is in it and not UTF-8
        text = msgspec.json.encode(_printable(msgspec.to_builtins(value)))
    typer.echo(msgspec.json.format(text))


def _printable(value: Any) -> Any:
    """Return the value with other bytes than UTF-8 in its texts as `\\udcff`, as the text of errors has them."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return [_printable(each) for each in value]
        case dict():
            return {_printable(key): _printable(each) for key, each in value.items()}
    return value


def _fail(code: int, *lines: str) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(code)


class _TextCommand(TyperCommand):
    """Command that refuses an option whose value is not UTF-8, unless bytes are of use there: files that it reads or
    writes, and headers. Arguments are refused where they are used.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for each in self.params:
            value = ctx.params.get(each.name or "")
            if each.param_type_name != "option" or each.name in _BYTES_ALLOWED:
                continue
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str) and (shown := _printable(text)) != text:
                    _fail(USAGE, f'fastgw: {each.opts[-1]}: "{shown}" is not UTF-8')
        return rest


for _each in (*app.registered_commands, *audit_app.registered_commands):
    _each.cls = _TextCommand


class OutputLost(Exception):
    """Standard output cannot be written: its disk is full, for example."""


class _StandardOutput(FileIO):
    """Standard output, whose errors are `OutputLost`, unlike those of other files. A closed pipe is left to click."""

    was_closed = False
    """Whether it was closed at the start, so that /dev/null is in its place: the first write is the error."""

    def write(self, data: Any, /) -> int:
        if self.was_closed:
            self.was_closed = False
            raise OutputLost("it is closed")
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.strerror) from error


def _name_output_errors() -> None:
    usual = sys.stdout
    if isinstance(usual, TextIOWrapper):
        raw = _StandardOutput(usual.fileno(), "wb", closefd=False)
        sys.stdout = TextIOWrapper(
            BufferedWriter(raw),
            usual.encoding,
            usual.errors,
            line_buffering=usual.line_buffering,
            write_through=usual.write_through,
        )
    elif usual is None:
        raw = _StandardOutput(1, "wb", closefd=False)
        raw.was_closed = True
        sys.stdout = TextIOWrapper(BufferedWriter(raw), "utf-8", "surrogateescape")


def _fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr; otherwise the next opened file would take its
    number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so it is this one


def _keep_command(named: Sequence[str]) -> None:
    """Remove all other commands, if one is named.

    PERF: typer reads the signatures of all commands before it runs one: 1 ms instead of 25 (CPython 3.11, `time fastgw
    version`).
    """
    kept = [each for each in app.registered_commands if _name_of(each) in named]
    if kept:
        app.registered_commands = kept


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)


def main() -> None:
    """Entry point of the command line: unexpected exceptions are reported in one line as well."""
    # PERF: nearly all that is allocated by imports stays, and each collection would walk it again. Without them, a
    # gateway is ready after 1.26 s of CPU instead of 1.52 (CPython 3.11 on a busy machine, `utime` and `stime` of the
    # supervisor).
    gc.set_threshold(UNCOLLECTED, *USUAL[1:])
    try:
        _fill_standard_descriptors()
        if sys.argv[1:2] in GATEWAYS:
            from fastgw.runtime.process.signals import hold_signals_of_start

            hold_signals_of_start()
        _name_output_errors()
        _keep_command(sys.argv[1:2])
        app(prog_name=PROGRAM)
    except CallRefused as error:
        typer.echo(f"fastgw: {error}", err=True)
        sys.exit(CANNOT_START)
    except OutputLost as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter writes the rest when it ends
        typer.echo(f"fastgw: the output cannot be written: {error}", err=True)
        sys.exit(OUTPUT_LOST)
    except Exception as error:
        if isinstance(error, OSError) and "--install-completion" in sys.argv:  # typer writes files of the user's home
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            typer.echo(f"fastgw: the completion cannot be installed: {reason}", err=True)
            typer.echo("`fastgw completion bash` prints it; likewise zsh, fish and powershell.", err=True)
            sys.exit(WRONG)
        from fastgw.operator_log import described

        typer.echo(f"fastgw: internal error: {described(error)}", err=True)
        sys.exit(DEFECT)
    finally:
        # PERF: the interpreter collects several times while it ends: a command takes 0.97 s of CPU instead of 1.27
        # (CPython 3.11 on a busy machine, `time fastgw check`).
        gc.freeze()
