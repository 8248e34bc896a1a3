"""authorize: authorization of authenticated clients."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from fastgw.config.base.problems import format_value
from fastgw.config.base.value_types import CertificateName, CertificateSubject, Fingerprint, Identity, Realm
from fastgw.config.settings.gateway import NONE, Settings
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, Reply, WarningContext
from fastgw.filters.api.warning_context import hint_at, identity_by
from fastgw.filters.authentication.bearer import challenge
from fastgw.filters.policies.auth import Auth
from fastgw.filters.policies.jwt import ClaimName, Scope
from fastgw.jose import claim_path, find_claim, scopes_of


class Names(Settings):
    """Conditions on a set of names. Without `all`, `any` and `none` every set matches."""

    all: tuple[Identity, ...] = ()
    """Names that the consumer must have, all of them."""
    any: tuple[Identity, ...] = ()
    """Names of which the consumer must have at least one."""
    none: tuple[Identity, ...] = ()
    """Names of which the consumer must have none."""


class Scopes(Settings):
    """Scopes of a token: its `scope`, or `scp`."""

    all: tuple[Scope, ...] = ()
    """Scopes that the token must have, all of them."""
    any: tuple[Scope, ...] = ()
    """Scopes of which the token must have at least one."""
    none: tuple[Scope, ...] = ()
    """Scopes of which the token must have none."""


class Values(Settings):
    """Conditions on the values of a claim: the claim itself, or the members of its list. Strings, numbers and booleans
    are never equal to each other."""

    all: tuple[str | bool | int | float, ...] = ()
    """Values that the claim must have, all of them."""
    any: tuple[str | bool | int | float, ...] = ()
    """Values of which the claim must have at least one."""
    none: tuple[str | bool | int | float, ...] = ()
    """Values of which the claim must have none. A missing claim meets this."""


class Subjects(Settings):
    """Conditions on the subject of a certificate, of which there is exactly one."""

    all: tuple[CertificateSubject, ...] = ()
    """Subjects that the certificate must have, all of them."""
    any: tuple[CertificateSubject, ...] = ()
    """Subjects, one of which the certificate must have."""
    none: tuple[CertificateSubject, ...] = ()
    """Subjects of which the certificate must have none."""


class AlternativeNames(Settings):
    """Conditions on the subject alternative names of a certificate."""

    all: tuple[CertificateName, ...] = ()
    """Names that the certificate must have, all of them."""
    any: tuple[CertificateName, ...] = ()
    """Names of which the certificate must have at least one."""
    none: tuple[CertificateName, ...] = ()
    """Names of which the certificate must have none."""


class Fingerprints(Settings):
    """Conditions on the fingerprint of a certificate."""

    any: tuple[Fingerprint, ...] = ()
    """Fingerprints, one of which the certificate must have."""
    none: tuple[Fingerprint, ...] = ()
    """Fingerprints of which the certificate must have none."""


class Certificate(Settings):
    """Conditions on the client certificate that the listener has verified. A client without a certificate does not meet
    them."""

    subject: Subjects = Subjects()
    """Subject of the certificate, in the form of RFC 4514: `CN=alice,O=Example`."""
    san: AlternativeNames = AlternativeNames()
    """Subject alternative names of the certificate: `DNS:host`, `URI:spiffe://…`, `email:a@b` or `IP:10.0.0.1`."""
    fingerprint_sha256: Fingerprints = Fingerprints()
    """SHA-256 of the certificate."""


class Condition(Settings):
    """Conditions, all of which must hold."""

    consumers: Names = Names()
    """Name of the consumer."""
    groups: Names = Names()
    """Groups of the consumer."""
    scopes: Scopes = Scopes()
    """Scopes of the token. If they do not suffice, the response names the missing ones (RFC 6750)."""
    claims: Mapping[ClaimName, Values] = NONE
    """Claims of the token, by name; dots separate nested names."""
    certificate: Certificate | None = None
    """Client certificate."""


class Authorize(Condition, Filter, name="authorize", phase=Phase.AUTHORIZE):
    """Authorization: allow authenticated clients that meet the conditions; without conditions, every authenticated
    client.

    All conditions of this filter must hold, and if `any_of` is set, those of at least one of its members. A client
    without a consumer, claims and a certificate is not authenticated, and is answered 401; any other client that does
    not meet the conditions, 403.

    A token, a password file or an external service may name a consumer that is not in `consumers`. If a route accepts
    several of them, two may use the same name for different clients; so may two token issuers, or a token and
    `anonymous`. If this matters, define each client in `consumers`, or require a group or a claim such as `iss` as
    well: consumers that are not in `consumers` have no groups.
    """

    any_of: tuple[Condition, ...] = ()
    """Sets of conditions, at least one of which must hold completely."""
    none_of: tuple[Condition, ...] = ()
    """Sets of conditions, none of which may hold completely."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate` of a 401."""

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if not context.positions:
            return
        if shared := self._shared_name(context):
            name = format_value(shared)
            yield f"{name} is not one of `consumers`, and several methods of `auth` can produce this name"
        if not context.identified and not context.client_certificates:
            yield "no filter before it authenticates the client: every request is refused"
        elif context.knows_all_groups:
            lacking = [group for group in self.groups.all if group not in context.groups]
            if not lacking and self.groups.any and context.groups.isdisjoint(self.groups.any):
                lacking = [*self.groups.any]
            if lacking:
                yield f"no consumer is in the group {' or '.join(map(format_value, lacking))}: every request is refused"
        yield from self._unknown_consumers(context)
        if context.identified and context.knows_all_groups:
            yield from self._empty_groups(context)

    def _conditions(self) -> Iterator[tuple[str, Condition]]:
        """Yield all conditions, each with its place; "": that of the filter itself."""
        yield "", self
        for key, conditions in (("any_of", self.any_of), ("none_of", self.none_of)):
            for index, condition in enumerate(conditions):
                yield f"{key}[{index}].", condition

    def _unknown_consumers(self, context: WarningContext) -> Iterator[str]:
        known = context.known_names
        if known is None:
            return
        for where, condition in self._conditions():
            for key in ("all", "any", "none"):
                for name in getattr(condition.consumers, key):
                    if name not in known:
                        hint = hint_at(name, known)
                        yield f"`{where}consumers.{key}`: {format_value(name)} is an unknown consumer{hint}"

    def _empty_groups(self, context: WarningContext) -> Iterator[str]:
        """Yield a warning for each group without members that a condition needs, or that is to be refused: a list of
        refusals admits whom it does not name.
        """
        for where, condition in self._conditions():
            groups = condition.groups
            refused = where.startswith("none_of")
            needed = [("all", group) for group in groups.all if where]
            if where and (refused or context.groups.isdisjoint(groups.any)):
                needed += [("any", group) for group in groups.any]
            for key, group in (*needed, *(("none", group) for group in groups.none)):
                if group not in context.groups:
                    named, hint = format_value(group), hint_at(group, context.groups)
                    yield f"`{where}groups.{key}`: no consumer is in the group {named}{hint}"

    def _shared_name(self, context: WarningContext) -> str:
        """Return a permitted name that methods of `auth` may give to two different clients; "": none."""
        if context.consumer_files or self.groups.all or self.groups.any or self.claims:
            return ""
        known = {consumer.name for consumer in context.consumers}
        names = [name for name in (*self.consumers.any, *self.consumers.all) if name not in known]
        for use in context.preceding if names else ():
            if isinstance(use.settings, Auth):
                free = sum(identity_by(way.settings).foreign_names for way in use.settings.any_of)
                for name in names:
                    if free + (use.settings.anonymous == name) > 1:
                        return name
        return ""

    def build(self, env: Env) -> Hooks:
        own = _tests(self)
        any_of = [_tests(condition) for condition in self.any_of]
        none_of = [_tests(condition) for condition in self.none_of]
        alternatives = bool(any_of or none_of)
        realm = self.realm

        def beyond(exchange: Exchange) -> Lack | None:
            """Return the condition of `any_of` that a client lacks which meets the filter's own conditions."""
            if any_of:
                lacks = [_first(tests, exchange) for tests in any_of]
                if None not in lacks:
                    # Several scopes may help; the first is reported.
                    return next((each for each in lacks if each is not None and each.scope), lacks[0])
            if any(_first(tests, exchange) is None for tests in none_of):
                return Lack("a condition of `none_of` holds")
            return None

        def request(exchange: Exchange) -> Outcome:
            if exchange.consumer is None and not exchange.claims and exchange.peer.certificate is None:
                return exchange.refuse(
                    Fault.CREDENTIALS_MISSING, fields=(challenge(realm),), why="the client is not authenticated"
                )
            for test in own:
                lack = test(exchange)
                if lack is not None:
                    return _refusal(exchange, lack, realm)
            if alternatives:
                lack = beyond(exchange)
                return None if lack is None else _refusal(exchange, lack, realm)
            return None

        return Hooks(request=request, explain=_describe_client)


VALUES_LISTED: Final = 10
"""Maximum number of groups and the like in one line."""


class Lack(NamedTuple):
    """Missing condition of a client. `scope`: the scopes that a token needs, if that is the reason."""

    why: str
    scope: str = ""


Test: TypeAlias = Callable[[Exchange], Lack | None]


def _refusal(exchange: Exchange, lack: Lack, realm: str) -> Reply:
    if not lack.scope:
        return exchange.refuse(Fault.FORBIDDEN, why=lack.why)
    field = challenge(realm, "insufficient_scope", scope=lack.scope)
    return exchange.refuse(Fault.INSUFFICIENT_SCOPE, fields=(field,), why=lack.why)


def _describe_client(exchange: Exchange) -> str:
    if exchange.consumer is not None:
        return f"consumer {exchange.consumer.name} may"
    return "the token may" if exchange.claims else "the certificate may"


def _first(tests: Iterable[Test], exchange: Exchange) -> Lack | None:
    for test in tests:
        lack = test(exchange)
        if lack is not None:
            return lack
    return None


def _tests(condition: Condition) -> tuple[Test, ...]:
    """Return the tests of a condition; none for parts that are not configured."""
    tests = [
        _test(condition.consumers, "the consumer", _consumer, is_shown=True),
        _test(condition.groups, "the groups", _groups, is_shown=True),
        _test(
            condition.scopes, "the scopes", lambda exchange: scopes_of(exchange.claims), is_scope=True, is_shown=True
        ),
    ]
    tests += [_test(values, f"the claim {name}", _claim(name)) for name, values in condition.claims.items()]
    certificate = condition.certificate
    if certificate is not None:
        prints = certificate.fingerprint_sha256
        tests += [
            lambda exchange: None if exchange.peer.certificate is not None else Lack("no client certificate"),
            _test(certificate.subject, "the certificate's subject", _subject),
            _test(certificate.san, "the certificate's names", _sans),
            _test(prints, "the certificate", _fingerprint),
        ]
    return tuple(test for test in tests if test is not None)


def _test(
    rule: Any, what: str, of: Callable[[Exchange], frozenset[Any]], is_scope: bool = False, is_shown: bool = False
) -> Test | None:
    """Return a test. `is_shown`: the log shows the client's values, in addition to the required ones. Claims may be
    personal data.
    """
    needed = frozenset(map(_comparable, getattr(rule, "all", ())))
    one_of = frozenset(map(_comparable, rule.any))
    barred = frozenset(map(_comparable, rule.none))
    if not (needed or one_of or barred):
        return None
    # A token lacks the missing scopes of `all`; of `any`, the first is enough.
    scope = " ".join([*getattr(rule, "all", ()), *rule.any[:1]]) if is_scope else ""

    def held_values(held: frozenset[Any]) -> str:
        return f"{_listed(sorted(map(str, held))) if held else 'there are none'}; " if is_shown else ""

    def test(exchange: Exchange) -> Lack | None:
        held = of(exchange)
        if not needed <= held:
            return Lack(f"{what}: {held_values(held)}all of {_listed(rule.all)} are required", scope)
        if one_of and one_of.isdisjoint(held):
            return Lack(f"{what}: {held_values(held)}one of {_listed(rule.any)} is required", scope)
        if not barred.isdisjoint(held):
            return Lack(f"{what}: {held_values(held)}none of {_listed(rule.none)} is allowed")
        return None

    return test


def _listed(values: Sequence[Any]) -> str:
    """Return the first of them, as text."""
    shown = [value.hex(":").upper() if isinstance(value, bytes) else str(value) for value in values[:VALUES_LISTED]]
    return ", ".join([*shown, "…"] if len(values) > VALUES_LISTED else shown)


def _comparable(value: Any) -> Any:
    """Return a key by which sets distinguish 1 from true; fingerprints in the form of certificates."""
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str) else (isinstance(value, bool), value)


_NOBODY: Final[frozenset[Any]] = frozenset()


def _consumer(exchange: Exchange) -> frozenset[Any]:
    return _NOBODY if exchange.consumer is None else frozenset((exchange.consumer.name,))


def _groups(exchange: Exchange) -> frozenset[Any]:
    return _NOBODY if exchange.consumer is None else exchange.consumer.groups


def _claim(name: str) -> Callable[[Exchange], frozenset[Any]]:
    path = claim_path(name)

    def values(exchange: Exchange) -> frozenset[Any]:
        held = find_claim(exchange.claims, path)
        listed = held if isinstance(held, list) else [held]
        return frozenset(_comparable(each) for each in listed if isinstance(each, str | bool | int | float))

    return values


def _subject(exchange: Exchange) -> frozenset[Any]:
    certificate = exchange.peer.certificate
    return _NOBODY if certificate is None else frozenset((certificate.subject,))


def _sans(exchange: Exchange) -> frozenset[Any]:
    certificate = exchange.peer.certificate
    return _NOBODY if certificate is None else frozenset(certificate.sans)


def _fingerprint(exchange: Exchange) -> frozenset[Any]:
    certificate = exchange.peer.certificate
    return _NOBODY if certificate is None else frozenset((certificate.fingerprint,))
