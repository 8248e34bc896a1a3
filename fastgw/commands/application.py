"""The application that the commands belong to."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from fastgw import VERSION
from fastgw.commands.exit_codes import USAGE
from fastgw.commands.output import fail, printable

_BYTES_ALLOWED: Final = frozenset(
    (
        *("against", "allow", "certificate", "extension_dir", "file", "key_file", "new", "out", "recording"),
        *("token_file", "header"),
    )
)
"""Options that name files or are headers."""
PROGRAM: Final = "fastgw"
app = typer.Typer(
    help="An API gateway and reverse proxy.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
audit_app = typer.Typer(help="Audit logs.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastgw {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


class TextCommand(TyperCommand):
    """Command that refuses an option whose value is not UTF-8, unless bytes are of use there: files that it reads or
    writes, and headers. Arguments are refused where they are used.
    """

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the whole first sentence for the list of commands, where it goes on in the next line."""
        return super().get_short_help_str(limit=1_000)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for each in self.params:
            value = ctx.params.get(each.name or "")
            if each.param_type_name != "option" or each.name in _BYTES_ALLOWED:
                continue
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str) and (shown := printable(text)) != text:
                    fail(USAGE, f'fastgw: {each.opts[-1]}: "{shown}" is not UTF-8')
        return rest
