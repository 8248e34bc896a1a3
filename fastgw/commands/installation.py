"""Commands about what is installed: `completion` and `version`."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer

from fastgw import VERSION
from fastgw.commands.application import PROGRAM, app
from fastgw.commands.options import Format, FormatOption
from fastgw.commands.output import print_json

COMPLETE: Final = "_FASTGW_COMPLETE"
"""Environment variable by which a shell requests completions."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")],
) -> None:
    """Print the shell completion of fastgw: `source <(fastgw completion bash)`."""
    os.environ[COMPLETE] = f"source_{shell}"
    try:
        typer.main.get_command(app)(args=[], prog_name=PROGRAM)  # prints the script and exits
    finally:
        del os.environ[COMPLETE]


def version(answer: FormatOption = Format.TEXT) -> None:
    """Print the versions of fastgw and its dependencies."""
    from importlib.metadata import version as version_of
    from platform import python_implementation, python_version

    from fastgw.http.http2 import session as http2_session
    from fastgw.net import ocsp_stapling, openssl

    versions = {
        "fastgw": VERSION,
        "python": f"{python_version()} ({python_implementation()})",
        "uvloop": version_of("uvloop"),
        "httptools": version_of("httptools"),
        "msgspec": version_of("msgspec"),
        "http2": http2_session.describe(),
        "ocsp": ocsp_stapling.describe(),
        "tickets": openssl.describe_tickets(),
    }
    if answer is Format.JSON:
        print_json(versions)
    else:
        typer.echo("\n".join(f"{name + ':':<11}{value}" for name, value in versions.items()))
