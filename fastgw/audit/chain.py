"""Entries of an audit log, and their chain: each is a line of JSON that contains the hash of the line before it.

`hash` is the SHA-256 of the line as written, without its last member, `hash` itself; so it covers `previous`, the hash
of the entry before. To change, remove or insert an entry, all later lines must be replaced; a hash that was noted
elsewhere reveals that too.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct

START: Final = "0" * 64
"""`previous` of the first entry of all."""
BEGIN: Final = b'{"number":'
"""Begin of each line."""
LINE_MAX: Final = 64 * 1024
"""Maximum length of a line in bytes."""
TEXT_MAX: Final = 8 * 1024
"""Maximum length of each text in an entry in characters; longer ones are cut."""
_HASH: Final = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_HASH_LENGTH: Final = len(',"hash":""}') + 64
_encoder: Final = msgspec.json.Encoder()


class AuditEntry(Struct, frozen=True):
    """An action, before it has a place in a chain."""

    date: float
    """When it happened, epoch seconds."""
    actor: str
    """Client or process that acted: `token from 127.0.0.1:41234`, `certificate CN=ops from …`, `uid 0`, `signal
    SIGHUP`, `file`.
    """
    action: str
    """Method and path of the admin API, or `start`, `reload`, `drain`, `stop`, `upgrade`."""
    result: str
    """Outcome, for people; for the admin API it begins with the status."""
    detail: Mapping[str, str] = {}
    """Further facts by name, such as the changes of a configuration, secrets masked."""


class Link(Struct, frozen=True):
    """Place of an entry in its chain."""

    number: int = 0
    """1 for the first entry of all."""
    hash: str = START


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    time: str
    actor: str
    action: str
    result: str
    detail: dict[str, str]
    previous: str
    hash: str


_decoder: Final = msgspec.json.Decoder(_Line)


class BrokenChain(Exception):
    """A line that is no entry, or does not follow from the line before; the text says why. `line`: from 1."""

    def __init__(self, why: str, line: int = 0) -> None:
        self.line = line
        super().__init__(why)


def chained_line(entry: AuditEntry, last: Link) -> tuple[bytes, Link]:
    """Return the line of an entry that follows `last`, with its line feed, and its place."""
    number = last.number + 1
    cut = TEXT_MAX
    while True:  # it ends: a line without texts fits
        unsigned = _encoder.encode(
            {
                "number": number,
                "time": f"{datetime.fromtimestamp(entry.date, UTC):%FT%T.%f}"[:-3] + "Z",
                "actor": _cut(entry.actor, cut),
                "action": _cut(entry.action, cut),
                "result": _cut(entry.result, cut),
                "detail": {_cut(name, cut): _cut(value, cut) for name, value in entry.detail.items()},
                "previous": last.hash,
            }
        )
        if len(unsigned) + _HASH_LENGTH < LINE_MAX:
            digest = hashlib.sha256(unsigned).hexdigest()
            return b'%b,"hash":"%b"}\n' % (unsigned[:-1], digest.encode()), Link(number, digest)
        cut //= 2


def _cut(text: str, most: int) -> str:
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more)"


def read_link(line: bytes) -> Link:
    """Return the place of an entry, by its line without the line feed. Its own hash is checked. Raises
    `BrokenChain`.
    """
    return _read(line)[1]


def verify(lines: Iterable[bytes], before: Link | None = None) -> Iterator[Link]:
    """Verify lines, each with its line feed, as parts of one chain; yield the place of each.

    `before`: place of the entry before the first line; None: any, as in a file that follows a rotated one. Raises
    `BrokenChain`.
    """
    last = before
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                raise BrokenChain("the entry is incomplete: the file ends in the middle of it")
            previous, link = _read(line[:-1])
            if last is not None and not hmac.compare_digest(previous, last.hash):
                raise BrokenChain("it does not follow the line before: entries were removed, inserted or changed")
            if last is not None and link.number != last.number + 1:
                raise BrokenChain(f"its number is {link.number}, expected {last.number + 1}")
            if link.number == 1 and previous != START:
                raise BrokenChain("entry 1 follows no other, but names one")
        except BrokenChain as flaw:
            raise BrokenChain(str(flaw), number) from None
        last = link
        yield link


def _read(line: bytes) -> tuple[str, Link]:
    """Return the hash of the entry before, and the place of this one."""
    signed = _HASH.fullmatch(line[-_HASH_LENGTH:])
    if signed is None or len(line) > LINE_MAX:
        raise BrokenChain("it is no entry of an audit log")
    expected = hashlib.sha256(line[:-_HASH_LENGTH] + b"}").hexdigest()
    if not hmac.compare_digest(signed[1].decode(), expected):
        raise BrokenChain("its hash is wrong: the entry was changed")
    try:
        entry = _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise BrokenChain(f"it is no entry of an audit log: {error}") from error
    return entry.previous, Link(entry.number, expected)
