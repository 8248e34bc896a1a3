"""Settings of targets that service discovery lists: one struct for each kind of registry."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import Settings

ServiceName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$")]
Option = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.:@/=,-]+$")]
Scheme = Literal["http", "https", "tcp", "udp"]


class TargetsConsul(Settings):
    """Targets from Consul: the instances of a service whose health checks pass, as `providers.consul` lists them. A
    change takes effect at once. While Consul is unreachable, the last list stays in use."""

    consul: ServiceName
    """Name of the service."""
    tags: Annotated[tuple[Option, ...], Meta(max_length=16)] = ()
    """Tags that an instance must have, all of them."""
    datacenter: Option | None = None
    """Datacenter of the service. null = that of the agent."""
    scheme: Scheme = "http"
    """Scheme of the targets."""

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Settings that the list depends on, in addition to the service's name."""
        place = () if self.datacenter is None else (("dc", self.datacenter),)
        return (*(("tag", each) for each in sorted(self.tags)), *place, ("scheme", self.scheme))


class TargetsNacos(Settings):
    """Targets from Nacos: the healthy and enabled instances of a service, as `providers.nacos` lists them, with their
    weights. While Nacos is unreachable, the last list stays in use."""

    nacos: ServiceName
    """Name of the service."""
    group: Option = "DEFAULT_GROUP"
    """Group of the service."""
    clusters: Annotated[tuple[Option, ...], Meta(max_length=16)] = ()
    """Clusters whose instances are used. `[]` = all."""
    scheme: Scheme = "http"
    """Scheme of the targets."""

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Settings that the list depends on, in addition to the service's name."""
        clusters = (("cluster", each) for each in sorted(self.clusters))
        return (("group", self.group), *clusters, ("scheme", self.scheme))


class TargetsEureka(Settings):
    """Targets from Eureka: the instances of an application whose status is `UP`, as `providers.eureka` lists them.
    While Eureka is unreachable, the last list stays in use."""

    eureka: ServiceName
    """Name of the application."""
    scheme: Literal["http", "https"] = "http"
    """Scheme of the targets: `http` is sent to the port of an instance, `https` to its secure port. Instances without
    that port are left out."""

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Settings that the list depends on, in addition to the application's name."""
        return (("scheme", self.scheme),)


class TargetsDocker(Settings):
    """Targets from Docker: the running containers with the label `fastgw.upstream` of this value, unless a health check
    of the container fails. Further labels: `fastgw.port`, `fastgw.weight`, `fastgw.priority`. A change takes effect at
    once. While Docker is unreachable, the last list stays in use."""

    docker: ServiceName
    """Value of the label `fastgw.upstream`."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of the containers, unless they have the label `fastgw.port`. null = the only TCP port that the container
    exposes."""
    scheme: Scheme = "http"
    """Scheme of the targets."""

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Settings that the list depends on, in addition to the label's value."""
        port = () if self.port is None else (("port", str(self.port)),)
        return (*port, ("scheme", self.scheme))


TARGETS_BY_KIND: Final[dict[str, type[Any]]] = {
    "consul": TargetsConsul,
    "nacos": TargetsNacos,
    "eureka": TargetsEureka,
    "docker": TargetsDocker,
}
"""Settings of discovered targets by the kind of registry, which is also their first key."""
DiscoveredTargets = TargetsConsul | TargetsNacos | TargetsEureka | TargetsDocker
