"""Network lists: thousands of networks, from text with one a line or from JSON, looked up at the cost of a few.

Text is parsed once per node, outside of workers; they get the packed form, which is loaded without parsing.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final, NamedTuple, TypeAlias

MAGIC: Final = b"fastgw networks 1\n"
_BLOCK: Final = struct.Struct("<BBI")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # `::ffff:0:0/96`: IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2)
_MAPPED_BITS: Final = 96
BITS: Final = {4: 32, 6: 128}

Kind: TypeAlias = tuple[int, int]
"""IP version and prefix length."""


class InvalidList(ValueError):
    """Not a list of networks. The text names the line, not its content, because the file may be one with secrets."""


class NetworkList(NamedTuple):
    """Networks by version and prefix length: of each its prefix, shifted to the right."""

    prefixes: dict[Kind, frozenset[int]]

    @property
    def size(self) -> int:
        return sum(map(len, self.prefixes.values()))


NO_NETWORKS: Final = NetworkList({})


def list_of(networks: Iterable[IPv4Network | IPv6Network]) -> NetworkList:
    """Return a list of these networks. Those of IPv4-mapped IPv6 addresses become IPv4 networks."""
    found: dict[Kind, set[int]] = {}
    for each in networks:
        _add(found, each.version, each.network_address.packed, each.prefixlen)
    return NetworkList({kind: frozenset(prefixes) for kind, prefixes in found.items()})


def pack_list(content: bytes) -> bytes:
    """Parse a list and return its packed form. Raises `InvalidList`.

    One network or address a line; `#` and `;` begin a comment, and set host bits are cleared. Of JSON, also one value
    a line, every string that is a network with a prefix length counts.
    """
    # PERF: 2.2 us for a network (CPython 3.11); with `ipaddress` it would be 8.
    found: dict[Kind, set[int]] = {}
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        for string in _strings_in(_read_json(content)):
            if "/" in string:
                try:
                    _add(found, *_network_in(string.encode()))
                except ValueError:
                    continue  # another string
        if not found:
            raise InvalidList("JSON without a network such as 192.0.2.0/24")
    else:
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            text = line.partition(b"#")[0].partition(b";")[0].strip()
            if text:
                try:
                    _add(found, *_network_in(text))
                except ValueError as error:
                    raise InvalidList(f"line {number} is not a network or an address") from error
    return MAGIC + b"".join(_blocks(found))


def unpack_list(packed: bytes) -> NetworkList:
    """Return a list from its packed form. Raises `InvalidList` for anything else."""
    # PERF: 7 ms for 100,000 IPv4 networks (CPython 3.11).
    if not packed.startswith(MAGIC):
        raise InvalidList("not a packed list")
    prefixes: dict[Kind, frozenset[int]] = {}
    at = len(MAGIC)
    try:
        while at < len(packed):
            version, length, count = _BLOCK.unpack_from(packed, at)
            at += _BLOCK.size
            form = f"<{count}I" if length <= 32 else f"<{count * (1 + (length > 64))}Q"
            numbers = struct.unpack_from(form, packed, at)
            at += struct.calcsize(form)
            if length > 64:
                held = frozenset(high << 64 | low for high, low in zip(numbers[::2], numbers[1::2], strict=True))
            else:
                held = frozenset(numbers)
            prefixes[version, length] = held
    except struct.error as error:
        raise InvalidList("not a packed list") from error
    return NetworkList(prefixes)


def _blocks(found: dict[Kind, set[int]]) -> Iterator[bytes]:
    for (version, length), prefixes in sorted(found.items()):
        numbers = sorted(prefixes)
        yield _BLOCK.pack(version, length, len(numbers))
        if length <= 32:
            yield struct.pack(f"<{len(numbers)}I", *numbers)
        elif length <= 64:
            yield struct.pack(f"<{len(numbers)}Q", *numbers)
        else:
            halves = (half for number in numbers for half in (number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF))
            yield struct.pack(f"<{2 * len(numbers)}Q", *halves)


def _network_in(text: bytes) -> tuple[int, bytes, int]:
    """Return version, address and prefix length. Raises `ValueError`."""
    address, slash, length = text.partition(b"/")
    version = 6 if b":" in address else 4
    try:
        packed = inet_pton(AF_INET6 if version == 6 else AF_INET, address.decode("ascii"))
    except OSError as error:
        raise ValueError("not an address") from error
    if not slash:
        return version, packed, BITS[version]
    if not length.isdigit() or (bits := int(length)) > BITS[version]:
        raise ValueError("not a prefix length")
    return version, packed, bits


def _add(found: dict[Kind, set[int]], version: int, address: bytes, length: int) -> None:
    if version == 6 and length >= _MAPPED_BITS and address.startswith(_MAPPED):
        version, address, length = 4, address[12:], length - _MAPPED_BITS
    number = int.from_bytes(address, "big") >> BITS[version] - length
    held = found.get((version, length))
    if held is None:
        found[version, length] = {number}
    else:
        held.add(number)


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    read = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                read.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InvalidList(f"line {number}: not valid JSON") from error
    return read


def _strings_in(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
