"""Commands about recorded requests: `record`, `replay` and `shadow-report`."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated

import typer

from fastgw import config
from fastgw.commands.exit_codes import OUTPUT_LOST, USAGE, WRONG
from fastgw.commands.options import (
    AdminOption,
    CertificateOption,
    ConfigOption,
    ExtensionDirOption,
    Format,
    FormatOption,
    NameOption,
    TokenOption,
    checked_share,
)
from fastgw.commands.output import fail, print_json, with_excerpts
from fastgw.commands.running_gateway import gateway_choice, query_gateway


class ReplayedUpstreams(StrEnum):
    RECORDED = "recorded"
    LIVE = "live"


def record(
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="Number of requests to record.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="The recording, encrypted; its mode is 0600.")],
    key_file: Annotated[
        str,
        typer.Option(
            "--key-file", metavar="FILE", help="The key of the recording: a file of mode 0600. A missing one is made."
        ),
    ],
    route: Annotated[
        list[str] | None, typer.Option("--route", metavar="NAME", help="Only requests of this route. Repeatable.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only responses of 404 or 5xx. Repeatable.")
    ] = None,
    ratio: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the requests: 0.1 = one in ten.", callback=checked_share),
    ] = 1.0,
    seconds: Annotated[float, typer.Option(metavar="S", help="End after this time, whatever was recorded.")] = 3600.0,
    body_bytes: Annotated[
        int, typer.Option("--body-bytes", min=0, metavar="N", help="Bytes that are kept of each body.")
    ] = 65536,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Mask this header, query parameter or cookie too. Repeatable."),
    ] = None,
    keep_cookies: Annotated[
        bool, typer.Option("--keep-cookies", help="Record values of cookies that filters do not check.")
    ] = False,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Record requests of a running gateway with their responses, without credentials, for `fastgw replay`."""
    from fastgw.admin.node_interface import RecordingWanted
    from fastgw.recording.file import UnusableRecordingFile, UnusableRecordingKey, is_exposed, read_key
    from fastgw.replay.capture import CannotWriteRecording, capture, describe_size

    try:
        key = read_key(key_file, create=True)
    except UnusableRecordingKey as error:
        fail(USAGE, f"fastgw: {error}")
    if is_exposed(key_file):
        typer.echo(f"fastgw: {key_file} can be read by other users: chmod 600 {key_file}", err=True)
    wanted = RecordingWanted(
        requests, seconds, ratio, route or (), status or (), body_bytes, redact or (), keep_cookies
    )

    def began() -> None:
        typer.echo(f"fastgw: recording {requests} requests", err=True)

    try:
        captured = query_gateway(
            gateway_choice(file, name, admin, token_file),
            certificate,
            lambda client: capture(client, wanted, out, key, began),
        )
    except UnusableRecordingFile as error:
        fail(USAGE, f"fastgw: {error}")
    except CannotWriteRecording as error:
        fail(OUTPUT_LOST, f"fastgw: the output cannot be written: {error}")
    if captured.why:
        typer.echo(f"fastgw: the recording has ended early: {captured.why}", err=True)
    if answer is Format.JSON:
        written = out if captured.requests else None
        print_json({"requests": captured.requests, "dropped": captured.dropped, "file": written})
    else:
        dropped = f", {captured.dropped} dropped" if captured.dropped else ""
        result = describe_size(out) if captured.requests else "no file is written"
        typer.echo(f"{out}: {captured.requests} requests recorded{dropped}, {result}")
    if captured.why:
        raise typer.Exit(WRONG)


def replay(
    recording: Annotated[str, typer.Argument(metavar="FILE", help="A recording of `fastgw record`.")],
    new: Annotated[str, typer.Option("--config", metavar="NEW", help="The configuration to try.")],
    key_file: Annotated[str, typer.Option("--key-file", metavar="FILE", help="The key of the recording.")],
    against: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="The configuration to compare with. Default: the recorded responses."),
    ] = None,
    upstreams: Annotated[
        ReplayedUpstreams, typer.Option(help="Who answers: the recording, or the upstreams of the configuration.")
    ] = ReplayedUpstreams.RECORDED,
    allow: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="File with differences that are allowed: [{route: r, header: X}]."),
    ] = None,
    extension_dir: ExtensionDirOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Replay a recording in a sandbox, and report every difference: exit status 0 for none, 1 for some, else 2."""
    from fastgw.filters import TYPES
    from fastgw.gateway.tables import CompileError
    from fastgw.recording.file import UnreadableRecording, UnusableRecordingKey, is_exposed, read_key, read_recording
    from fastgw.replay.rules import InvalidRules, read_rules
    from fastgw.replay.run import as_text
    from fastgw.replay.run import replay as replay_recording

    try:
        rules = () if allow is None else read_rules(allow)
        key = read_key(key_file)
        content = read_recording(recording, key)
    except (UnusableRecordingKey, UnreadableRecording, InvalidRules) as error:
        fail(USAGE, f"fastgw: {error}")
    if is_exposed(key_file):
        typer.echo(f"fastgw: {key_file} can be read by other users: chmod 600 {key_file}", err=True)
    loaded: list[config.Loaded] = []
    for file in (new,) if against is None else (new, against):
        try:
            loaded.append(config.load(file, TYPES))
        except config.ConfigError as error:
            fail(USAGE, *with_excerpts(error.problems, error.excerpts))
    logging.getLogger("fastgw").addHandler(logging.NullHandler())
    try:
        report = replay_recording(
            content,
            loaded[0],
            loaded[1] if against is not None else None,
            rules,
            live=upstreams is ReplayedUpstreams.LIVE,
        )
    except CompileError as error:
        fail(USAGE, *map(str, error.problems(loaded[0], TYPES)))
    if answer is Format.JSON:
        print_json(report)
    else:
        typer.echo(as_text(report))
    if report.differences:
        raise typer.Exit(WRONG)


def shadow_report(
    recording: Annotated[
        str | None, typer.Option(metavar="FILE", help="Count in the requests of this recording instead.")
    ] = None,
    key_file: Annotated[
        str | None, typer.Option("--key-file", metavar="FILE", help="The key of the recording.")
    ] = None,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Sum up what filters in shadow mode would have done, since the start of a running gateway or in a recording."""
    from fastgw.admin import traffic_tables

    if recording is not None:
        from fastgw.recording.file import UnreadableRecording, UnusableRecordingKey, read_key, read_recording
        from fastgw.replay.shadows import shadow_decisions

        if key_file is None:
            raise typer.BadParameter("--recording needs --key-file")
        try:
            report = shadow_decisions(read_recording(recording, read_key(key_file)))
        except (UnusableRecordingKey, UnreadableRecording) as error:
            fail(USAGE, f"fastgw: {error}")
    else:
        choice = gateway_choice(file, name, admin, token_file)
        report = query_gateway(choice, certificate, traffic_tables.read_shadow_report)
    if answer is Format.JSON:
        print_json(report)
    else:
        traffic_tables.console().print(traffic_tables.shadow_text(report))
