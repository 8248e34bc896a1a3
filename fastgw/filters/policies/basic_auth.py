"""basic_auth: authenticate consumers by username and password (RFC 7617)."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable
from time import monotonic
from typing import Annotated, Final, NamedTuple, final
from unicodedata import normalize

from fastgw.config.base.settings_base import Renamed
from fastgw.config.base.value_types import Delay, ReadableFile, Realm
from fastgw.consumers.credentials import LONGEST_KEY, why_not_a_password
from fastgw.consumers.index import Index
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import (
    Consumer,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    WarningContext,
)
from fastgw.filters.api.credential_locations import AUTHORIZATION, CredentialLocations
from fastgw.filters.api.warning_context import ClientIdentity
from fastgw.filters.authentication.htpasswd import LONGEST_FOR_BCRYPT, Busy, Checking, Htpasswd
from fastgw.filters.policies.key_auth import explain_consumer
from fastgw.sync.credential_cache import TokenCache

REMEMBERED: Final = 16_384
"""Maximum number of correct passwords cached per worker."""
_LONGEST: Final = 4 * (256 + LONGEST_KEY) // 3 + 16
_AUTHORIZATION: Final = frozenset((b"authorization",))


class BasicAuth(Filter, name="basic_auth", phase=Phase.AUTHENTICATE):
    """Authenticate the consumer with HTTP Basic authentication (RFC 7617): a username and password in its `basic_auth`,
    or a user of an htpasswd file.

    Password hashes are slow to verify. They are verified in the background, few at a time; requests beyond that are
    answered 429 or 503, and correct passwords are cached. Neither the response nor its timing reveals whether a
    username exists.
    """

    htpasswd: ReadableFile | None = None
    """File of users, as written by `htpasswd -B`: bcrypt or argon2. bcrypt reads only 72 bytes of a password: longer
    passwords are refused, never truncated, and need an argon2 hash. A user is the consumer with this name, or a
    consumer without groups if `consumers` has none. With a file, passwords in `consumers` are not used. null =
    passwords in `consumers` only."""
    hide_credentials: bool = False
    """Whether to strip the password before forwarding."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate`, which browsers show."""
    cache_ttl: Annotated[Delay, Renamed("remember")] = 300.0
    """Time for which a correct password is cached. 0 = it is verified for each request. A changed password takes effect
    at once."""

    def credential_places(self) -> CredentialLocations:
        return AUTHORIZATION

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return () if self.htpasswd is not None else context.no_consumer_with("basic_auth")

    def client_identity(self) -> ClientIdentity:
        return ClientIdentity(known=True, foreign_names=self.htpasswd is not None)

    def build(self, env: Env) -> Hooks:
        use = _BasicAuthUse(self, env)
        if use.htpasswd is None:
            return Hooks(request=use.request, explain=explain_consumer)
        return Hooks(
            request=RequestHook(use.request, asks="the thread that checks passwords"),
            explain=explain_consumer,
            start=lambda _: use.checking.acquire(),
            stop=use.checking.release,
        )


class Right(NamedTuple):
    """Cache entry of a correct password."""

    username: str
    consumer: Consumer
    found_in: Index
    """Index that the consumer was found in."""
    until: float
    """Monotonic seconds until which the entry is valid."""


class UnreadablePasswords(Exception):
    """Invalid credentials. The text does not contain them."""


@final
class _BasicAuthUse:
    """Basic authentication: one use of the filter."""

    def __init__(self, settings: BasicAuth, env: Env) -> None:
        self._roster = env.roster
        self.htpasswd: Htpasswd | None = None
        if settings.htpasswd is not None:
            content = env.read(settings.htpasswd)
            try:
                self.htpasswd = env.shared(("htpasswd", env.reads[settings.htpasswd]), lambda: Htpasswd(content))
            except ValueError as error:
                raise ValueError(f"{settings.htpasswd}: {error}") from error
        self.checking = env.shared(("htpasswd checking",), Checking)
        self._cache: TokenCache[Right] = env.shared(("basic_auth", env.policy), lambda: TokenCache(REMEMBERED))
        self._single_flight: SingleFlight[bool | Fault] = env.shared(("basic_auth flights", env.policy), SingleFlight)
        self._remember_s = settings.cache_ttl
        self._hides = settings.hide_credentials
        challenge = f'Basic realm="{settings.realm}", charset="UTF-8"'
        self._challenge = ((b"WWW-Authenticate", challenge.encode()),)

    def request(self, exchange: Exchange) -> Outcome:
        found = exchange.head.values(b"authorization")
        if len(found) == 1:
            right = self._cache.get(found[0])
            if right is not None:
                consumer = right.consumer if right.found_in is self._roster.index else self._revalidate(found[0], right)
                if consumer is not None:
                    self._pass(exchange, consumer)
                    return None
        shown = [value for value in found if value[:5].lower() == b"basic" and value[5:6] in (b" ", b"")]
        if not shown:
            return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=self._challenge, why="the password is missing")
        if len(found) > 1:
            return self._refuse(exchange, "there is more than one Authorization header")
        try:
            username, password = read_credentials(found[0])
        except UnreadablePasswords as unreadable:
            return self._refuse(exchange, str(unreadable))
        if self.htpasswd is None:
            consumer = self._roster.by_password(username, password)
            return self._conclude(exchange, found[0], username, consumer)
        return self._check(exchange, found[0], username, password, self.htpasswd)

    async def _check(
        self, exchange: Exchange, credential: bytes, username: str, password: str, htpasswd: Htpasswd
    ) -> Reply | None:
        async def ask() -> bool | Fault:
            try:
                return await self.checking.check(exchange.client_ip, lambda: htpasswd.is_right(username, password))
            except Busy as busy:
                return Fault.TOO_MANY_PASSWORDS if busy.own else Fault.AUTH_UNAVAILABLE

        right = await self._single_flight.join(credential, ask)
        if isinstance(right, Fault):
            return exchange.refuse(right, why="too many password checks are pending")
        if not right and htpasswd.is_too_long(username, password):
            return self._refuse(
                exchange, f"the password has more than {LONGEST_FOR_BCRYPT} bytes, which bcrypt cannot verify"
            )
        return self._conclude(exchange, credential, username, self._user(username) if right else None)

    def _conclude(
        self, exchange: Exchange, credential: bytes, username: str, consumer: Consumer | None
    ) -> Reply | None:
        if consumer is None:
            return self._refuse(exchange, "unknown user or wrong password")
        if self._remember_s:
            self._remember(credential, username, consumer, monotonic() + self._remember_s)
        self._pass(exchange, consumer)
        return None

    def _pass(self, exchange: Exchange, consumer: Consumer) -> None:
        exchange.consumer = consumer
        if self._hides:
            exchange.request_dropped |= _AUTHORIZATION

    def _refuse(self, exchange: Exchange, why: str) -> Reply:
        return exchange.refuse(Fault.CREDENTIALS_INVALID, fields=self._challenge, why=why)

    def _revalidate(self, credential: bytes, right: Right) -> Consumer | None:
        """Look the consumer up again after consumers have changed; None: the password has to be verified again."""
        if self.htpasswd is None:
            self._cache.forget(credential)
            return None
        consumer = self._user(right.username)
        self._remember(credential, right.username, consumer, right.until)
        return consumer

    def _user(self, username: str) -> Consumer:
        return self._roster.called(username)

    def _remember(self, credential: bytes, username: str, consumer: Consumer, until: float) -> None:
        self._cache.store(credential, Right(username, consumer, self._roster.index, until), until)


def read_credentials(value: bytes) -> tuple[str, str]:
    """Return username and password of `Authorization: Basic …`, in Unicode NFC. Raises `UnreadablePasswords`."""
    if len(value) > _LONGEST:
        raise UnreadablePasswords("the password is too long")
    encoded = value[5:].strip(b" ")
    try:
        raw = b64decode(encoded, validate=True)
        text = raw.decode()
    except (NotBase64, ValueError) as error:
        raise UnreadablePasswords("the credentials are not base64 of UTF-8") from error
    if b64encode(raw) != encoded:
        raise UnreadablePasswords("the credentials are not valid base64")
    username, colon, password = text.partition(":")
    if not colon:
        raise UnreadablePasswords("the credentials have no colon")
    if why_not_a_password(username) or why_not_a_password(password):
        raise UnreadablePasswords("the credentials have control characters or are too long")
    return normalize("NFC", username), normalize("NFC", password)
