"""Settings of service registries: where the lists of discovered targets come from."""

from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_types import URL, Duration, Url, Username
from fastgw.config.settings.discovered_targets import Option
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls

ServiceUrl = Annotated[Url, URL]
DOCKER_SOCKET: Final = Url("unix", socket="/var/run/docker.sock")


class Consul(Settings):
    """Consul, whose services upstreams name: `targets: {consul: users}`. Each list is a blocking query, which is
    answered when it has changed."""

    address: ServiceUrl
    """URL of the agent or of a server, such as `http://127.0.0.1:8500`."""
    token: Secret | None = None
    """ACL token, which needs `service:read` and `node:read`. null = the anonymous one."""
    namespace: Option | None = None
    """Namespace of the services (Consul Enterprise). null = the one of the token."""
    wait: Annotated[Duration, Meta(le=600)] = 300.0
    """Longest time that a blocking query waits for a change."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings, for an address with https."""


class Nacos(Settings):
    """Nacos, whose services upstreams name: `targets: {nacos: users}`."""

    address: ServiceUrl
    """URL of a server with its context path, such as `http://nacos:8848/nacos`."""
    namespace: Option | None = None
    """Identifier of the namespace. null = the public one."""
    username: Username | None = None
    """Username, if authentication is enabled."""
    password: Secret | None = None
    """Password of `username`."""
    interval: Duration = 5.0
    """Interval between two requests for a list."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings, for an address with https."""

    def __post_init__(self) -> None:
        if (self.username is None) is not (self.password is None):
            raise ValueError("`username` and `password` belong together")


class Eureka(Settings):
    """Eureka, whose applications upstreams name: `targets: {eureka: USERS}`."""

    address: ServiceUrl
    """URL of a server with its context path, such as `http://eureka:8761/eureka`."""
    username: Username | None = None
    """Username, if the server requires authentication."""
    password: Secret | None = None
    """Password of `username`."""
    interval: Duration = 10.0
    """Interval between two requests for a list."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings, for an address with https."""

    def __post_init__(self) -> None:
        if (self.username is None) is not (self.password is None):
            raise ValueError("`username` and `password` belong together")


class Docker(Settings):
    """Docker, whose containers upstreams name by a label: `targets: {docker: users}`. A client of Docker's socket has
    all rights on its machine: give the gateway a proxy of the socket that allows reading only."""

    address: ServiceUrl = DOCKER_SOCKET
    """The socket, as `unix:/path`, or the URL of a proxy in front of it."""
    network: Option | None = None
    """Network whose addresses of the containers are used. null = the only one of a container that the gateway's own
    machine can reach, by name the first."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings, for an address with https."""
