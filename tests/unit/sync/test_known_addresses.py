"""Known addresses: results of lookups that the processes of a node share."""

import socket
from typing import Any

from fastgw.sync import known_addresses
from fastgw.sync.feeds import MOST_BYTES
from fastgw.sync.known_addresses import KnownAddresses

ONE: Any = (socket.AF_INET, "192.0.2.1", 0, 0)
TWO: Any = (socket.AF_INET6, "2001:db8::2", 0, 3)


def test_another_process_knows_what_one_has_found():
    known, other = KnownAddresses(), KnownAddresses()
    known.add("users", [ONE, TWO], 1.0)
    other.merge(known.written())
    assert list(other.of_host("users")[0]) == [ONE, TWO]
    assert list(other.of_host("orders")[0]) == []


def test_the_newer_lookup_wins_whichever_message_comes_last():
    older, newer = KnownAddresses(), KnownAddresses()
    older.add("users", [ONE], 1.0)
    newer.add("users", [TWO], 2.0)
    older.merge(newer.written())
    newer.merge(older.written())
    newer.merge(b"")
    assert older.of_host("users") == newer.of_host("users") == ((TWO,), 2.0)


def test_only_other_addresses_are_a_change():
    known = KnownAddresses()
    changes: list[str] = []
    known.on_change = lambda: changes.append("")
    known.add("users", [ONE, TWO], 1.0)
    known.add("users", [TWO, ONE], 2.0)
    assert len(changes) == 1
    known.add("users", [TWO], 3.0)
    assert len(changes) == 2


def test_names_are_bounded_and_all_of_them_fit_into_a_value_of_a_feed():
    known = KnownAddresses()
    long: Any = [
        (socket.AF_INET6, f"2001:0db8:0000:0000:0000:0000:0000:{n:04x}%interface-name0", 2**20, 2**32 - 1)
        for n in range(64)
    ]
    for number in range(known_addresses.MOST_NAMES + 1):
        known.add(f"{number:0>253}", long, 1.0)
    assert not known.of_host(f"{0:0>253}")[0]
    assert known.of_host(f"{1:0>253}")[0]
    assert len(known.written()) <= MOST_BYTES
