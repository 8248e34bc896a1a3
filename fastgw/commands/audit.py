"""Commands about audit logs."""

from __future__ import annotations

from typing import Annotated

import typer

from fastgw import config
from fastgw.commands.options import Format, FormatOption
from fastgw.commands.output import print_json, refuse


def verify(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Audit logs; rotated ones in their order, the oldest first.")
    ],
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="Hash of an entry, noted earlier, that must be among them.")
    ] = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Verify that no entry of an audit log was changed, removed or inserted: exit status 0, else 1."""
    from fastgw.audit.chain import LINE_MAX, BrokenChain, Link
    from fastgw.audit.chain import verify as links_of

    first: Link | None = None
    last: Link | None = None
    met = expect is None
    for file in files:
        try:
            with open(file, "rb") as log:
                for link in links_of(iter(lambda log=log: log.readline(LINE_MAX + 1), b""), last):  # type: ignore[misc]
                    first, last = first or link, link
                    met = met or link.hash == expect
        except OSError as error:
            refuse(answer, [config.Problem(file, 0, 0, "", error.strerror or str(error))])
        except BrokenChain as flaw:
            refuse(answer, [config.Problem(file, flaw.line, 0, "", str(flaw))])
    if first is None or last is None:
        refuse(answer, [config.Problem(files[-1], 0, 0, "", "there are no entries")])
    if not met:
        missing = f"no entry has the hash {expect}: entries were removed, or the log was replaced"
        refuse(answer, [config.Problem(files[-1], 0, 0, "", missing)])
    if answer is Format.JSON:
        print_json({"entries": last.number - first.number + 1, "first": first.number, "hash": last.hash})
    else:
        typer.echo(f"intact: entries {first.number} to {last.number}; hash of the last one: {last.hash}")
