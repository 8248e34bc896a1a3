"""What is delivered: sources, a wheel that works where nothing else is installed, an image made by the Dockerfile.

No image registry is needed: a small reader of the Dockerfile plays its stages in folders, with this Python as the base.
A machine without a compiler is one whose PATH leads to none.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distributions, version
from pathlib import Path
from shutil import which
from string import Template

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fastgw import VERSION
from tests.e2e.programs import environment, program, started
from tests.support.client import Client

ROOT = Path(__file__).parents[2]
BUILD_DEADLINE = 600.0  # seconds; packages are fetched
BUILD_TOOLS = re.compile(r"\b(apt-get|apk|gcc|cc|make|pip|setuptools|wheel|build-essential|git|[Cc]ython)\b")
# The programs that a system without a compiler has: those that our Dockerfile and pip call.
EVERYWHERE = ("sh", "env", "grep")
# Debian's package -> the programs that it brings, and those of what it depends on.
PROGRAMS = {
    "gcc": ("gcc", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", "as", "ld"),
    "libc6-dev": (),
    "libnghttp2-dev": (),
}
PAGE = ("*.html", "*.css", "*.js")  # what the dashboard is made of
NOT_SHIPPED = ("dev", "bench", "docs")  # extras for those who work on fastgw
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
GET = b"GET / HTTP/1.1\r\nHost: demo.test\r\nConnection: close\r\n\r\n"


def run(*command: str | Path, directory: Path, path: Path | None = None) -> str:
    """What a command printed on stdout. `path`: the only folder in which programs are found."""
    found = {"PATH": str(path)} if path else {}
    ended = subprocess.run(
        [*map(str, command)],
        cwd=directory,
        # What is compiled here need not be fast, but soon; Python compiles what it imports of all that is installed.
        env={**environment(), "PYTHONPATH": "", "CFLAGS": "-O0 -g0", "PIP_NO_COMPILE": "0", **found},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE,
        check=False,
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def copy_of_the_package(folder: Path) -> Path:
    """What a build needs, as it is in a fresh clone: nothing that an earlier build has left."""
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    made = shutil.ignore_patterns("__pycache__", "*.c", "*.so")
    shutil.copytree(ROOT / "fastgw", folder / "fastgw", ignore=made)
    return folder


def files(*patterns: str) -> set[str]:
    """Those of the package, as paths from the root of the repository."""
    return {str(path.relative_to(ROOT)) for each in patterns for path in ROOT.joinpath("fastgw").rglob(each)}


def system(folder: Path) -> Path:
    """A folder with the programs of a system that has this Python, and no compiler."""
    folder.mkdir()
    for name in ("python", "pip"):
        folder.joinpath(name).symlink_to(Path(sys.executable).with_name(name))
    for name in EVERYWHERE:
        folder.joinpath(name).symlink_to(program(name))
    return folder


def works(fastgw: Path, folder: Path) -> None:
    """The commands of an installed fastgw that need nothing around them."""
    told = json.loads(run(fastgw, "version", "--format", "json", directory=folder))
    assert told["fastgw"] == VERSION
    assert "configuration is valid" in run(fastgw, "check", ROOT / "examples" / "gateway.yaml", directory=folder)


def demo_answers(fastgw: Path) -> None:
    flags = ["demo", "--listen", "127.0.0.1:0", "--workers", "1"]
    with started(*flags, executable=fastgw, **QUIET) as (_, ready):
        with Client(ready["listeners"]["demo"][0]) as client:
            response = client.exchange(GET)
        assert (response.status, b"fastgw" in response.body) == (200, True)


@dataclass
class Release:
    """Source distribution, and a wheel that was made from nothing else."""

    sources: Path
    built: Path
    """The folder with the unpacked sources, and all that making the wheel has left beside them."""

    @property
    def wheel(self) -> Path:
        (found,) = self.built.glob("dist/*.whl")
        return found


ABOUT = f"fastgw-{VERSION}"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """As `python -m build` makes it, which would keep nothing that the image can be made from.

    Compiling all modules takes a minute of processor time: it is done once. What is translated to C already is brought.
    """
    folder = tmp_path_factory.mktemp("release")
    source = copy_of_the_package(folder / "source")
    # What building takes is fetched for the image.
    build = [sys.executable, "-m", "build", "--no-isolation"]
    run(*build, "--sdist", directory=source)
    sources = source / "dist" / f"{ABOUT}.tar.gz"
    with tarfile.open(sources) as held:
        held.extractall(folder, filter="data")
    bring_translated_modules(folder / ABOUT)
    run(*build, "--wheel", directory=folder / ABOUT)
    yield Release(sources, folder / ABOUT)
    shutil.rmtree(folder)


def bring_translated_modules(unpacked: Path) -> None:
    """Put the C files of this repository beside the sources that they were translated from.

    The same Cython has translated the same sources for the tests, in half a minute of processor time. Both are as old
    here as there: Cython translates what is out of date, or is not there. The image's build translates for itself.
    """
    sources = files("*.pyx", "*.pxd", "*.py", "*.h")
    assert {each for each in sources if (unpacked / each).read_bytes() != (ROOT / each).read_bytes()} == set()
    for made in files("*.c"):
        shutil.copy2(ROOT / made, unpacked / made)


def test_the_sources_make_a_wheel_that_is_compiled_and_works_alone(tmp_path, release):
    """In an environment that has nothing but what the wheel asks for."""
    about, wheel = ABOUT, release.wheel
    with tarfile.open(release.sources) as held:
        sent = {name.removeprefix(f"{about}/") for name in held.getnames()}
    assert {name for name in sent if Path(name).parts[0] == "fastgw" and Path(name).suffix} == {
        *files("*.py", "*.pyi", "*.pyx", "*.pxd", "*.h", *PAGE),
        "fastgw/py.typed",
    }
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= sent

    with zipfile.ZipFile(wheel) as unpacked:
        names = {name for name in unpacked.namelist() if not name.startswith(f"{about}.dist-info/")}
        assert f"{about}.dist-info/licenses/LICENSE" in unpacked.namelist()
    typed = {name.removesuffix(".pxd") for name in files("*.pxd")}
    typed &= {name.removesuffix(".py") for name in files("*.py")}
    compiled = {name.removesuffix(".pyx") for name in files("*.pyx")} | typed
    assert {name.partition(".")[0] for name in names if name.endswith(".so")} == compiled
    assert {name for name in names if not name.endswith(".so")} == {*files("*.py", "*.pyi", *PAGE), "fastgw/py.typed"}

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", directory=tmp_path)
    scripts = tmp_path / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    run(*pip, "install", "--quiet", wheel, directory=tmp_path)
    run(*pip, "check", directory=tmp_path)
    works(scripts / "fastgw", tmp_path)
    demo_answers(scripts / "fastgw")


def test_without_a_compiler_it_does_not_install_and_says_what_is_missing(tmp_path):
    source = copy_of_the_package(tmp_path / "source")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", directory=tmp_path)
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "venv" / "bin" / "python", "install", "--no-deps"]
    environment = {**os.environ, "PATH": system(tmp_path / "bin")}
    tried = subprocess.run([*pip, source], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert tried.returncode
    assert "error: there is no C compiler (" in tried.stdout + tried.stderr


def test_what_the_package_imports_is_what_it_depends_on():
    """No dependency is missing, and none is there for nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [
        each
        for extra in (
            "acme",
            "compression",
            "dns",
            "geoip",
            "grpc",
            "jq",
            "jsonata",
            "kafka",
            "kubernetes",
            "redis",
            "transform",
            "validate",
        )
        for each in extras[extra]
    ]
    wanted = [*project["dependencies"], *chosen]
    names = {re.split(r"[\[<>=!~ ]", each, maxsplit=1)[0].lower() for each in wanted}
    called = {"protobuf": "google", "google-re2": "re2", "pyyaml": "yaml", "argon2-cffi": "argon2", "dnspython": "dns"}
    called["jsonata-python"] = "jsonata"
    called["backports.zstd"] = "backports"  # of 3.14, in `compression`, which is of the standard library there
    imported = set()
    for file in ROOT.joinpath("fastgw").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    # Compiled modules name `cython` for their types, and do not import it.
    assert imported - sys.stdlib_module_names - {"compression", "cython", "fastgw"} == {
        called.get(name, name.replace("-", "_")) for name in names
    }


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    image: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # instruction and the rest of its line

    def all(self, instruction: str) -> list[str]:
        return [rest for each, rest in self.steps if each == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]


def read_dockerfile() -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[Stage] = []
    given: dict[str, str] = {}  # what is said before the first stage
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            image, *name = rest.split(" AS ")
            stages.append(Stage(Template(image).substitute(given), name[0] if name else ""))
        elif not stages:
            name, _, value = rest.partition("=")
            given[name] = value
        else:
            stages[-1].steps.append((instruction, rest))
    return stages


class Builder:
    """Plays the stages, each with a folder as its root. While a stage is built its root is `here`, as each was."""

    def __init__(self, folder: Path, copied: Callable[[Path], None]) -> None:
        """`copied`: is called with a stage's root before each RUN."""
        self._folder = folder
        self._copied = copied
        self.here = folder / "root"
        self._sources = {"": self._sent()}

    def _sent(self) -> Path:
        """The files that .dockerignore lets through: it refuses all, then names what is needed."""
        first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
        assert first == "*"
        sent = self._folder / "sent"
        ignored = shutil.ignore_patterns(*(line.removeprefix("**/") for line in rest if line.startswith("**/")))
        for name in [line[1:] for line in rest if line.startswith("!")]:
            source, to = ROOT / name, sent / name
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, to, ignore=ignored)
            else:
                shutil.copy(source, to)
        return sent

    def build(self, stages: list[Stage]) -> Path:
        """The last stage's root."""
        for number, stage in enumerate(stages):
            self.here.mkdir()
            path = self._base_image(f"base-{number}")
            for instruction, rest in stage.steps:
                if instruction == "COPY":
                    self._copy(rest)
                elif instruction == "RUN":
                    self._copied(self.here)
                    run("sh", "-euc", self.rooted(rest), directory=self.here, path=path)
            if number < len(stages) - 1:
                self._sources[stage.name] = self.here.rename(self._folder / f"stage-{number}")
        return self.here

    def _base_image(self, name: str) -> Path:
        """The programs of a stage as it begins; its apt-get adds the ones of this system that a package would bring."""
        path = system(self._folder / name)
        cases = "".join(
            f"{package}) {''.join(f'ln -sf {found} {path}; ' for each in names if (found := which(each)))};;\n"
            for package, names in PROGRAMS.items()
        )
        path.joinpath("ln").symlink_to(program("ln"))
        path.joinpath("apt-get").write_text(
            '#!/bin/sh\nset -eu\nfor each in "$@"; do case $each in\n'
            f"update|install|-*) ;;\n{cases}"
            '*) echo "E: Unable to locate package $each" >&2; exit 100;;\nesac; done\n'
        )
        path.joinpath("apt-get").chmod(0o755)
        return path

    def rooted(self, command: str) -> str:
        """The same command with absolute paths below `here`."""
        return re.sub(r"(?<![\w./:])/(?=\w)", f"{shlex.quote(str(self.here))}/", command)

    def _copy(self, rest: str) -> None:
        options = {word for word in rest.split() if word.startswith("--")}
        *names, to = [word for word in rest.split() if word not in options]
        source = self._sources["".join(option.removeprefix("--from=") for option in options)]
        target = self.here / to.lstrip("/")
        for name in names:
            held = source / name.lstrip("/")
            if held.is_dir():
                shutil.copytree(held, target, symlinks=True)
                continue
            file = target / held.name if to.endswith("/") else target
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(held, file)


def test_what_is_pinned_is_what_the_package_asks_for():
    """The image and the Debian package are installed from these versions, and no others: `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [
        *project["dependencies"],
        *(each for name, its in extras.items() if name not in NOT_SHIPPED for each in its),
    ]
    text = (ROOT / "deploy" / "requirements.lock").read_text()
    pinned = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}
    wrong = [
        str(each)
        for each in map(Requirement, asked)
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ]
    assert wrong == []


@pytest.mark.landing
def test_what_is_tested_is_what_is_pinned():
    """The packages of this environment have the versions of the image."""
    text = (ROOT / "deploy" / "requirements.lock").read_text()
    pinned = [Requirement(line) for line in re.findall(r"^([\w.-]+==.*) \\$", text, re.M)]
    assert len(pinned) > 50
    here = {each: version(each.name) for each in pinned if each.marker is None or each.marker.evaluate()}
    assert {str(each): found for each, found in here.items() if found not in each.specifier} == {}


def test_the_debian_package_is_of_this_version_and_has_a_manual_page_for_each_command(tmp_path):
    first = (ROOT / "deploy" / "debian" / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"fastgw ({VERSION}) ")
    run(sys.executable, ROOT / "docs" / "man.py", tmp_path / "man", directory=tmp_path)
    pages = {path.name: path.read_text() for path in tmp_path.joinpath("man").iterdir()}
    commands = set(re.findall(r"^## fastgw (.+)$", (ROOT / "docs" / "reference" / "commands.md").read_text(), re.M))
    assert {f"fastgw-{each.replace(' ', '-')}.1" for each in commands} <= {*pages}
    assert ".B \\-\\-ready\\-fd N\n" in pages["fastgw-run.1"]


STAGES = read_dockerfile()
LAST = STAGES[-1]


def test_the_image_runs_the_python_that_its_packages_were_installed_for():
    assert len({stage.image for stage in STAGES}) == 1
    assert LAST.image.startswith("python:3.")


def test_the_image_runs_as_nobody_in_particular():
    """By number: an orchestrator that refuses root has no way to look a name up."""
    assert re.fullmatch(r"[1-9][0-9]{4,}:[1-9][0-9]{4,}", LAST.last("USER"))


def test_the_image_is_stopped_by_the_signal_that_drains():
    assert LAST.last("STOPSIGNAL") == "SIGTERM"


def test_the_image_starts_fastgw_without_a_shell():
    """A shell would be process 1, and keep the stop signal for itself."""
    assert json.loads(LAST.last("ENTRYPOINT")) == ["fastgw"]
    assert json.loads(LAST.last("CMD"))[0] == "run"


COMPILED_FOR_THE_IMAGE = ("http/http2/_session", "routing/route_tree")
"""Modules that the stage itself translates and compiles: with the library of the system, and without one."""


def bring_compiled_modules(release: Release, root: Path) -> None:
    """Put what the wheel was made from beside the sources, but for a few modules.

    So the stage compiles with its own programs, and not the same hundred modules with the same compiler a second time.
    """
    if (root / "src" / "build").exists() or not (root / "src").exists():
        return
    needed = files("*.py", "*.pyi", "*.pyx", "*.pxd", "*.h", *PAGE)
    assert needed <= {str(path.relative_to(root / "src")) for path in root.joinpath("src", "fastgw").rglob("*")}
    # Cython translates what is older than its own declarations, which pip installs for this build: these are later.
    date = time.time() + BUILD_DEADLINE
    for folder, suffix in (("fastgw", "c"), ("build/lib.*/fastgw", "so")):
        for package in release.built.glob(folder):
            for made in package.rglob(f"*.{suffix}"):
                if made.relative_to(package).as_posix().partition(".")[0] not in COMPILED_FOR_THE_IMAGE:
                    to = root / "src" / made.relative_to(release.built)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(made, to)
                    os.utime(to, (date, date))
        date += 1.0  # a module is later than its C file


def test_the_image_serves_is_found_healthy_and_holds_nothing_that_builds(tmp_path, release):
    from cyclonedx.schema import SchemaVersion  # not by every process that collects this file: it takes 2 s
    from cyclonedx.validation.json import JsonStrictValidator

    root = Builder(tmp_path, partial(bring_compiled_modules, release)).build(STAGES)
    objects = {each.as_posix().partition("/fastgw/")[2] for each in tmp_path.glob("stage-0/src/build/temp.*/**/*.o")}
    assert objects == {f"{each}.o" for each in COMPILED_FOR_THE_IMAGE}  # no more, and these with the stage's programs
    assert not [step for step in LAST.all("RUN") if BUILD_TOOLS.search(step)]
    assert {path.name for path in root.iterdir()} == {"etc", "opt"}
    (packages,) = root.glob("opt/fastgw/lib/python3*/site-packages")
    assert packages.joinpath("fastgw").is_dir()
    assert not [path.name for path in packages.iterdir() if BUILD_TOOLS.match(path.name)]

    # The same sources make the same files: bytecode goes by digests of the sources, not by their dates (PEP 552).
    flags_of = [int.from_bytes(each.read_bytes()[4:8], "little") for each in packages.rglob("*.pyc")]
    assert {*flags_of} == {0b11}
    bill = root.joinpath("opt/fastgw/sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    listed = {each["name"]: each["version"] for each in json.loads(bill)["components"]}
    assert listed.pop("libnghttp2")
    installed = {canonicalize_name(each.name): each.version for each in distributions(path=[str(packages)])}
    assert {"fastgw": VERSION} | listed == installed

    scripts = root / "opt" / "fastgw" / "bin"
    works(scripts / "fastgw", tmp_path)
    command, file = json.loads(LAST.last("CMD"))
    written = root.joinpath(file.lstrip("/")).read_text()
    assert all(address in written for address in ("0.0.0.0:8080", "127.0.0.1:9902"))
    (tmp_path / "gateway.yaml").write_text(re.sub(r"[0-9.]+:(8080|9902)", "127.0.0.1:0", written))
    flags = [command, str(tmp_path / "gateway.yaml")]
    with started(*flags, executable=scripts / "fastgw", **QUIET) as (_, ready):
        with Client(ready["listeners"]["public"][0]) as client:
            assert client.exchange(GET).status == 200
        program, *arguments = json.loads(LAST.last("HEALTHCHECK").partition("CMD")[2])
        asked = [each.replace("127.0.0.1:9902", ready["status"]) for each in arguments]
        assert asked != arguments
        run(scripts / program, *asked, directory=tmp_path)


def test_translating_to_c_says_nothing_but_what_is_wrong(tmp_path: Path) -> None:
    """`make run` prints its steps and what is compiled, and nothing else."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    package = tmp_path / "fastgw"
    package.mkdir()
    for name in ("_one", "_two"):
        (package / f"{name}.pyx").write_text("def said():\n    return 1\n")
    command = [sys.executable, "setup.py", "-q", "--name"]

    def told() -> tuple[int, str]:
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=BUILD_DEADLINE)
        return ended.returncode, ended.stdout + ended.stderr

    assert told() == (0, "UNKNOWN\n")
    (package / "_two.pyx").write_text("def said(:\n")
    code, text = told()
    assert (code, "_two.pyx:1:9: " in text) == (1, True)
