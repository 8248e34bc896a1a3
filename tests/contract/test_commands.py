"""The commands with their arguments and options, what `version` tells, and what every exit code means.

`commands.txt` is the contract: a change of it is a decision.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import typer

from fastgw import VERSION
from fastgw.cli import app
from tests.support.commands import ended
from tests.support.forked import FASTGW, ran

GOOD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes: [{name: x, respond: {body: ok}}]\n"

EXIT_CODES = {
    0: [
        "version",
        "schema",
        "schema good.yaml",
        "filters",
        "filters size",
        "filters --file good.yaml",
        "--help",
        "run --help",
        *(
            f"{name} {flag}".strip()
            for name in (
                "",
                "run",
                "check",
                "explain",
                "diff",
                "reload",
                "drain",
                "status",
                "schema",
                "filters",
                "demo",
            )
            for flag in ("-h", "--help")
        ),
        "completion -h",
        "completion bash",
        "check good.yaml",
        "explain good.yaml GET http://a/",
        "diff good.yaml good.yaml",
    ],
    1: [
        "check bad.yaml",
        "check missing.yaml",
        "filters sizes",
        "filters --file missing.yaml",
        "check good.txt",
        "run bad.yaml",
        "explain bad.yaml GET http://a/",
        "explain good.yaml GET a",
        "diff good.yaml bad.yaml",
        "status --token-file missing",
        "audit verify good.txt",
        "audit verify missing.log",
    ],
    2: [
        "",
        "unknown",
        "--unknown",
        "run",
        "run --listen 127.0.0.1:0",
        "run good.yaml --listen 127.0.0.1:0",
        "run good.yaml --ready-fd 99",
        "run --listen nowhere --to http://127.0.0.1:1",
        "run --workers 0 --listen 127.0.0.1:0 --to http://127.0.0.1:1",
        "check",
        "check good.yaml --format xml",
        "filters --format xml",
        "explain good.yaml GET",
        "demo --listen nowhere",
        "diff good.yaml",
        "reload --admin nowhere",
        "drain --admin http://a/b",
        "status --watch",
        "check good.yaml --syntax xml",
        "completion tcsh",
        "diff - -",
        "audit",
        "audit verify",
    ],
    3: [
        "run --listen 127.0.0.1:TAKEN --to http://127.0.0.1:1",
        "run --listen 192.0.2.1:0 --to http://127.0.0.1:1",
        "reload --admin unix:/nowhere",
        "drain --admin unix:/nowhere",
        "status --admin unix:/nowhere",
    ],
}


# One of each code is a process, as are those that would serve; nobody else can tell the difference.
PROCESSES = ("run", "demo", "check", "version")


def typed(arguments: str, directory: Path) -> tuple[int, str, str]:
    """The exit code, and what was said on stdout and stderr."""
    if arguments.startswith(PROCESSES):
        done = ran([FASTGW, *arguments.split()], cwd=directory)
        return done.returncode, done.stdout, done.stderr
    told = ended(*arguments.split(), directory=directory)
    return told.exit_code, told.stdout, told.stderr


def described() -> str:
    """Every command, as `name ARGUMENT… --option…: what it does`."""
    group = typer.main.get_command(app)
    lines = []
    commands = dict(group.commands)  # type: ignore[attr-defined]  # it is a group of commands
    commands |= {f"audit {name}": each for name, each in commands.pop("audit").commands.items()}
    for name, command in commands.items():
        names = [str(each.metavar) for each in command.params if each.param_type_name == "argument"]
        options = [each.opts[-1] for each in command.params if each.param_type_name == "option"]
        lines.append(f"{' '.join([name, *names, *sorted(options)])}: {(command.help or '').splitlines()[0]}")
    return "\n".join(lines) + "\n"


def test_the_commands_are_those_that_were_promised():
    assert described() == Path(__file__).with_name("commands.txt").read_text()


def test_version_tells_the_same_as_text_and_as_json(tmp_path):
    lines = typed("version", tmp_path)[1].splitlines()
    told = json.loads(typed("version --format json", tmp_path)[1])
    names = ["fastgw", "python", "uvloop", "httptools", "msgspec", "http2", "ocsp", "tickets"]
    assert list(told) == names
    assert [line.split(":", 1)[0] for line in lines] == list(told)
    assert [line.split(":", 1)[1].strip() for line in lines] == list(told.values())
    assert told["fastgw"] == VERSION


@pytest.mark.parametrize(
    ("code", "arguments"), [(code, arguments) for code, many in EXIT_CODES.items() for arguments in many]
)
def test_the_exit_code_says_who_has_to_act(code, arguments, tmp_path):
    """0 nobody, 1 whoever wrote the file or asked, 2 whoever typed the command, 3 whoever runs the machine."""
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "good.txt").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(GOOD.replace("routes", "ruotes"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended_with, *said = typed(arguments.replace("TAKEN", str(taken.getsockname()[1])), tmp_path)
    assert ended_with == code, said
    assert any(said), "nothing was said"
    assert "Traceback" not in "".join(said)
