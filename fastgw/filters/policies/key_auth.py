"""key_auth: authenticate consumers by an API key."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Final, Literal, final

from msgspec import Meta

from fastgw.config.base.settings_base import Renamed
from fastgw.config.base.value_types import FieldName, Realm
from fastgw.config.settings.gateway import Some
from fastgw.consumers.credentials import LONGEST_KEY
from fastgw.consumers.index import Roster
from fastgw.exchange.hooks import RequestStep
from fastgw.filters.api import Consumer, Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, WarningContext
from fastgw.filters.api.credential_locations import CredentialLocations
from fastgw.filters.api.warning_context import CONSUMERS, ClientIdentity
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import twins_of

REMEMBERED: Final = 8192
"""Number of keys that are cached; up to twice as many for some time."""
Place = Literal["header", "query", "cookie"]
_UNUSABLE: Final = WRITTEN_HERE | {b"cookie"}


class KeyAuth(Filter, name="key_auth", phase=Phase.AUTHENTICATE):
    """Authenticate the consumer with an API key: one of the keys in its `key_auth`.

    A request without a key, or with an unknown one, is answered 401. The same holds for a request with two keys, even
    equal ones, because the upstream could use the other one. Every name is looked up everywhere in `key_in`.
    """

    key_names: Annotated[Some[FieldName], Meta(max_length=16)] = ("X-Api-Key",)
    """Names of the header, query parameter or cookie with the key. Names are case-sensitive in the query and in
    cookies, not in headers.
    """
    key_in: Annotated[Some[Place], Renamed("places")] = ("header",)
    """Locations of the key. URLs are visible to many: they are kept in browser histories and logs."""
    hide_credentials: bool = False
    """Whether to strip the key before forwarding."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate: ApiKey`. This scheme is fastgw's own, as none is registered for keys."""

    def __post_init__(self) -> None:
        for name in self.key_names if "header" in self.key_in else ():
            if name.lower().encode() in _UNUSABLE:
                raise ValueError(f"`{name}` is a connection header; expected another header for the key")

    def secret_names(self) -> Iterable[str]:
        return self.key_names

    def credential_places(self) -> CredentialLocations:
        names = tuple(dict.fromkeys(name.encode() for name in self.key_names))
        return CredentialLocations(
            tuple(dict.fromkeys(name.lower() for name in names)) if "header" in self.key_in else (),
            frozenset(names) if "query" in self.key_in else frozenset(),
            frozenset(names) if "cookie" in self.key_in else frozenset(),
        )

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return context.no_consumer_with("key_auth")

    def client_identity(self) -> ClientIdentity:
        return CONSUMERS

    def build(self, env: Env) -> Hooks:
        use = _KeyAuthUse(self, env)
        return Hooks(request=use.in_one_field() if use.only_name else use.request, explain=explain_consumer)


def explain_consumer(exchange: Exchange) -> str:
    """Describe the consumer, once a filter has authenticated it."""
    return f"consumer {exchange.consumer.name}" if exchange.consumer is not None else "nobody"


@final
class Keys:
    """Cache from keys to consumers. All filters of a worker share one."""

    __slots__ = ("_older", "_roster", "found", "index")

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.index = roster.index
        self.found: dict[bytes, Consumer] = {}
        self._older: dict[bytes, Consumer] = {}

    def __repr__(self) -> str:  # it contains keys
        return f"<Keys: {len(self.found)} and {len(self._older)} remembered>"

    def consumer(self, key: bytes) -> Consumer | None:
        """Return the consumer with this key."""
        if self.index is not self._roster.index:
            self.index = self._roster.index
            self.found, self._older = {}, {}
        # The dict compares keys only after their secret hashes, so timing reveals nothing.
        found = self.found.get(key)
        if found is not None or not key or len(key) > LONGEST_KEY:
            return found
        consumer = self._older.get(key) or self._roster.by_key(sha256(key).digest())
        if consumer is not None:
            if len(self.found) >= REMEMBERED:
                self.found, self._older = {}, self.found
            self.found[key] = consumer
        return consumer


@final
class _KeyAuthUse:
    """API key authentication: one use of the filter."""

    def __init__(self, settings: KeyAuth, env: Env) -> None:
        self._roster = env.roster
        self._keys = env.shared(("key_auth", env.namespace), lambda: Keys(env.roster))
        self._places = settings.credential_places()
        self._hides = settings.hide_credentials
        # If the key is forwarded, the upstream might read another one from a header that differs only in punctuation; a
        # hidden header is removed with all variants. PERF: this costs 0.9 us for 10 headers (CPython 3.11,
        # micro/filters).
        self._twins = None if self._hides else twins_of(self._places.fields)
        self._challenge = ((b"WWW-Authenticate", f'ApiKey realm="{settings.realm}"'.encode()),)
        self.only_name = self._places.only_field

    def in_one_field(self) -> RequestStep:
        """Request step for one name in one location."""
        name, keys, roster, authenticate = self.only_name, self._keys, self._roster, self._authenticate
        hide = self._places.hide if self._hides else None
        search = None if self._twins is None else self._twins.search

        # PERF: 0.3 us for a cached key, 3 us more for another among 100,000 (CPython 3.11, micro/filters).
        def request(exchange: Exchange) -> Outcome:
            head = exchange.head
            found = head.values(name)
            if len(found) == 1 and keys.index is roster.index:
                consumer = keys.found.get(found[0])
                if consumer is not None and (search is None or not head.any_line(search)):
                    exchange.consumer = consumer
                    if hide is not None:
                        hide(exchange)
                    return None
            return authenticate(exchange, found)

        return request

    def request(self, exchange: Exchange) -> Outcome:
        return self._authenticate(exchange, self._places.values(exchange))

    def _authenticate(self, exchange: Exchange, found: list[bytes]) -> Outcome:
        """Authenticate by the values in all locations of the key (`found`)."""
        if not found:
            return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=self._challenge, why="the API key is missing")
        if len(found) > 1 or (self._twins is not None and exchange.head.any_line(self._twins.search)):
            wrong = "There is more than one API key."
            return exchange.refuse(Fault.CREDENTIALS_INVALID, wrong, self._challenge, "there is more than one API key")
        consumer = self._keys.consumer(found[0])
        if consumer is None:
            return exchange.refuse(Fault.CREDENTIALS_INVALID, fields=self._challenge, why="the API key is unknown")
        exchange.consumer = consumer
        if self._hides:
            self._places.hide(exchange)
        return None
