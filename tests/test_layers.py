"""The folders of the package stand in one order, and what the rules keep out of them stays out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "fastgw"

# A module imports from its own folder and from those on lines before it. Folders on one line do not use each other, so
# there is no circle of folders. A module at the top of the package is like a folder of its own.
ORDER = [
    {
        "admin/dashboard",
        "aws",
        "damaged_files",
        "durable_files",
        "http",
        "jose",
        "json_pointer",
        "kernel",
        "operator_events",
        "token_tier",
        "torn_lines",
        "typed_fields",
        "wildcards",
    },
    {"http/content_coding", "http/json"},
    {"cache", "errors", "http/grpc", "http/http1", "http/http2", "http/websocket", "net", "shm"},
    {"http/caching"},
    {
        "acme",
        "cache/shared",
        "config/base",
        "eventloop",
        "forwarded_headers",
        "redis",
        "sync",
    },
    {"cache/tiers", "config/formats", "observe/access_log", "routing", "runtime/ipc", "runtime/sockets"},
    {"config/sources", "observe/metrics"},
    {"config/settings"},
    {"observe/tracing"},
    {"config/decoding", "consumers", "operator_log", "upstream/targets"},
    {"analytics", "audit", "config/egress", "config/openapi", "exchange", "filters/outbound", "helper_processes"},
    {"capture", "config/kyma", "config/validation", "files", "upstream/connections", "upstream/load_balancing"},
    {"config/kubernetes", "discovery", "observe"},
    {"config/loading", "upstream/health", "upstream/policies"},
    {"config", "upstream"},
    {"diff", "recording"},
    {"upstream/forwarding"},
    {"upstream/client"},
    {"filters/api"},
    {"filters/authentication", "filters/limiting", "filters/plugins"},
    {"filters/policies/ip"},
    {"admin", "filters/policies", "filters/policies/waf/rules", "filters/wrappers"},
    {
        "filters/policies/cache",
        "filters/policies/content",
        "filters/policies/content_coding",
        "filters/policies/credentials",
        "filters/policies/grpc_bridges",
        "filters/policies/grpc_transcode",
        "filters/policies/oidc",
        "filters/policies/traffic",
        "filters/policies/transform",
        "filters/policies/waf",
        "filters/policies/websocket",
        "pipeline",
        "runtime/process",
    },
    {"filters/policies/openapi", "filters/policies/shield"},
    {"composition", "downstream/http1", "downstream/tcp", "filters", "functions", "websocket_api"},
    {"downstream/http2", "downstream/udp", "filters/lint"},
    {"downstream/tls"},
    {"downstream"},
    {"gateway"},
    {"explain", "runtime/node", "testing"},
    {"runtime/control/sharing", "runtime/reload", "runtime/worker"},
    {"runtime/control/acme", "runtime/control/discovery", "runtime/control/kubernetes"},
    {"runtime/control"},
    {"demo", "runtime/supervisor"},
    {"runtime"},
    {"replay"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
STEP = {folder: step for step, folders in enumerate(ORDER) for folder in folders}
LARGEST = 25
"""Files in a folder, twins apart."""

# These take bytes and the time as arguments.
PURE = {
    "http",
    "http/caching",
    "http/content_coding",
    "http/grpc",
    "http/http1",
    "http/http2",
    "http/json",
    "http/websocket",
    "jose",
    "routing",
    "exchange",
}
OUTSIDE = {"asyncio", "uvloop", "selectors", "select", "threading", "subprocess"}

# The edges of the processes, where what nobody foresaw is logged and answered: path -> how many `except Exception`.
EDGES = {
    "config/decoding/decoder.py": 1,  # settings of a third-party filter
    "acme/issuing.py": 2,  # the end of the process: control reports it; what an issuer makes its libraries raise
    "cli.py": 1,  # a defect of a command is one line too
    "runtime/supervisor/children.py": 1,  # the end of a child
    "runtime/reload/proposer.py": 1,  # a configuration that shows a defect is refused, and all goes on
    "runtime/reload/document_checks.py": 1,  # likewise, in the process that checks what was sent
    "runtime/process/lasting_tasks.py": 1,  # a loop that fails is reported, and begins again
    "runtime/control/feed_runner.py": 1,  # a source that fails begins anew
    "config/kubernetes/model.py": 1,  # an object whose translation shows a defect is refused, and the others serve
    "runtime/control/discovery/followed_sources.py": 1,  # likewise
    "runtime/control/kubernetes/watch.py": 1,  # what a large library raises is told, and the watch begins anew
    "runtime/reload/coordinator.py": 1,  # a package that the supervisor cannot import changes nothing
    "cache/tiers/tier_threads.py": 1,  # whatever a job of the disk tier raises, requests go on without it
    "runtime/worker/sliced_work.py": 1,  # work on a worker's loop that nobody waits for
    "observe/kafka_delivery.py": 1,  # what a broker answers may be a TypeError of the library
    "replay/sandbox.py": 1,  # what a filter raises that was not started
    "explain.py": 2,  # what a filter raises that is asked by explain
    "gateway/compiler.py": 1,  # what a filter's build raises
    "gateway/tables.py": 2,  # what its start and stop raise
    "filters/api/warning_context.py": 2,  # what a filter's warnings raise, and the text of that
    "filters/plugins/loader.py": 2,  # what a package raises when it is imported, or its settings are read
    "filters/policies/grpc_transcode/messages.py": 4,  # what the library raises for messages that it cannot convert
    "filters/policies/grpc_transcode/conversions.py": 1,  # what a conversion raises is told to who has asked for it
    "filters/policies/transform/expressions.py": 1,  # what JSONata raises for a body
    "filters/policies/websocket/guard.py": 1,  # who cannot be authenticated again does not go on
    "filters/policies/websocket/reauthentication.py": 1,  # a finish step that raises ends no connection
    "filters/wrappers/shadow.py": 7,  # what a filter in shadow raises is told, and nothing else happens
    "capture/story_keeper.py": 1,  # what a filter raises that explains its decision after the end of the request
    "files/action.py": 1,  # a defect in the response of one request leaves no other one that waits without its own
    "helper_processes/child.py": 2,  # what the program of a helper process raises is passed to its worker
    "exchange/filter_steps.py": 3,  # a filter's step that raises is a fault, never a pass
    "exchange/exchange.py": 5,  # likewise
    "exchange/sent_fields.py": 1,  # likewise
    "exchange/staged_body.py": 5,  # likewise; one that raises as it is cancelled: the others are still told
    "downstream/http1/defect_response.py": 1,  # a defect in the 500 of a defect
    "downstream/http1/connection.py": 4,  # a defect is answered 500: before an exchange, in it, in its body
    "pipeline/request_pipeline.py": 1,  # likewise, after a filter has waited
    "downstream/http2/connection.py": 1,  # a defect ends its stream, not the connection of the others
    "upstream/connections/http2_connection.py": 2,  # likewise
    "eventloop/body_iterator.py": 1,  # what closing the pieces of a filter's body raises
    "filters/api/reply_bodies.py": 1,  # what makes the body of a reply may raise
    "exchange/response_relay.py": 1,  # likewise
    "upstream/client/subrequest_body.py": 1,  # what makes the body of a sub-request may raise
    "upstream/client/call.py": 2,  # a listener that raises: its client is answered 500, or its response breaks off
    "upstream/forwarding/forward_action.py": 1,  # what a filter could not translate is not forwarded
    "upstream/client/subrequest.py": 2,  # a listener of a filter's that raises is told no more
    "upstream/forwarding/forwarding.py": 1,  # a filter that could not take a response has its exchange answered
    "upstream/forwarding/credential_renewal.py": 2,  # a filter that raises has renewed nothing; later it is an answer
    "upstream/forwarding/attempt.py": 2,  # a defect behind the pool is the answer of the exchange that waits for it
}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
COMPILED = sorted(path.relative_to(PACKAGE) for suffix in ("pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}"))


def folder_of(file: Path) -> str:
    """A module at the top counts as a folder of its own."""
    return str(file.parent) if file.parent.name else file.stem


def folder_named(name: str) -> str:
    """The folder of a module, of what it defines, or the folder itself, by its full name; "" for what is not ours."""
    root, *parts = name.split(".")
    folder = Path()
    for part in parts if root == "fastgw" else ():
        if not (PACKAGE / folder / part).is_dir():
            return str(folder) if folder.name else part if part in STEP else ""
        folder /= part
    return str(folder) if folder.name else ""


def imports(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, in functions and for its annotations too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it out"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def lines_for_annotations(nodes: Sequence[ast.AST]) -> set[int]:
    """The lines below `if TYPE_CHECKING:`, which nobody imports who runs."""
    guards = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {below.lineno for guard in guards for below in ast.walk(guard) if isinstance(below, ast.stmt)}


@dataclass(frozen=True)
class Module:
    """Facts about a module that the rules below look at. Syntax trees of all modules would take 200 MiB."""

    imports: list[tuple[int, str]]
    lines_for_annotations: set[int]
    http1_reads: list[int]
    prints: list[int]
    catches: list[int]
    """Lines of the handlers that catch everything."""
    has_docstring: bool


@cache
def module(file: Path) -> Module:
    """Parse a module, once for all rules: that takes longer than any of them."""
    tree = ast.parse((PACKAGE / file).read_text(), str(file))
    nodes = [*ast.walk(tree)]
    return Module(
        imports=[*imports(nodes)],
        lines_for_annotations=lines_for_annotations(nodes),
        http1_reads=http1_reads(nodes),
        prints=prints(nodes),
        catches=[node.lineno for node in nodes if isinstance(node, ast.ExceptHandler) and catches_everything(node)],
        has_docstring=bool(ast.get_docstring(tree)),
    )


def is_allowed(folder: str, used: str) -> bool:
    return used in ("", folder) or STEP[used] < STEP[folder]


def imports_back_up(file: Path) -> Iterator[str]:
    """Yield what a module imports from folders after its own; the package itself may import none.

    For an annotation alone a folder may name what stands around it: `downstream.http1` the server that it is a part of.
    """
    folder, found = folder_of(file), module(file)
    for line, name in found.imports:
        used = folder_named(name)
        annotates = line in found.lines_for_annotations and used.partition("/")[0] == folder.partition("/")[0]
        if used if folder == "__init__" else not is_allowed(folder, used) and not annotates:
            yield f"{file}:{line}: {used}"


def test_imports_go_one_way() -> None:
    """A module imports from its own folder and the folders before it."""
    assert {folder_of(file) for file in FILES} <= {"__init__", *STEP}
    assert [each for file in FILES for each in imports_back_up(file)] == []


def test_imports_of_compiled_twins_go_one_way() -> None:
    """A twin stands beside the module in plain Python, and imports no more than that one may."""
    found = []
    for file in COMPILED:
        text = (PACKAGE / file).read_text()
        used = re.findall(r"^\s*(?:from|import|cimport) (fastgw\.[\w.]+)", text, re.MULTILINE)
        for names in re.findall(r"^\s*from fastgw c?import (.+)", text, re.MULTILINE):
            used += [f"fastgw.{name.split()[0]}" for name in names.split(",")]
        found += [f"{file}: {each}" for each in map(folder_named, used) if not is_allowed(folder_of(file), each)]
    assert found == []


def test_a_folder_is_small_and_says_what_lives_there() -> None:
    modules = Counter(file.parent for file in FILES if file.stem != "__init__")
    assert {folder: count for folder, count in modules.items() if count > LARGEST} == {}
    folders = {file.parent for file in FILES if file.parent.name}
    assert [folder for folder in folders if not module(folder / "__init__.py").has_docstring] == []


def test_the_pure_folders_know_no_event_loop_and_no_thread() -> None:
    """Meaning is found in bytes alone, so that every case can be tested without a socket."""
    imported = [(file, *each) for file in FILES if folder_of(file) in PURE for each in module(file).imports]
    assert len(imported) > 500
    assert [f"{file}:{line}: {name}" for file, line, name in imported if name.partition(".")[0] in OUTSIDE] == []


# Who knows how a message came over HTTP/1: its reader and writer, forwarding, which passes its bytes on, and the demo,
# which is a server of its own.
KNOWS_HTTP1 = (
    "http/http1",
    "downstream/http1",
    "downstream/http2",
    "upstream/connections",
    "upstream/forwarding",
    "demo",
)
OF_HTTP1 = {"raw", "chunked", "minor", "connection_named", "known"}


def http1_reads(nodes: Iterable[ast.AST]) -> list[int]:
    """The lines that read of a head what only HTTP/1 has: `head.raw`, `exchange.head.chunked`."""
    reads = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in OF_HTTP1]
    return [node.lineno for node in reads if ast.unparse(node.value).rpartition(".")[2] == "head"]


def test_a_request_is_known_in_the_terms_of_rfc_9110() -> None:
    """What HTTP/1 alone has is known to HTTP/1 and to forwarding: others would read another version's request wrongly.

    mypy sees the same by `http.messages`, but for what is not typed.
    """
    read = [
        f"{file}:{line}" for file in FILES if folder_of(file) not in KNOWS_HTTP1 for line in module(file).http1_reads
    ]
    assert read == []


def test_a_read_of_what_http1_alone_has_is_seen() -> None:
    tree = ast.parse("head.raw\nexchange.head.chunked\nhead.method\nanswer.raw")
    assert http1_reads(ast.walk(tree)) == [1, 2]


def prints(nodes: Sequence[ast.AST]) -> list[int]:
    """The lines that call `print`."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_only_the_commands_print() -> None:
    """A worker's stdout is the access log, and nothing else may tear its lines."""
    printing = [file for file in FILES if folder_of(file) not in ("cli", "demo")]
    assert [f"{file}:{line}" for file in printing for line in module(file).prints] == []


def catches_everything(caught: ast.ExceptHandler) -> bool:
    """`except:`, `except Exception` and `except BaseException`, unless it ends by raising what it caught."""
    types = caught.type.elts if isinstance(caught.type, ast.Tuple) else [caught.type]
    names = {each.id if isinstance(each, ast.Name) else None if each else "Exception" for each in types}
    last = caught.body[-1]
    return bool(names & {"Exception", "BaseException"}) and not (isinstance(last, ast.Raise) and last.exc is None)


def test_only_the_edges_catch_everything() -> None:
    """Elsewhere a module catches what it can name; a defect reaches the edge of its process and is seen there."""
    assert EDGES.keys() <= {*map(str, FILES)}
    catching = {str(file): module(file).catches for file in FILES}
    assert {file: lines for file, lines in catching.items() if len(lines) != EDGES.get(file, 0)} == {}


def test_a_command_that_asks_a_running_gateway_imports_nothing_of_one() -> None:
    """It is there at once: whoever serves or checks imports what it needs for that."""
    told = "import sys, fastgw.cli, fastgw.admin.client; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    folders = {folder_named(name) for name in names if name.startswith("fastgw.")}
    assert folders == {
        *("admin", "cli", "commands", "config", "config/base", "config/formats", "config/settings", "config/sources"),
        *("analytics", "http", "kernel", "operator_events", "redis", "sync"),
    }
    assert not {"fastgw.config.settings.gateway", "fastgw.config.loading", "asyncio", "cryptography", "yaml"} & set(
        names
    )


def test_no_test_sets_the_clock_of_the_process() -> None:
    """Other threads have loops, such as that of uvicorn, whose timers would wait for the time that was set: it stopped
    two minutes late. What is patched is the `time` or `asyncio` of the module that is tested.
    """
    whole = re.compile(r"""setattr\((?:[\w.]+\.)?(?:time|asyncio), "|setattr\(["'](?:time|asyncio)\.""")
    found = [
        f"{file.name}: {line.strip()}"
        for file in Path(__file__).parent.rglob("*.py")
        for line in file.read_text().splitlines()
        if whole.search(line)
    ]
    assert found == []
