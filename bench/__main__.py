"""The benchmark's commands."""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from bench import hold as holding
from bench import report
from bench.measure import Load, NoAnswers, measure
from bench.peers import PEERS
from bench.ports import NotReady
from bench.prove import NotTheSameWork

app = typer.Typer(help=__doc__, add_completion=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a command: `plain` as it is quoted."""
    if context.invoked_subcommand is None:
        plain()


@app.command()
def plain(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 6,
    seconds: Annotated[int, typer.Option(min=1, help="Length of each measurement.")] = 3,
    connections: Annotated[int, typer.Option(min=1, help="Kept-alive client connections.")] = 64,
    only: Annotated[str, typer.Option(help="Contestants, separated by commas: fastgw,nginx. Empty: all.")] = "",
    save: Annotated[bool, typer.Option(help="Write the table and all samples to bench/results/.")] = True,
) -> None:
    """CPU per proxied request beside nginx, HAProxy, Envoy and Caddy. Exit code 1 if the result is void."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _fail("two cores are needed: one for the proxy, one for the origin and the load")
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    if unknown := wanted - {peer.name.partition(" (")[0] for peer in PEERS}:
        _fail(f"no such contestant: {', '.join(sorted(unknown))}")
    chosen = [peer for peer in PEERS if not wanted or peer.name.partition(" (")[0] in wanted]
    for absent in [peer for peer in chosen if peer.version() is None]:
        print(f"{absent.name} is not installed here and is left out", file=sys.stderr)
        chosen.remove(absent)
    load = Load(rounds, seconds, connections, proxy_core=cores[0], load_core=cores[1])
    try:
        contestants = measure(chosen, load)
    except (NotReady, NotTheSameWork, NoAnswers) as error:
        _fail(str(error))
    about = report.describe_machine()
    print(report.as_markdown(contestants, load, about))
    if save:
        print(f"kept in {report.keep(contestants, load, about)}", file=sys.stderr)
    if any(contestant.void for contestant in contestants):
        raise typer.Exit(1)


@app.command()
def hold(
    url: Annotated[str, typer.Argument(help="http://host:port of a gateway on this machine.")],
    connections: Annotated[int, typer.Option(min=0, help="Connections that never send a byte.")] = 10_000,
    slow_heads: Annotated[int, typer.Option(min=0, help="Connections whose request head never ends.")] = 1_000,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds between two bytes of a slow head.")] = 3.0,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to hold. 0 = until Ctrl-C.")] = 0.0,
) -> None:
    """Hold idle connections and slow heads open, and go on opening those that the gateway closes."""
    try:
        holding.hold(url, connections, slow_heads, pause, seconds or None)
    except holding.CannotHold as error:
        _fail(str(error))


def _fail(why: str) -> NoReturn:
    print(f"bench: {why}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    app()
