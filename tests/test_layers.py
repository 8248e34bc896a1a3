"""The rooms of the package stand in one order, and what the rules keep out of them stays out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastgw"

# A module imports from its own room and from those before it. A line is one step; rooms on one line may use each other.
ORDER = [
    {"compiled", "_slots"},  # of all twins, before any room
    {"wire"},
    {"errors", "events"},
    {"node"},
    {"observe"},
    {"config"},
    {"identity", "jose"},
    {"diff"},
    {"routing"},
    {"exchange", "forwarded"},
    {"upstream"},
    {"filters"},
    {"downstream"},
    {"gateway", "nearest"},
    {"compile"},
    {"runtime", "admin", "explain", "demo", "testing"},
    {"cli"},
    {"__main__"},
]
STEP = {room: step for step, rooms in enumerate(ORDER) for room in rooms}

PURE = {"wire", "jose", "routing", "exchange"}  # these take bytes and the time as arguments
OUTSIDE = {"asyncio", "uvloop", "selectors", "select", "threading", "subprocess"}

# The edges of the processes, where what nobody foresaw is logged and answered: path -> how many `except Exception`.
EDGES = {
    "cli.py": 1,  # a defect of a command is one line too
    "runtime/children.py": 1,  # the end of a child
    "runtime/proposals.py": 1,  # a configuration that shows a defect is refused, and all goes on
    "runtime/document_checks.py": 1,  # likewise, in the process that checks what was sent
    "runtime/feeding.py": 1,  # a source that fails begins anew
    "runtime/kubernetes_watch.py": 1,  # what a large library raises is told, and the watch begins anew
    "runtime/reloading.py": 1,  # a package that the supervisor cannot import changes nothing
    "runtime/slices.py": 1,  # work on a worker's loop that nobody waits for
    "explain.py": 2,  # what a filter raises that is asked by explain
    "compile.py": 1,  # what a filter's build raises
    "gateway.py": 2,  # what its start and stop raise
    "filters/extensions.py": 2,  # what a package raises when it is imported, or its settings are read
    "filters/shadow.py": 6,  # what a filter in shadow raises is told, and nothing else happens
    "exchange/chain.py": 4,  # a filter's step that raises is a fault, never a pass
    "exchange/exchange.py": 3,  # likewise
    "downstream/connection.py": 1,  # likewise
    "upstream/passage.py": 2,  # a defect on the straight way is the answer of its exchange
    "upstream/renewal.py": 2,  # a filter that raises has renewed nothing; a defect after that is the exchange's answer
    "upstream/attempt.py": 2,  # a defect behind the pool is the answer of the exchange that waits for it
}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
COMPILED = sorted(path.relative_to(PACKAGE) for suffix in ("pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}"))
TWIN_OF = {"_routes": "routing"}  # a twin that stands beside a room, not in it


def tree_of(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(), str(file))


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it out"
            if node.module == "fastgw":
                yield from ((node.lineno, f"fastgw.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def rooms_used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, name in imports(tree):
        root, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if root == "fastgw" and room in STEP:
            yield line, room


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file: Path) -> None:
    """A module imports from its own room and the rooms before it, never back up."""
    room = room_of(file)
    if room == "__init__":
        assert not list(rooms_used(tree_of(file))), "the package itself imports none of its rooms"
        return
    assert room in STEP, f"{room} has no place in the order"
    back_up = [f"line {line}: {used}" for line, used in rooms_used(tree_of(file)) if STEP[used] > STEP[room]]
    assert not back_up


@pytest.mark.parametrize("file", COMPILED, ids=str)
def test_imports_of_compiled_twins_go_one_way(file: Path) -> None:
    """A twin stands where the module in plain Python stands."""
    room = TWIN_OF.get(file.parts[0].partition(".")[0], room_of(file))
    text = (PACKAGE / file).read_text()
    used = re.findall(r"^\s*(?:from|import|cimport) fastgw\.(\w+)", text, re.MULTILINE)
    for names in re.findall(r"^\s*from fastgw c?import (.+)", text, re.MULTILINE):
        used += [name.split()[0] for name in names.split(",")]
    assert not [each for each in used if STEP[TWIN_OF.get(each, each)] > STEP[room]]


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) in PURE], ids=str)
def test_the_pure_rooms_know_no_event_loop_and_no_thread(file: Path) -> None:
    """Meaning is found in bytes alone, so that every case can be tested without a socket."""
    assert not [(line, name) for line, name in imports(tree_of(file)) if name.partition(".")[0] in OUTSIDE]


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) not in ("cli", "demo")], ids=str)
def test_only_the_commands_print(file: Path) -> None:
    """A worker's stdout is the access log, and nothing else may tear its lines."""
    calls = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def catches_everything(caught: ast.ExceptHandler) -> bool:
    """`except:`, `except Exception` and `except BaseException`, unless it ends by raising what it caught."""
    types = caught.type.elts if isinstance(caught.type, ast.Tuple) else [caught.type]
    names = {each.id if isinstance(each, ast.Name) else None if each else "Exception" for each in types}
    last = caught.body[-1]
    return bool(names & {"Exception", "BaseException"}) and not (isinstance(last, ast.Raise) and last.exc is None)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_the_edges_catch_everything(file: Path) -> None:
    """Elsewhere a module catches what it can name; a defect reaches the edge of its process and is seen there."""
    lines = [
        node.lineno
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    ]
    assert len(lines) == EDGES.get(str(file), 0), f"at lines {lines}"


def test_a_command_that_asks_a_running_gateway_imports_none_of_its_rooms() -> None:
    """It is there at once: whoever serves or checks imports what it needs for that."""
    told = "import sys, fastgw.cli; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    rooms = {name.split(".")[1] for name in names if name.startswith("fastgw.")}
    assert rooms == {"admin", "cli", "config", "node", "wire"}
    assert not {"fastgw.config.settings", "fastgw.config.loading", "asyncio", "cryptography", "yaml"} & set(names)
