"""Settings of `ip`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta

from fastgw.config.base.value_types import Duration, EndpointUrl, Network, NetworksFile, is_far_in_the_clear
from fastgw.config.settings.gateway import Settings, UpstreamTls
from fastgw.config.sources.virtual_files import networks_name
from fastgw.filters.api import Env, Exchange, Fault, FeedSource, Filter, Hooks, Outcome, Phase, WarningContext
from fastgw.filters.outbound.tls_settings import check_tls, client_tls
from fastgw.filters.policies.ip.address_check import AddressRules
from fastgw.filters.policies.ip.countries import Countries, CountryDatabase, DatabaseWatch
from fastgw.filters.policies.ip.network_feed import NetworkFeed
from fastgw.net.network_lists import NetworkList, list_of, unpack_list

_NO_TLS = UpstreamTls()


class NetworksSource(Settings):
    """List of networks: a file or a URL. One network or address a line; `#` and `;` begin a comment, and host bits are
    ignored. Of JSON, every string that is a network with a prefix length counts, as in the lists of AWS and Google.
    """

    file: NetworksFile | None = None
    """File with the list. A change is used without a reload; an invalid file keeps its last valid contents."""
    url: EndpointUrl | None = None
    """URL of the list, fetched once per node. Redirects are not followed. The last valid list stays in use while the
    URL is unreachable, or its response is no list or an empty one. Until the first response the list is empty."""
    interval: Annotated[Duration, Meta(ge=1)] = 3600.0
    """Time between two fetches of the URL. Unchanged lists are not transferred again, if the server sends an ETag."""
    tls: UpstreamTls = _NO_TLS
    """TLS settings for the URL."""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.url is None):
            raise ValueError("expected either `file` or `url`")
        if self.url is not None:
            check_tls(self.url, self.tls)
        elif self.tls != _NO_TLS:
            raise ValueError("`tls` is set, but there is no `url`")

    @property
    def feed(self) -> NetworkFeed | None:
        """Source of the list, if it comes from a URL."""
        return None if self.url is None else NetworkFeed.of(self.url, self.tls, self.interval)


class Ip(Filter, name="ip", phase=Phase.ADMIT, order=-10):  # type: ignore[literal-required]  # order: ours
    """Allow or deny requests by the client's address, which may come from a trusted proxy.

    The most specific network that contains the address decides; if it is in both lists, the address is denied. An
    address in none of the networks is allowed, unless there is an allow list. An IPv4-mapped IPv6 address
    (`::ffff:192.0.2.1`) is treated as the IPv4 address. A denied request is answered 403.
    """

    allow: tuple[Network, ...] = ()
    """Networks or addresses that are allowed. If there are any, addresses in no network are denied."""
    deny: tuple[Network, ...] = ()
    """Networks or addresses that are denied."""
    allow_lists: tuple[NetworksSource, ...] = ()
    """Files and URLs with networks that are allowed, in addition to `allow`. If there are any, addresses in no network
    are denied, also while a list is empty or has not been fetched yet."""
    deny_lists: tuple[NetworksSource, ...] = ()
    """Files and URLs with networks that are denied, in addition to `deny`. A list that has not been fetched yet denies
    nothing."""
    countries: Countries | None = None
    """Countries that are allowed or denied: they decide on addresses in none of the networks. Needs
    `fastgw[geoip]`."""
    unix: bool | None = None
    """Whether clients of a unix socket, which have no address, are allowed. null = they are treated like an address in
    no network."""

    def __post_init__(self) -> None:
        if not (self.allow or self.deny or self._lists or self.countries) and self.unix is None:
            raise ValueError("no addresses, so every request is allowed; expected `allow` or `deny`")

    @property
    def _lists(self) -> Sequence[NetworksSource]:
        return *self.allow_lists, *self.deny_lists

    def feeds(self) -> Iterable[FeedSource]:
        lists: list[FeedSource] = [each.feed for each in self._lists if each.feed is not None]
        return lists if self.countries is None else [*lists, DatabaseWatch.of(self.countries.database)]

    def warnings(self, context: WarningContext) -> Iterable[str]:
        for each in self._lists:
            if each.url is not None and is_far_in_the_clear(each.url.origin):
                yield "the `url` of a list is http: an attacker in between can replace the networks"

    def build(self, env: Env) -> Hooks:
        for each in self._lists:
            if each.url is not None:
                client_tls(env.read, each.tls)  # raises for invalid files
        allowed, denied = self._read(env, self.allow_lists), self._read(env, self.deny_lists)
        database = self._database(env)
        rules = env.shared(
            ("ip", env.policy),
            lambda: AddressRules(
                [list_of(self.allow), *allowed],
                [list_of(self.deny), *denied],
                closed=bool(self.allow or self.allow_lists),
                unix=self.unix,
                allow_feeds=[each.feed.key for each in self.allow_lists if each.feed is not None],
                deny_feeds=[each.feed.key for each in self.deny_lists if each.feed is not None],
                countries=database,
                verdict_on=_no_verdict if self.countries is None else self.countries.verdict,
            ),
        )
        check_address, live = rules.check, database is not None or any(each.url is not None for each in self._lists)

        def request(exchange: Exchange) -> Outcome:
            passes, why = check_address(exchange.client_ip)
            return None if passes else exchange.refuse(Fault.CLIENT_ADDRESS_DENIED, why=why)

        def explain(exchange: Exchange) -> str:
            return check_address(exchange.client_ip)[1]

        header = None if self.countries is None else self.countries.header
        return Hooks(
            request=request if database is None or header is None else _with_country(request, header, database.country),
            explain=explain,
            start=rules.start if live else None,
            stop=rules.stop if live else None,
        )

    def _database(self, env: Env) -> CountryDatabase | None:
        """Return the database, which all filters that name it share, also over reloads. Raises `ValueError`."""
        if self.countries is None:
            return None
        path = self.countries.database
        try:
            return env.shared(("countries", path), partial(CountryDatabase, path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _read(self, env: Env, sources: Iterable[NetworksSource]) -> Sequence[NetworkList]:
        """Return the lists of files. Filters that name the same file share its networks."""
        lists = []
        for each in sources:
            if each.file is not None:
                name = networks_name(each.file)
                packed = env.read(name)
                lists.append(env.shared(("networks", env.reads[name]), partial(unpack_list, packed)))
        return lists


def _no_verdict(country: str | None) -> None:
    """Leave an address to the networks."""


def _with_country(
    request: Callable[[Exchange], Outcome], header: str, country: Callable[[str], str | None]
) -> Callable[[Exchange], Outcome]:
    """Return a request step that sends the country to the upstream, too."""
    dropped, name = frozenset((header.lower().encode(),)), header.encode()

    def request_with_country(exchange: Exchange) -> Outcome:
        exchange.request_dropped |= dropped
        code = country(exchange.client_ip)
        if code is not None:
            exchange.request_added += b"%b: %b\r\n" % (name, code.encode("ascii", "replace"))
        return request(exchange)

    return request_with_country
