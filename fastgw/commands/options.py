"""Options and arguments that several commands have."""

from __future__ import annotations

import os
import stat
import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from fastgw.admin import TOKEN


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Syntax(StrEnum):
    """Syntax of a configuration without a file name."""

    YAML = "yaml"
    TOML = "toml"
    JSON = "json"


STDIN: Final = "-"
"""Argument in place of a file's name."""
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


def checked_share(share: float) -> float:
    """Return the value of an option, which click's ranges cannot check: `nan` is in all of them."""
    if not 0.0 < share <= 1.0:
        raise typer.BadParameter(f"{share:g} is not above 0 and at most 1")
    return share


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
