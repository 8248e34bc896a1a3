"""Preference of media types by `Accept` (RFC 9110 section 12.5.1)."""

import re
from collections.abc import Iterable
from typing import Final

_MEMBER: Final = re.compile(
    rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++/[!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+(?:;(.*))?", re.DOTALL
).fullmatch
_WEIGHT: Final = re.compile(rb"[ \t]*+[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*+").fullmatch


def parse_accept(values: Iterable[bytes]) -> dict[bytes, int]:
    """Return the weight in thousandths of each media range, by its lower-case name.

    Parameters other than the weight are ignored, and members that do not follow the grammar are left out. If a range is
    repeated, its highest weight counts.
    """
    weights: dict[bytes, int] = {}
    for value in values:
        for member in value.split(b","):
            found = _MEMBER(member)
            if found is None:
                continue
            weight = 1000
            for parameter in (found[2] or b"").split(b";"):
                given = _WEIGHT(parameter)
                if given is not None:
                    weight = int(float(given[1]) * 1000 + 0.5)
            name = found[1].lower()
            weights[name] = max(weights.get(name, 0), weight)
    return weights


def weight_of(weights: dict[bytes, int], media_type: bytes) -> int:
    """Return the weight in thousandths of a media type: of the most specific range that includes it; 0: none does."""
    whole = media_type.partition(b"/")[0] + b"/*"
    return next((weights[each] for each in (media_type, whole, b"*/*") if each in weights), 0)
