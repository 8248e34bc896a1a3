"""Settings of the Kubernetes provider: Gateway API and Ingress."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Final

from msgspec import Meta

from fastgw.config.base.settings_base import Settings, Some
from fastgw.config.base.value_types import Notation, ReadableFile
from fastgw.config.settings.credentials import Word

_MOST_ADDRESSES: Final = 65_536
_TEXT: Final[dict[str, Any]] = {"type": "string"}


def addresses_in(text: str) -> list[str]:
    """Return the addresses of a range such as `192.0.2.10-192.0.2.19`, or the single one. Raises `ValueError`."""
    first, _, last = (part.strip() for part in text.partition("-"))
    begin, end = ip_address(first), ip_address(last or first)
    count = int(end) - int(begin) + 1
    if begin.version != end.version or count < 1:
        raise ValueError(f'"{text}" is not a range of addresses')
    if count > _MOST_ADDRESSES:
        raise ValueError(f'"{text}" has {count} addresses, more than {_MOST_ADDRESSES}')
    kind: type[IPv4Address] | type[IPv6Address] = type(begin)
    return [str(kind(int(begin) + place)) for place in range(count)]


def _parse_range(text: str) -> str:
    try:
        addresses_in(text)
    except ValueError as error:
        raise ValueError(str(error) if "range" in str(error) or "more" in str(error) else f'"{text}"') from error
    return text


AddressRange = Annotated[str, Notation('an address or a range such as "192.0.2.10-192.0.2.19"', _parse_range, _TEXT)]


class GatewayAddresses(Settings):
    """Addresses of Gateways: exactly one of `service` and `pool`."""

    service: Word | None = None
    """Name of the Service of the gateway's own pods, in their namespace. Each Gateway gets a Service of its own, in its
    namespace, which maps the ports of its listeners to ports of these pods; its address is the Gateway's."""
    pool: Some[AddressRange] = ()
    """Addresses of this machine, for a gateway that runs outside of Pods (bare metal, tests). Each Gateway gets one of
    them, and its listeners are bound to it at their own ports, plus `port_offset`."""

    def __post_init__(self) -> None:
        if (self.service is None) == (not self.pool):
            raise ValueError("expected exactly one of `service` and `pool`")

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of the pool, in order."""
        return [address for each in self.pool for address in addresses_in(each)]


class KubernetesProvider(Settings):
    """Gateway API and Ingress: objects of a Kubernetes cluster become listeners, routes and upstreams, in addition to
    those of the files. Needs `fastgw[kubernetes]`. See docs/guides/kubernetes.md."""

    kubeconfig: ReadableFile | None = None
    """Kubeconfig file. null = the service account of the pod that the gateway runs in."""
    context: Word | None = None
    """Name of the context in the kubeconfig. null = the current one."""
    namespaces: tuple[Word, ...] = ()
    """Namespaces whose objects are read. `[]` = all. Roles of the namespaces suffice then, except for GatewayClasses,
    IngressClasses and Namespaces. With `addresses.service`, Services and EndpointSlices of the pods' own namespace are
    read, too."""
    gateway_class: Word = "fastgw"
    """Name of the GatewayClass whose Gateways are served. Its `controllerName` must be
    `fastgw.dev/gateway-controller`."""
    ingress_class: Word = "fastgw"
    """Name of the IngressClass whose Ingresses are served. Its `controller` must be `fastgw.dev/ingress-controller`."""
    shared_consumers: tuple[Word, ...] = ()
    """Namespaces whose FastgwConsumers the policies of all namespaces know, and the filters of the files; `["*"]` = all
    namespaces. A FastgwConsumer of any other namespace is known to the policies of its own namespace alone."""
    addresses: GatewayAddresses = GatewayAddresses(service="fastgw")
    """Addresses of Gateways."""
    port_offset: Annotated[int, Meta(ge=0, le=60_000)] = 0
    """Number that is added to the ports of listeners to get the ports that are bound, with `addresses.pool`: without
    privileges, 8000 binds 8080 for port 80."""

    def shares_consumers_of(self, namespace: str) -> bool:
        return not {namespace, "*"}.isdisjoint(self.shared_consumers)
