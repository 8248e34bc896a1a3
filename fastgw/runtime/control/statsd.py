"""StatsD: counts and durations of requests since the push before, as lines of text.

Counts are exact: they are differences of the workers' counters, which only grow. Durations are known by bucket and in
sum: a duration is sent as the mean of its bucket, such that all of a series together have their exact sum, as far as
the bounds of the buckets allow. Of many durations in a bucket a part is sent, with its sample rate.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, final

import msgspec

from fastgw.analytics.readings import RowNames
from fastgw.observe.metrics.families import METHODS, OTHER
from fastgw.observe.metrics.meter_rows import unpacked
from fastgw.observe.metrics.request_meter import MeterPlan
from fastgw.observe.metrics.series_layout import UNCELLED, CellKind, cell_of, kind_of
from fastgw.observe.metrics.totals import measured_rows, sums

MOST_TIMERS: Final = 64
"""Maximum number of lines for the durations of a series in a push."""
MOST_BYTES: Final = {"udp": 1432, "unix": 8192}
"""Maximum size of a datagram: what an Ethernet frame takes, and what StatsD servers read from a socket."""
_TAGS: Final = ("route", "method", "status")
FEED: Final = "StatsD counts"
"""Key of the feed by which a control process leaves its counts to the next one. No other source has it: keys of
filters' feeds begin with a URL.
"""


class Tags(NamedTuple):
    """Tags of a series."""

    route: str
    method: str
    status: str


class Durations(NamedTuple):
    """Durations of a series: upper bounds of the buckets, requests of each, and their sum in microseconds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total_us: int

    def __add__(self, other: "Durations") -> "Durations":  # type: ignore[override]  # not those of tuples
        if other.bounds != self.bounds:
            return other  # the configuration has other buckets now
        counts = tuple(one + another for one, another in zip(self.counts, other.counts, strict=True))
        return Durations(self.bounds, counts, self.total_us + other.total_us)


class CountersReading(NamedTuple):
    """Counters of all workers at a time. They only grow."""

    requests: dict[int, int]
    uncelled: int
    measured: dict[tuple[int, int], Sequence[int]]


NOTHING_COUNTED: Final = CountersReading({}, 0, {})


class CountsHandover(msgspec.Struct, frozen=True):
    """Counts of a control process that has ended, for the next one: else those between its last push and the start of
    the next one would be in no push, as would those that could not be sent.
    """

    push: int
    """Number of the push that has ended (`ShmLayout.statsd_push`)."""
    last: CountersReading
    requests: dict[Tags, int]
    """Requests that were read and not sent."""
    durations: dict[Tags, Durations]

    def written(self) -> bytes:
        """Return the value of the feed."""
        return msgspec.msgpack.encode(self)


def handover_of(value: bytes, push: int) -> CountsHandover | None:
    """Return what the push with this number has left. None: nothing; the value is of an earlier one, for example,
    because the process of this one was killed.

    `push`: 0 if there was none in this memory. The value is of the memory before an upgrade then, whose counters had
    another form; those of this memory begin at zero.
    """
    try:
        handover = msgspec.msgpack.decode(value, type=CountsHandover)
    except msgspec.DecodeError:  # none, or that of another version
        return None
    if not push:
        return msgspec.structs.replace(handover, last=NOTHING_COUNTED)
    return handover if handover.push == push else None


@final
class StatsdCounts:
    """Counts that wait for a push. `last`: counters that earlier pushes tell."""

    def __init__(self, last: CountersReading) -> None:
        self.last = last
        self.requests: dict[Tags, int] = {}
        self.durations: dict[Tags, Durations] = {}

    def read(self, columns: Sequence[memoryview], names: RowNames, plan: MeterPlan | None) -> None:
        """Add what was counted since the last call, with these names."""
        now, last = counters_of(columns), self.last
        self.last = now
        for key, count in now.requests.items():
            if more := count - last.requests.get(key, 0):
                cell = cell_of(key)
                route = names.routes.get(cell.route, OTHER)
                self._add(Tags(route, METHODS[cell.part].decode(), str(cell.number)), more)
        if more := now.uncelled - last.uncelled:
            self._add(Tags(OTHER, OTHER, OTHER), more)
        shapes = {} if plan is None else plan.shapes
        for (key, shape), counts in now.measured.items():
            bounds = shapes.get(shape)
            before = last.measured.get((key, shape))
            if bounds is None or counts == before:
                continue
            new = counts if before is None else [one - other for one, other in zip(counts, before, strict=True)]
            slots = unpacked(key)
            known = slots.method or slots.status  # otherwise all are folded
            tags = Tags(
                names.routes.get(slots.route, OTHER),
                METHODS[slots.method].decode() if known else OTHER,
                str(slots.status) if known else OTHER,
            )
            added = Durations(bounds, tuple(new[: len(bounds) + 1]), new[-1])
            self.durations[tags] = self.durations[tags] + added if tags in self.durations else added

    def take_waiting(self) -> tuple[dict[Tags, int], dict[Tags, Durations]]:
        """Return the requests and durations that wait for a push. From now on others wait."""
        taken = self.requests, self.durations
        self.requests, self.durations = {}, {}
        return taken

    def put_back(self, requests: Mapping[Tags, int], durations: Mapping[Tags, Durations]) -> None:
        """Add what was taken and not sent to what was counted since."""
        for tags, count in requests.items():
            self._add(tags, count)
        for tags, each in durations.items():
            self.durations[tags] = each + self.durations[tags] if tags in self.durations else each

    def _add(self, tags: Tags, count: int) -> None:
        self.requests[tags] = self.requests.get(tags, 0) + count


def counters_of(columns: Sequence[memoryview]) -> CountersReading:
    """Read the columns of the workers."""
    words, cells = sums(columns)
    requests = {key: count for key, count in cells.items() if count and kind_of(key) is CellKind.REQUEST}
    return CountersReading(requests, words[UNCELLED], dict(measured_rows(columns)[0]))


class Push(NamedTuple):
    """Lines of one series; what they tell is forgotten once they are sent."""

    tags: Tags
    is_timer: bool
    lines: Sequence[bytes]


def pushes(counts: StatsdCounts, form: str) -> Iterator[Push]:
    """Yield the lines of all that waits. `form`: the format of the settings."""
    for tags, count in counts.requests.items():
        yield Push(tags, False, [_line("fastgw.requests", f"{count}|c", tags, form)])
    for tags, durations in counts.durations.items():
        lines = [_line("fastgw.request.duration", value, tags, form) for value in timer_values(durations)]
        yield Push(tags, True, lines)


def timer_values(durations: Durations) -> Iterator[str]:
    """Yield values of a timer, in milliseconds, with their sample rates."""
    total = sum(durations.counts)
    each = max(1, -(-total // MOST_TIMERS))
    for mean_s, count in zip(_means(durations), durations.counts, strict=True):
        if count:
            lines = -(-count // each)
            rate = "" if lines == count else f"|@{lines / count:.6g}"
            for _ in range(lines):
                yield f"{mean_s * 1000:.6g}|ms{rate}"


def _means(durations: Durations) -> list[float]:
    """Return the mean of each bucket in seconds: the middle, moved so that the sum of all durations comes out."""
    bounds, counts = durations.bounds, durations.counts
    lower = (0.0, *bounds)
    upper = (*bounds, 2 * bounds[-1])
    middles = [(low + high) / 2 for low, high in zip(lower, upper, strict=True)]
    left = durations.total_us / 1e6 - sum(count * middle for count, middle in zip(counts, middles, strict=True))
    beyond = counts[-1]
    if beyond and left > 0.0:  # durations above all bounds are as long as they are
        middles[-1] += left / beyond
        return middles
    # How far each bucket's mean may move in the direction of the exact sum.
    reach = [(high if left > 0.0 else low) - mid for low, high, mid in zip(lower, upper, middles, strict=True)]
    most = sum(count * each for count, each in zip(counts, reach, strict=True))
    share = min(1.0, left / most) if most else 0.0
    return [middle + share * each for middle, each in zip(middles, reach, strict=True)]


def _line(name: str, value: str, tags: Tags, form: str) -> bytes:
    if form == "dogstatsd":
        told = ",".join(f"{tag}:{_clean(text, ',|#')}" for tag, text in zip(_TAGS, tags, strict=True))
        return f"{name}:{value}|#{told}".encode()
    if form == "graphite":
        told = "".join(f";{tag}={_clean(text, ';:|=~@')}" for tag, text in zip(_TAGS, tags, strict=True))
        return f"{name}{told}:{value}".encode()
    return f"{name}:{value}".encode()


def _clean(text: str, special: str) -> str:
    """Replace characters that have a meaning in a line."""
    return "".join("_" if char in special or not char.isprintable() or char == " " else char for char in text)


def without_tags(counts: StatsdCounts) -> None:
    """Sum up all series, for the format that has no tags."""
    every = Tags("", "", "")
    if counts.requests:
        total = sum(counts.requests.values())
        counts.requests = {every: total}
    by_bounds: dict[tuple[float, ...], Durations] = {}
    for each in counts.durations.values():
        by_bounds[each.bounds] = by_bounds[each.bounds] + each if each.bounds in by_bounds else each
    counts.durations = {Tags(str(number), "", ""): each for number, each in enumerate(by_bounds.values())}


def datagrams(waiting: Sequence[Push], most: int) -> Iterator[tuple[bytes, Sequence[Push]]]:
    """Yield datagrams of whole lines, with the series whose last line each one has. `most`: maximum size."""
    lines: list[bytes] = []
    ended: list[Push] = []
    size = 0
    for push in waiting:
        for line in push.lines:
            if lines and size + len(line) + 1 > most:
                yield b"\n".join(lines), ended
                lines, ended, size = [], [], 0
            lines.append(line)
            size += len(line) + 1
        ended.append(push)
    if lines:
        yield b"\n".join(lines), ended
