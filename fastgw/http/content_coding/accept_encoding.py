"""Negotiation of a content coding by `Accept-Encoding` (RFC 9110 section 12.5.3)."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

IDENTITY: Final = b"identity"
CACHED: Final = 256
"""Maximum bytes of a header value whose result is cached; browsers send less than 64."""

_MEMBER: Final = re.compile(
    rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+"
    rb"(?:;[ \t]*+[qQ]=(0(?:\.([0-9]{0,3}+))?|1(?:\.0{0,3}+)?)[ \t]*+)?"
).fullmatch
_ALIASES: Final = {b"x-gzip": b"gzip", b"x-compress": b"compress"}


class Negotiated(NamedTuple):
    """Result of a negotiation."""

    coding: bytes | None
    """The coding to use; None: none, the content is sent as it is."""
    identity_refused: bool
    """Whether the client does not accept the content as it is."""


def parse_accept_encoding(values: Iterable[bytes]) -> Mapping[bytes, int]:
    """Return the weight of each coding in thousandths, by its lower-case name.

    A member that does not follow the grammar counts as absent, so its coding is not used. If a coding is repeated, its
    lowest weight counts.
    """
    weights: dict[bytes, int] = {}
    for value in values:
        for member in value.split(b","):
            found = _MEMBER(member)
            if found is None:
                continue
            name, weight, digits = found.groups()
            name = name.lower()
            name = _ALIASES.get(name, name)
            if weight is None or weight[:1] == b"1":
                thousandths = 1000
            else:
                thousandths = int((digits or b"").ljust(3, b"0"))
            weights[name] = min(weights.get(name, 1000), thousandths)
    return weights


@lru_cache(1024)
def _normalized(value: bytes) -> bytes:
    forms = set()
    for member in value.split(b","):
        weights = parse_accept_encoding((member,))
        for name, thousandths in weights.items():
            forms.add(b"%b;q=%d" % (name, thousandths))
        if not weights and member.strip(b" \t"):
            forms.add(member.strip(b" \t").lower())
    return b",".join(sorted(forms))


def normalize_accept_encoding(value: bytes) -> bytes:
    """Return the value in the form in which equivalent values are equal: regardless of order, case and spelling."""
    return _normalized(value) if len(value) <= CACHED else _normalized.__wrapped__(value)


def choose_coding(weights: Mapping[bytes, int], offered: Iterable[bytes]) -> Negotiated:
    """Return the coding with the highest weight; of equal ones the first that is offered.

    The content is sent as it is if the client gives `identity` a higher weight than any coding, or accepts none of
    them. `identity` without a weight is acceptable, but only if nothing else is.
    """
    rest = weights.get(b"*", 0)
    named = weights.get(IDENTITY)
    identity_weight = rest if named is None else named
    best, chosen = 0, None
    for coding in offered:
        weight = weights.get(coding, rest)
        if weight > best:
            best, chosen = weight, coding
    if identity_weight > best:
        chosen = None
    return Negotiated(chosen, named == 0 or (named is None and b"*" in weights and rest == 0))


@lru_cache(1024)
def _negotiated(value: bytes, offered: tuple[bytes, ...]) -> Negotiated:
    return choose_coding(parse_accept_encoding((value,)), offered)


def negotiate(values: list[bytes], offered: tuple[bytes, ...]) -> Negotiated:
    """Return the coding for a request. `values`: its `Accept-Encoding` lines; none: the content is sent as it is.

    `offered`: available codings in the order of preference.
    """
    if len(values) == 1 and len(values[0]) <= CACHED:
        return _negotiated(values[0], offered)
    return choose_coding(parse_accept_encoding(values), offered)
