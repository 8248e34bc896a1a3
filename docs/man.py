"""The manual pages of fastgw's commands, made from the command line itself: man.py FOLDER writes fastgw.1 and one more
page for each command.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from fastgw import VERSION
from fastgw.cli import app

EXIT_CODES: Final = (
    ("0", "Success."),
    ("1", "The file or the request is invalid."),
    ("2", "The command line is invalid."),
    ("3", "The gateway could not start, or cannot be reached."),
)
FILES: Final = (
    ("/etc/fastgw/gateway.yaml", "The configuration that fastgw.service runs."),
    ("/run/fastgw", "Sockets, and the token of the admin API."),
)


def escaped(text: str) -> str:
    """A text that troff prints as it is, with hyphens that can be copied."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def title(name: str, summary: str) -> Iterator[str]:
    yield f'.TH {name.upper().replace(" ", "-")} 1 "" "fastgw {VERSION}" "User Commands"'
    yield ".SH NAME"
    yield f"{escaped(name.replace(' ', '-'))} \\- {escaped(summary[:1].lower() + summary[1:].rstrip('.'))}"


def section(heading: str, pairs: Iterator[tuple[str, str]]) -> Iterator[str]:
    for number, (term, meaning) in enumerate(pairs):
        if number == 0:
            yield f".SH {heading}"
        yield f".TP\n.B {escaped(term)}\n{escaped(meaning)}"


def options(command: Any) -> Iterator[tuple[str, str]]:
    for each in command.params:
        if each.param_type_name == "option" and not each.hidden:
            value = "" if each.is_flag else f" {each.metavar or choices(each.type)}"
            yield f"{', '.join(each.opts)}{value}", each.help or ""


def choices(kind: Any) -> str:
    return "|".join(getattr(each, "value", each) for each in kind.choices)


def summary_of(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def page(name: str, command: Any) -> Iterator[str]:
    below = getattr(command, "commands", {})
    operands = [each for each in command.params if each.param_type_name == "argument"]
    usage = [each.metavar if each.required else f"[{each.metavar}]" for each in operands]
    yield from title(name, summary_of(command))
    yield f".SH SYNOPSIS\n.B {escaped(name)}"
    yield escaped(" ".join(("COMMAND [ARGUMENTS]",) if below else ("[OPTIONS]", *usage)))
    yield ".SH DESCRIPTION"
    for paragraph in (command.help or "").split("\n\n"):
        yield f".PP\n{escaped(' '.join(paragraph.split()))}"
    yield from section("ARGUMENTS", ((each.metavar, each.help or "") for each in operands))
    yield from section("OPTIONS", options(command))
    described = ((f"{name} {each}", summary_of(leaf)) for each, leaf in below.items() if not leaf.hidden)
    yield from section("COMMANDS", described)
    yield from section("EXIT STATUS", iter(EXIT_CODES))
    yield from section("FILES", iter(FILES))
    if name != "fastgw":
        yield ".SH SEE ALSO\n.BR fastgw (1)"


def pages(name: str, command: Any) -> Iterator[tuple[str, str]]:
    yield f"{name.replace(' ', '-')}.1", "\n".join(page(name, command)) + "\n"
    for each, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from pages(f"{name} {each}", below)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in pages("fastgw", typer.main.get_command(app)):
        folder.joinpath(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
