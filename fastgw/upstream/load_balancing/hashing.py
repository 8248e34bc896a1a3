"""consistent_hash and ip_hash: equal requests go to the same target, also when other targets are added or removed.

The hash key of a request selects one of `SLOTS` slots, and each slot belongs to the target with the highest score there
(weighted rendezvous hashing: Thaler and Ravishankar; Schindelhauer and Schomaker for weights). The score of a target in
a slot depends on these two only: if the target is removed, its slots go to the next-ranked targets, spread over all of
them, and no other slot moves. Nothing depends on the process: all workers and all nodes agree.
"""

from collections.abc import Callable, Container, Iterable, Sequence, Set
from functools import lru_cache
from hashlib import blake2b
from math import ceil, log
from operator import itemgetter
from socket import inet_ntoa
from typing import Final, final
from zlib import crc32

from fastgw.config.base.value_types import Trait
from fastgw.exchange.request_keys import reader
from fastgw.shm.node_limits import subscriber
from fastgw.upstream.load_balancing import Balancer, BalancingRequest, Member
from fastgw.upstream.load_balancing.load_tracking import Loads
from fastgw.upstream.targets.target import Target

SLOTS: Final = 1 << 16
"""Number of slots: with ten targets, a target's share of them differs from its weight by some 1 %. Used slots are
cached: 5 MiB at most for an upstream in a worker."""
FEW: Final = 10
"""Number of attempts at a target that is always allowed: with few requests in flight, shares are not meaningful."""
MOST_ORDERS: Final = 1024
"""Number of slots for which the whole order of targets is cached."""
MOST_FORMER: Final = 4
MOST_CHANGED: Final = 32
"""Number of previous balancers whose caches are used, as long as fewer targets have changed since.
"""
_MASK: Final = (1 << 64) - 1

Key = Callable[[BalancingRequest], bytes]
"""Function that returns the hash key of a request; b"": it has none."""


def key_of(trait: Trait | None) -> Key:
    """Return the function for the configured `hash_on`; None: the client's address."""
    return address if trait is None or trait.kind == "ip" else reader(trait)


def address(asked: BalancingRequest) -> bytes:
    """Client key: its IPv4 address, or the /64 of its IPv6 address, because a client can use any address in it."""
    ip = asked.client_ip
    return _network(ip) if ":" in ip else ip.encode()


@lru_cache(4096)
def _network(ip: str) -> bytes:
    client = subscriber(ip)
    return inet_ntoa(client).encode() if len(client) == 4 else client or ip.encode()


@final
class ConsistentHash:
    """Balancer by a consistent hash. `otherwise`: balancer for requests without a hash key.

    `load_factor`: a target with more than this multiple of its share of the node's requests in flight gets no more for
    now: its requests go to the next targets in their slot (Mirrokni, Thorup and Zadimoghaddam, "Consistent
    hashing with bounded loads"). None: there is no limit.

    `before`: the previous balancer. Scoring all of 2,000 targets takes 1.4 ms, which must not be repeated for each slot
    whenever one of them is added or removed. The best of the unchanged targets is still the best of them: it is
    compared with the changed ones.
    """

    __slots__ = (
        *("_factor", "_former", "_key", "_loads", "_members", "_orders", "_otherwise", "_owners", "_seeds"),
        *("_shares", "_weights"),
    )

    def __init__(
        self,
        members: Sequence[Member],
        key: Key,
        otherwise: Balancer,
        loads: Loads,
        load_factor: float | None,
        before: "ConsistentHash | None" = None,
    ) -> None:
        self._members = members
        self._key = key
        self._otherwise = otherwise
        self._loads = loads
        self._factor = load_factor
        whole = sum(member.weight for member in members)
        self._shares = {member.target: member.weight / whole for member in members}
        self._weights = {member.target: member.weight for member in members}
        self._seeds = {member.target: (_seed(member.target), member) for member in members}
        self._owners: dict[int, Target] = {}  # filled on demand
        # Caches of the previous balancers, the most recent first, and the targets that have changed since.
        self._former: list[tuple[dict[int, Target], Set[Target]]] = []
        if before is not None:
            changed = {target for target, _ in self._weights.items() ^ before._weights.items()}
            former = [(before._owners, changed), *((owners, since | changed) for owners, since in before._former)]
            self._former = [each for each in former if each[0] and len(each[1]) < MOST_CHANGED][:MOST_FORMER]
        self._orders: dict[int, list[Target]] = {}

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        key = self._key(asked)
        if not key:
            return self._otherwise.pick(asked, tried)
        slot = crc32(key) & SLOTS - 1
        target = self._owners.get(slot)
        if target is None:
            target = self._owners[slot] = self._owner(slot)
        if tried and target in tried:
            return next((other for other in self._order(slot) if other not in tried), target)
        if self._factor is not None:
            loads = self._loads
            load = loads.of(target)
            if load >= FEW:
                total = loads.of_all() + 1
                if load >= self._bound(target, total):
                    return self._spilled(slot, target, total, tried)
        return target

    def _owner(self, slot: int) -> Target:
        among: Iterable[tuple[int, Member]] = self._seeds.values()
        for owners, changed in self._former:
            target = owners.get(slot)
            if target is not None and target not in changed:
                seeds = self._seeds
                among = [seeds[target], *(seeds[each] for each in changed if each in seeds)]
                break
        return max(_scores(among, slot), key=itemgetter(0))[1].target

    def _bound(self, target: Target, total: int) -> int:
        assert self._factor is not None
        return max(FEW, ceil(self._factor * total * self._shares[target]))

    def _spilled(self, slot: int, target: Target, total: int, tried: Container[Target]) -> Target:
        """Return the first target in the order of a slot that has room; together they have more room than requests in
        flight.
        """
        loads = self._loads
        for other in self._order(slot):
            if other not in tried and loads.of(other) < self._bound(other, total):
                return other
        return target

    def _order(self, slot: int) -> list[Target]:
        """Yield the targets of a slot in order."""
        order = self._orders.get(slot)
        if order is None:
            if len(self._orders) >= MOST_ORDERS:
                self._orders.clear()
            scores = sorted(_scores(self._seeds.values(), slot), key=itemgetter(0), reverse=True)
            order = self._orders[slot] = [member.target for _, member in scores]
        return order


def _scores(among: Iterable[tuple[int, Member]], slot: int) -> list[tuple[float, Member]]:
    return [(log(_uniform(seed, slot)) / member.weight, member) for seed, member in among]


def _seed(target: Target) -> int:
    """Return the seed of a target, from its address: the same on every node, independent of the other targets."""
    where = target.label.encode() + b" " + target.base_path
    return int.from_bytes(blake2b(where, digest_size=8).digest())


def _uniform(seed: int, slot: int) -> float:
    """Return a number above 0 and up to 1: the finalizer of splitmix64 (Steele, Lea and Flood), over the seed and the
    slot's step.
    """
    mixed = (seed + slot * 0x9E3779B97F4A7C15) & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return ((mixed ^ mixed >> 31) + 1) / (1 << 64)
