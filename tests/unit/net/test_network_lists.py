"""Lists of networks: what counts as one, and what is left of it in the packed form."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fastgw.net.network_lists import BITS, InvalidList, list_of, pack_list, unpack_list
from tests.support.table import for_each


def networks_in(content: bytes) -> set[str]:
    found = unpack_list(pack_list(content))
    classes = {4: (IPv4Address, IPv4Network), 6: (IPv6Address, IPv6Network)}
    return {
        str(network((address(prefix << BITS[version] - length), length)))
        for (version, length), prefixes in found.prefixes.items()
        for address, network in [classes[version]]
        for prefix in prefixes
    }


@for_each(
    ("content", "networks"),
    [
        (b"", set()),
        (b"; Spamhaus DROP\n1.10.16.0/20 ; SBL256894\r\n\n# a comment\n", {"1.10.16.0/20"}),
        (b"\xef\xbb\xbf192.0.2.1", {"192.0.2.1/32"}),
        (b"192.0.2.7/24\n192.0.2.9/24\n", {"192.0.2.0/24"}),  # host bits
        (b"2001:db8::1\n2001:db8::/32#\n::/0\n", {"2001:db8::1/128", "2001:db8::/32", "::/0"}),
        (b"::ffff:192.0.2.0/120\n0.0.0.0/0", {"192.0.2.0/24", "0.0.0.0/0"}),
        (
            b'{"prefixes": [{"ip_prefix": "3.5.140.0/22", "region": "x"}], "ipv6_prefixes": ["2600::/44"]}',
            {"3.5.140.0/22", "2600::/44"},
        ),
        (b'{"cidr":"1.10.16.0/20"}\n{"cidr":"1.19.0.0/16"}\n{"copyright":"a/b"}\n', {"1.10.16.0/20", "1.19.0.0/16"}),
    ],
)
def test_a_list_has_these_networks(content: bytes, networks: set[str]) -> None:
    assert networks_in(content) == networks


@for_each(
    ("content", "line"),
    [
        (b"192.0.2.1\n\nsecret=1\n", "line 3"),
        (b"192.0.2.0/33", "line 1"),
        (b"192.0.2.0/", "line 1"),
        (b"192.0.2.0/+8", "line 1"),
        (b"192.0.2", "line 1"),
        (b"192.0.02.1", "line 1"),
        (b"::1%lo", "line 1"),
        (b"<html>", "line 1"),
        (b"192.0.2.1 192.0.2.2", "line 1"),
        (b"\xff\xfe1\0", "line 1"),
        (b'{"cidr":"1.10.16.0/20"}\n{"secret', "line 2"),
        (b'["secret/1"]', "JSON without"),
    ],
)
def test_anything_else_is_no_list_and_its_content_is_not_told(content: bytes, line: str) -> None:
    with pytest.raises(InvalidList, match=f"^{line}") as raised:
        pack_list(content)
    assert "secret" not in str(raised.value)


NETWORKS = some.one_of(
    some.builds(
        lambda number, length: ip_network((number, length), False), some.integers(0, 2**32 - 1), some.integers(0, 32)
    ),
    some.builds(
        lambda number, length: IPv6Network((number, length), False), some.integers(0, 2**128 - 1), some.integers(0, 128)
    ),
)


@given(some.lists(NETWORKS))
def test_the_packed_form_has_the_same_networks(networks: list[IPv4Network | IPv6Network]) -> None:
    assert unpack_list(pack_list("\n".join(map(str, networks)).encode())) == list_of(networks)


def test_what_is_cut_off_is_refused() -> None:
    packed = pack_list(b"192.0.2.1\n192.0.2.2\n")
    for cut in (b"", packed[:-1], packed[: len(pack_list(b"")) + 1]):
        with pytest.raises(InvalidList):
            unpack_list(cut)
