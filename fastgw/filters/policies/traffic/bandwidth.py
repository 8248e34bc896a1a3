"""bandwidth: limit the bandwidth of bodies."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from fastgw.config.base.settings_base import Some
from fastgw.config.base.value_types import ByteRate, Trait, write_byte_rate
from fastgw.exchange.body_relay import Relay
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase, RequestHook, Services, Size, WarningContext
from fastgw.filters.limiting.keys import KEY, KeyOf, are_of_somebody, key_of, key_warnings, traits_of
from fastgw.filters.policies.traffic.byte_buckets import ByteBucket, ByteRateTerms, NodeByteLimit, OwnBucket, terms_of
from fastgw.filters.policies.traffic.paced_client import PacedClient
from fastgw.filters.policies.traffic.paced_source import PacedSource

_REQUEST, _RESPONSE = b"request", b"response"
_NOT_STARTED: Final[Any] = None


class Bandwidth(Filter, name="bandwidth", phase=Phase.LIMIT_CONSUMER, order=40):  # type: ignore[literal-required]  # order: ours
    """Limit the bandwidth of responses and request bodies, of each by itself or of all with the same `key` together.

    Bodies move evenly, in portions of a tenth of a second. While a response waits, the upstream is not read, and while
    a request waits, the client is not; timeouts for them do not run meanwhile, except for `timeouts.total` of the
    upstream. Files, cached responses and tunnels (to the client) are limited like other responses; problem documents
    of the gateway are not. Response bytes count as they are sent, compressed ones as compressed. If several of these
    filters apply to a request, such as one by route and one by consumer, each of them limits it.
    """

    rate: ByteRate | None = None
    """Maximum bandwidth of responses, such as `1MiB/s`. null = unlimited."""
    request_rate: ByteRate | None = None
    """Maximum bandwidth of request bodies. A piece that was received, up to some hundred KiB, passes at once; the next
    one is read later. null = unlimited."""
    burst: Annotated[Size, Meta(ge=1)] | None = None
    """Number of bytes that pass at once after a pause. null = a quarter of a second's worth."""
    key: Annotated[Trait, KEY] | Some[Annotated[Trait, KEY]] | None = None
    """Key whose bodies share the bandwidth: `ip`, `consumer` (the client's address if there is no consumer), `route`,
    `host`, `header:NAME`, `cookie:NAME`, `claim:NAME`, or a list. It is exact for all workers of the node. null = each
    body has the whole bandwidth."""
    ipv6_prefix: Annotated[int, Meta(ge=1, le=128)] = 64
    """Length of the IPv6 prefix that identifies a client."""

    def __post_init__(self) -> None:
        if self.rate is None and self.request_rate is None:
            raise ValueError("no bandwidth; expected `rate` or `request_rate`")

    @property
    def traits(self) -> Sequence[Trait]:
        return () if self.key is None else traits_of(self.key)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return key_warnings(context, are_of_somebody(self.traits), ())

    def build(self, env: Env) -> Hooks:
        of_route = env.route if env.level == "route" else None
        paced = _Directions(self, f"bandwidth\n{env.level}\n{of_route}\n{env.instance}")
        return Hooks(
            request=RequestHook(paced.request, would=lambda exchange: None),
            request_body=None if self.request_rate is None else paced.request_body,
            finish=paced.finish,
            start=paced.start,
            explain=paced.explain,
        )


class _Directions:
    """Bandwidth in both directions, for one use of the filter."""

    def __init__(self, settings: Bandwidth, name: str) -> None:
        self._settings, self._name = settings, name.encode()
        self._key_of: KeyOf | None = None
        if settings.traits:
            self._key_of = key_of(settings.traits, settings.ipv6_prefix, self._name)
        self._request = self._terms(settings.request_rate)
        self._response = self._terms(settings.rate)
        self._limits: dict[bytes, NodeByteLimit] = {}

    def _terms(self, rate: int | None) -> ByteRateTerms | None:
        return None if rate is None else terms_of(rate, self._settings.burst)

    def start(self, services: Services) -> None:
        if self._key_of is not None and not self._limits:
            for name, terms in ((_REQUEST, self._request), (_RESPONSE, self._response)):
                if terms is not None:
                    self._limits[name] = NodeByteLimit(services.cells, name, terms)

    def _bucket(self, exchange: Exchange, name: bytes, terms: ByteRateTerms) -> ByteBucket:
        limit = self._limits.get(name)
        if limit is None or self._key_of is None:
            return OwnBucket(terms)
        return limit.bucket(self._key_of(exchange))

    def request(self, exchange: Exchange) -> Outcome:
        body: Any = exchange.request_body
        if self._request is not None and type(body) is Relay:
            bucket = self._bucket(exchange, _REQUEST, self._request)
            if type(body.source) is PacedSource:
                body.source.add_bucket(bucket)
            else:
                body.source = PacedSource(body, bucket, self)
        if self._response is not None:
            client: Any = exchange.client
            bucket = self._bucket(exchange, _RESPONSE, self._response)
            if type(client) is PacedClient:
                client.add_bucket(bucket)
            else:
                client = PacedClient(exchange, bucket)
                exchange.client = exchange.response_sink = client
        return None

    def request_body(self, exchange: Exchange, payload: bytes) -> None:
        body = exchange.request_body
        source: Any = None if body is None else body.source
        if type(source) is PacedSource and source.owner is self:
            source.received(len(payload))

    def finish(self, exchange: Exchange) -> None:
        body = exchange.request_body
        if body is not None and type(body.source) is PacedSource:
            source, body.source = body.source, body.source.source
            source.forget()
        client: Any = exchange.client
        if type(client) is PacedClient:
            if exchange.response_sink is client:
                exchange.response_sink = client.inner
            exchange.client = client.inner
            client.forget()

    def explain(self, exchange: Exchange) -> str:
        settings = self._settings
        rates = (("responses", settings.rate), ("request bodies", settings.request_rate))
        text = " and ".join(f"{what} at most {write_byte_rate(rate)}" for what, rate in rates if rate is not None)
        by = " and ".join(map(str, settings.traits))
        return f"{text}, {f'together by {by}' if by else 'each'}"
