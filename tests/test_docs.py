"""What the documents say is true: links lead somewhere, configurations are good, commands print what is written.

In a `console` block `$` begins a command, what follows is its output, and `...` stands for anything. A command that
ends with `&` runs on while the rest of its block is tried, or until `kill %1` ends the first of them. Ports are changed
to free ones, so that nobody is disturbed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.alone import alone
from tests.support.commands import ended
from tests.support.default_ports import default_ports
from tests.support.forked import COMMAND_DEADLINE, FASTGW, ran, start
from tests.support.gateway import START_DEADLINE, STOP_DEADLINE, Lines, wait_until
from tests.support.table import for_each

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")), "tuning.md"]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "bench/README.md", *PAGES]
CONFIGURATIONS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("examples", "deploy")
    for path in (ROOT / folder).glob("*")  # deeper down is what other programs read
    if path.suffix in (".yaml", ".toml", ".json")
)
CONFIGURATIONS.append("examples/kyma/gateway.yaml")
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_BLOCK = re.compile(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"(?<=[:\s])(?:8080|900[0-9]|990[12])\b")
TRY_IT = re.compile(r"Try it: (.*)")


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(document: str) -> list[str]:
    """The console blocks of a document."""
    return [text for kind, text in BLOCK.findall(text_of(document)) if kind == "console"]


def anchors(file: Path) -> set[str]:
    """What may be linked to in a document: its headings, as Markdown's readers name them, and its own anchors."""
    text = CODE.sub("", file.read_text())
    titles = HEADING.findall(text)
    named = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    return named | {*re.findall(r'<a id="([^"]+)"></a>', text)}


def test_every_link_into_the_repository_leads_to_a_place_in_a_file():
    astray = []
    for document in DOCUMENTS:
        for target, anchor in LINK.findall(CODE.sub("", text_of(document))):
            file = (ROOT / document).parent / target if target else ROOT / document
            if "://" not in target and not (file.exists() and (not anchor or anchor in anchors(file))):
                astray.append(f"{document}: {target}#{anchor}")
    assert astray == []


def test_every_file_of_the_repository_that_is_named_is_there():
    missing = []
    for document in (*PAGES, "README.md", "deploy/README.md"):
        named = re.findall(r"`((?:examples|deploy|docs|bench|fastgw)/[\w./-]+)`", text_of(document))
        missing += [f"{document}: {each}" for each in named if not (ROOT / each).exists()]
    assert missing == []


def test_every_path_on_the_map_is_there():
    """The map names folders by path, some of them in the folder that their line is about."""
    (plan,) = [
        text for kind, text in BLOCK.findall(text_of("CONTRIBUTING.md")) if kind == "" and "fastgw/http/" in text
    ]
    lines = [re.findall(r"[\w/]+(?:/(?=[\s,:;]|$)|\.(?:py|md)\b)", line) for line in plan.splitlines()]
    assert sum(map(len, lines)) > 30
    folders = [ROOT, ROOT / "fastgw", ROOT / "tests", ROOT / "bench"]
    assert not [
        path
        for line in lines
        for path in line
        if not any((folder / path).exists() for folder in (*folders, *(ROOT / each for each in line)))
    ]


def test_make_has_what_it_is_asked_for():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for document in DOCUMENTS:
        asked = set(re.findall(r"\bmake ([a-z-]+)(?=`|\n|$)", text_of(document)))
        assert asked <= targets, document


@for_each("file", CONFIGURATIONS)
def test_every_configuration_is_good(file):
    with TemporaryDirectory() as folder:  # nobody else reads the secrets here: git keeps no modes of files
        shutil.copytree(ROOT / "examples", Path(folder, "examples"))
        checked = ended("check", file, directory=Path(folder) if file.startswith("examples/") else ROOT)
    if file == "examples/discovery.yaml":  # whose registries do not run here
        *notes, last = checked.stdout.splitlines()
        assert (checked.exit_code, last) == (0, f"{file}: configuration is valid, with notes above")
        assert len(notes) == 2
        assert all("cannot be fetched" in note for note in notes)
        return
    assert (checked.exit_code, checked.stdout) == (0, f"{file}: configuration is valid\n")


@for_each("file", CONFIGURATIONS)
def test_what_a_configuration_says_to_try_works(file):
    for command in TRY_IT.findall(text_of(file)):
        program, *arguments = command.split()
        assert program == "fastgw"
        assert ended(*arguments, directory=ROOT).exit_code == 0, command


def test_the_front_for_http3_finds_the_gateway_and_is_announced():
    """Each of the front's two addresses must be the one that the configuration has; `e2e` runs both files."""
    front, gateway = text_of("examples/http3/envoy.yaml"), text_of("examples/http3.yaml")
    public, target = re.findall(r"port_value: (\d+)", front)
    (listener,) = re.findall(rf'address: "127.0.0.1:{target}"\n((?:    .*\n)+)', gateway)
    assert "http2" in listener  # h2c: without TLS, by prior knowledge
    assert "trusted_proxies: [127.0.0.1/32]" in listener
    assert [public] == re.findall(r'h3=":(\d+)"', gateway)


def test_the_readme_is_short_and_has_two_pictures():
    assert len(text_of("README.md").splitlines()) <= 100
    assert len(re.findall(r"!\[", text_of("README.md"))) == 2


def test_the_real_configuration_has_five_lines():
    ((name, text), *_) = FILE_BLOCK.findall(text_of("README.md"))
    assert (name, len(text.splitlines())) == ("gateway.yaml", 5)


def test_the_changes_are_one_page():
    """Before the first release there are no entries: no user has a version to upgrade from."""
    text = text_of("CHANGELOG.md")
    assert len(text.encode()) < 10_000
    assert "## 0.1.0 (not released)" in text


# A command of fastgw in words and quotes, of which a shell makes the same as `shlex`.
PLAIN = re.compile(r"fastgw [^|<>;&$`*?~\\#{}()\[\]!\n]+")


class Terminal:
    """A shell in a folder of its own, for the commands of one block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._held: list[socket.socket] = []
        self._ports_may_be_taken = default_ports()
        self._running: list[tuple[subprocess.Popen[bytes], list[Lines]]] = []
        path = os.pathsep.join([str(Path(FASTGW).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        kept.pop("PYTEST_ADDOPTS", None)  # of this run: what pytest prints is shown
        runtime = {"XDG_RUNTIME_DIR": str(folder)}  # the commands find the gateway of this block
        self._own = {**kept, **runtime, "PATH": path}
        """For commands of fastgw, which print the same in each locale."""
        self._environment = {**self._own, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}

    def __enter__(self) -> Terminal:
        self._ports_may_be_taken.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._ports_may_be_taken.__exit__(None, None, None)
        for process, streams in reversed(self._running):
            process.terminate()
            process.wait(STOP_DEADLINE)
            for lines in streams:
                lines.finish()
        for sock in self._held:
            sock.close()

    def sets(self, **variables: str) -> None:
        """For all commands from here on."""
        self._environment |= variables
        self._own |= variables

    def moved(self, text: str) -> str:
        """The same with free ports, each name of a port always the same one."""
        return PORT.sub(lambda found: self._ports.get(found[0]) or self._take_port(found[0]), text)

    def _take_port(self, name: str) -> str:
        """A socket that is bound, but does not listen, keeps others away from the port."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self._held.append(sock)
        return self._ports.setdefault(name, str(sock.getsockname()[1]))

    def type(self, command: str, expected: str) -> None:
        """Run a command and compare what it prints. A pattern: it has to fit from the first line to the last."""
        if command == "wait" or command.startswith("kill "):
            self._kill([int(job) for job in re.findall(r"%([1-9])", command)])
            if command.endswith("wait"):
                self._wait()
            return
        command = self.moved(command)
        pattern = ".*".join(re.escape(part) for part in expected.rstrip("\n").split("..."))
        # A default stays what it is, whatever else was moved from there.
        pattern = PORT.sub(lambda found: f"(?:{found[0]}|{self._ports.get(found[0], found[0])})", pattern)
        if command.endswith("&"):
            self._begin(command.rstrip("& "), pattern)
            return
        options: dict[str, Any] = {"cwd": self._folder, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        if PLAIN.fullmatch(command):
            ended = ran([*alone(), FASTGW, *shlex.split(command)[1:]], env=self._own, **options)
        else:
            options |= {"stdout": subprocess.PIPE, "text": True, "timeout": COMMAND_DEADLINE}
            ended = subprocess.run([*alone(), "bash", "-c", command], env=self._environment, **options)
        assert re.fullmatch(pattern, ended.stdout.rstrip("\n"), re.DOTALL), f"$ {command}\n{ended.stdout}"

    def _kill(self, jobs: list[int]) -> None:
        for job in jobs:
            process, _ = self._running[job - 1]
            assert process.poll() is None
            process.terminate()
            process.wait(STOP_DEADLINE)

    def _wait(self) -> None:
        """All of them end, and the shell begins to count its jobs anew."""
        for process, streams in self._running:
            process.wait(STOP_DEADLINE)
            for lines in streams:
                lines.finish()
        self._running.clear()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs that a command has begun."""
        return not self._running

    def _begin(self, command: str, pattern: str) -> None:
        """Start it, and wait until it listens on the first port that it names, or has printed what it should."""
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if PLAIN.fullmatch(command):
            process = start([*alone(), FASTGW, *shlex.split(command)[1:]], cwd=self._folder, env=self._own, **options)
        else:
            shell = [*alone(), "bash", "-c", f"exec {command}"]
            process = subprocess.Popen(shell, cwd=self._folder, env=self._environment, **options)
        assert process.stdout is not None
        assert process.stderr is not None
        streams = [Lines(process.stdout), Lines(process.stderr)]
        self._running.append((process, streams))
        if pattern:
            fits = re.compile(pattern).fullmatch
            streams[1].wait_for(lambda line: fits(line.decode().rstrip("\n")) is not None, START_DEADLINE, raw=True)
            return
        named = min((port for port in self._ports.values() if port in command), key=command.index)
        wait_until(lambda: listens(int(named)), f"{command} to listen", START_DEADLINE)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command with the output that is written under it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def test_what_the_readme_shows_is_what_happens(tmp_path):
    """Its blocks are typed one after the other in one terminal, as a reader does; each ends what it has begun."""
    with Terminal(tmp_path) as terminal:
        for name, text in FILE_BLOCK.findall(text_of("README.md")):
            (tmp_path / name).write_text(terminal.moved(text))
        for block in blocks("README.md"):
            if "fastgw " in block:
                for command, expected in commands(block):
                    terminal.type(command, expected)
                assert terminal.is_idle, f"left running by:\n{block}"


TUTORIAL = "docs/guides/write-a-filter.md"
PACKAGE = ROOT / "examples" / "filter_package"


def test_the_files_of_the_tutorial_are_the_package():
    files = dict(FILE_BLOCK.findall(text_of(TUTORIAL)))
    there = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".yaml")}
    assert set(files) == there
    assert files == {name: (PACKAGE / name).read_text() for name in files}


@pytest.mark.extended
def test_what_the_tutorial_shows_is_what_happens(tmp_path):
    """Installed beside everything else, into a folder of its own."""
    site = tmp_path / "site"
    with Terminal(tmp_path) as terminal:
        terminal.sets(
            PIP_TARGET=str(site), PIP_NO_DEPS="1", PIP_NO_BUILD_ISOLATION="0", PIP_NO_INDEX="1", PYTHONPATH=str(site)
        )
        for name, text in FILE_BLOCK.findall(text_of(TUTORIAL)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(terminal.moved(text))
        for block in blocks(TUTORIAL):
            for command, expected in commands(block):
                terminal.type(command, expected)


TYPED = [page for page in PAGES if "```console" in text_of(page) and page != TUTORIAL]


@pytest.mark.parametrize("page", TYPED)
def test_what_a_page_shows_is_what_happens(page, tmp_path):
    """As a reader does it: its files are there, its commands are typed one after the other."""
    with Terminal(tmp_path) as terminal:
        for name, text in FILE_BLOCK.findall(text_of(page)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(terminal.moved(text))
        for block in blocks(page):
            for command, expected in commands(block):
                terminal.type(command, expected)
