"""A command of `fastgw` in this process: what it says and ends with, without the start of an interpreter."""

from __future__ import annotations

import contextlib
from pathlib import Path

from typer.testing import CliRunner, Result

from fastgw.cli import app


def ended(*arguments: str, directory: Path) -> Result:
    """Run it to its end in a directory. No command that forks: threads of other tests are here."""
    with contextlib.chdir(directory):
        told = CliRunner().invoke(app, arguments, prog_name="fastgw")
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told
