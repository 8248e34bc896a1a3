"""Decisions of filters in shadow mode, summed up over a recording."""

from collections import Counter

from fastgw.admin.traffic_tables import NO_ROUTE, ShadowReport, ShadowRow
from fastgw.recording.file import Recording

_VERBS = {"refuse": "answer", "answer": "answer", "change": "change", "raise": "raise", "raises": "raise"}


def shadow_decisions(recording: Recording) -> ShadowReport:
    """Count the decisions other than `pass`, which leave no trace in a record, by filter and route."""
    counts: Counter[tuple[str, str, str]] = Counter()
    routes: dict[str, set[str]] = {}
    for each in recording.requests:
        route = each.route or NO_ROUTE
        for name, decision in decisions_of(each.shadowed):
            counts[name, route, decision] += 1
            routes.setdefault(name, set()).add(route)
    rows = [ShadowRow(*key, count) for key, count in sorted(counts.items())]
    return ShadowReport(rows, {name: sorted(routes[name]) for name in sorted(routes)})


def decisions_of(shadowed: str) -> list[tuple[str, str]]:
    """Return filters and decisions in the text of the log: `limit: refuse 429 rate_limited; other: change X`."""
    found = []
    for part in shadowed.split("; "):
        name, colon, text = part.partition(": ")
        verb = text.split(" ", 1)[0]
        if colon:
            found.append((name, _VERBS.get(verb, verb)))
    return found
