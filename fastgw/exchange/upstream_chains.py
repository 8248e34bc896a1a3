"""Filter chains of upstreams: they add data, such as credentials, to the gateway's own requests to an upstream."""

from collections.abc import Iterator
from typing import Final

from fastgw.exchange.chain import Chain, FilterInstance

NO_FILTERS: Final = Chain(())


class UpstreamChains:
    """Chains of the filters that apply to one upstream only (`Filter.for_its_upstream`), per listener.

    `shared`: chain of all upstreams that are not in `own`, by name.
    """

    def __init__(self, shared: Chain, own: dict[str, Chain]) -> None:
        self.shared = shared
        self.own = own

    def chain_of(self, upstream: str) -> Chain:
        return self.own.get(upstream, self.shared)

    @property
    def links(self) -> Iterator[FilterInstance]:
        yield from self.shared.links
        for chain in self.own.values():
            yield from chain.links


NO_CHAINS: Final = UpstreamChains(NO_FILTERS, {})
