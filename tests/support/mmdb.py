"""Writes databases in the format of MaxMind (https://maxmind.github.io/MaxMind-DB/), as small as a test needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

MARKER = b"\xab\xcd\xefMaxMind.com"
MAP, ARRAY, TEXT, UINT16, UINT32, UINT64 = 7, 11, 2, 5, 6, 9
Node = list[Any]


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])


def _number(kind: int, value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return _control(kind, len(raw)) + raw


def encoded(value: Any) -> bytes:
    match value:
        case str():
            return _control(TEXT, len(value.encode())) + value.encode()
        case Mapping():
            return _control(MAP, len(value)) + b"".join(encoded(key) + encoded(each) for key, each in value.items())
        case list():
            return _control(ARRAY, len(value)) + b"".join(map(encoded, value))
        case int():
            return _number(UINT32, value)
    return bytes(value)


def database(records: Mapping[str, Any], kind: str = "GeoLite2-Country") -> bytes:
    """Return a database for IPv4 and IPv6 with these records by network."""
    root: Node = [None, None]
    nodes, data, places = [root], b"", {}
    for text, record in records.items():
        network = ip_network(text)
        number, length = int(network.network_address), network.prefixlen + (96 if network.version == 4 else 0)
        places[id(record)] = len(data)
        data += encoded(record)
        node = root
        for depth in range(length - 1):
            bit = number >> 127 - depth & 1
            if node[bit] is None:
                node[bit] = [None, None]
                nodes.append(node[bit])
            node = node[bit]
        node[number >> 128 - length & 1] = places[id(record)]
    count, index = len(nodes), {id(node): at for at, node in enumerate(nodes)}

    def pointer(child: Any) -> bytes:
        if child is None:
            return count.to_bytes(3, "big")
        return (index[id(child)] if isinstance(child, list) else count + 16 + child).to_bytes(3, "big")

    tree = b"".join(pointer(child) for node in nodes for child in node)
    metadata = {
        "node_count": count,
        "record_size": _number(UINT16, 24),
        "ip_version": _number(UINT16, 6),
        "database_type": kind,
        "languages": ["en"],
        "binary_format_major_version": _number(UINT16, 2),
        "binary_format_minor_version": _number(UINT16, 0),
        "build_epoch": _number(UINT64, 1_700_000_000),
        "description": {"en": "test"},
    }
    return tree + bytes(16) + data + MARKER + encoded(metadata)


def country(code: str) -> dict[str, Any]:
    return {"country": {"iso_code": code}}


def write(file: Path, records: Mapping[str, Any], kind: str = "GeoLite2-Country") -> None:
    """Write a database in place of another, as `geoipupdate` does."""
    written = file.with_suffix(".new")
    written.write_bytes(database(records, kind))
    os.replace(written, file)
