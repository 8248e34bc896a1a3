"""A command of `fastgw` in this process: its output and exit code, without starting an interpreter."""

from __future__ import annotations

import contextlib
from pathlib import Path

from typer.testing import CliRunner, Result

from fastgw.cli import app


def ended(*arguments: str, directory: Path) -> Result:
    """Run a command to its end in a directory. It must not fork, because other tests have threads."""
    with contextlib.chdir(directory):
        told = CliRunner().invoke(app, arguments, prog_name="fastgw")
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told
