"""events: memory per compressed event stream."""

from collections.abc import Mapping

from bench.load.events import Events, Stream
from bench.origin import events
from bench.peers import Fastgw
from bench.peers.peer import Running, without_revision
from bench.prove import NotTheSameWork, expect
from bench.scenarios.scenario import Comparison, Figure, Kind, Picture, Scenario, Table, decimals

CODINGS: Mapping[str, str] = {"fastgw, uncompressed": "identity", "fastgw, gzip": "gzip", "fastgw, zstd": "zstd"}
"""Content coding that the clients of each contestant accept."""
UPSTREAM: Mapping[str, object] = {"timeouts": {"idle": "10m"}, "pool": {"max_connections": 20_000}}
PER_STREAM = Figure("bytes per stream", lambda s: s.figures["bytes_per_stream"], decimals(0))


def _uncompressed(name: str) -> str | None:
    plain = "fastgw, uncompressed"
    return None if name == plain else plain


def _added(name: str, ours: float, theirs: float) -> float:
    return ours - theirs


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless a stream has the coding of this contestant, and its first event comes at once."""
    try:
        stream = Stream(running.port, CODINGS[without_revision(name)])
        try:
            expect("the first event", stream.next_event(), events.event(0))
        finally:
            stream.close()
    except (OSError, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


LOAD = Events(CODINGS)
SCENARIO = Scenario(
    name="events",
    title="memory per event stream, in user space",
    about=(
        "10,000 event streams that stay open, with ten events of some 200 bytes on each, which are all compared: "
        "anonymous memory (/proc/PID/smaps_rollup) beyond that before, divided by their number. The same gateway, for "
        "clients that accept no coding, gzip or zstd. Each round begins with new processes, of two workers, as each "
        "keeps half of its open files for upstreams."
    ),
    peers=tuple(
        Fastgw(name, workers=2, config={"filters": {"compress": {}}, "upstream": UPSTREAM})
        for name in CODINGS
    ),
    prove=prove,
    origin=events.serving,
    loads=(LOAD,),
    tables=(
        Table(LOAD.name, (PER_STREAM, Comparison("bytes more than uncompressed", PER_STREAM, _uncompressed, _added,
                                                 decimals(0)))),
    ),
    fresh=True,
    rounds_of=3,
    pictures=(Picture(Kind.BARS, LOAD.name, "Memory per event stream", PER_STREAM),),
)  # fmt: skip
