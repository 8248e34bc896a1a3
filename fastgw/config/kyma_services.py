"""Kyma's documents as services of `egress`.

An `Application` has services, and these have entries: APIs by a URL, with the name of a Secret for credentials and of
one for parameters. A service is called by its display name, an entry by its name (`kyma_names.normalized`). What is
wrong with one of them leaves it out, and is told; what is wrong with a Secret makes the calls that need it fail, with
the reason.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from msgspec import Struct
from msgspec.structs import replace

from fastgw.config.credentials import Csrf, RequestParameters
from fastgw.config.egress import EgressCredentials, EgressEntry, EgressService, Kyma
from fastgw.config.kept import Kept
from fastgw.config.kyma_names import access_service, normalized, why_not_there
from fastgw.config.kyma_objects import NAME, Object
from fastgw.config.kyma_secrets import Asked, Derived, Secrets, Unusable
from fastgw.config.problems import Path, Problem, path_text, show, suggest
from fastgw.config.secret import Secret
from fastgw.config.structs import NONE, view
from fastgw.config.upstreams import UpstreamTls
from fastgw.config.values import Endpoint, Url, parse_endpoint, parse_url

GROUP: Final = "applicationconnector.kyma-project.io"
VERSION: Final = f"{GROUP}/v1alpha1"
TYPES: Final = ("Basic", "OAuth", "OAuthWithCert", "CertificateGen", "NoAuth")
"""Of credentials."""
UNVERIFIED: Final = UpstreamTls(verify=False)

_SKIP_VERIFY: Final = ("spec", "skipVerify")


def parts_of(entry: Path) -> Mapping[Path, Path]:
    """By what an entry is said to have: where that stands in the document."""
    at = (*entry, "credentials")
    return {
        ("url",): (*entry, "targetUrl"),
        ("tls",): _SKIP_VERIFY,
        ("tls", "verify"): _SKIP_VERIFY,
        ("credentials",): at,
        ("credentials", "token_url"): (*at, "authenticationUrl"),
        ("credentials", "token_tls", "verify"): _SKIP_VERIFY,
        ("csrf",): (*at, "csrfInfo"),
        ("csrf", "token_url"): (*at, "csrfInfo", "tokenEndpointURL"),
        ("csrf", "tls", "verify"): _SKIP_VERIFY,
        ("request_parameters",): (*entry, "requestParametersSecretName"),
    }


class KymaEntry(NamedTuple):
    """An API, and where it stands in its Application."""

    settings: EgressEntry
    path: Path


class KymaService(NamedTuple):
    """One service."""

    app: str
    name: str
    of: Object
    """Its Application."""
    path: Path
    """Where it stands in that."""
    settings: EgressService
    entries: Mapping[str, KymaEntry]
    """By name; none where it is one API without a name."""


class Services(Struct):
    """What documents say."""

    services: list[KymaService]
    notes: list[Problem]
    """What is wrong in them, and left out."""


class _Refused(Exception):
    """What is wrong with a part of a document."""

    def __init__(self, path: Path, wrong: str, expected: str = "") -> None:
        self.path, self.wrong, self.expected = path, wrong, expected
        super().__init__(wrong)


class Read(NamedTuple):
    """What was read of one Application, and what it was read by."""

    settings: Kyma
    asked: Asked
    derived: Derived
    services: Sequence[KymaService]
    notes: Sequence[Problem]


def services_in(
    objects: Iterable[Object],
    settings: Kyma,
    derive: Callable[[str, bytes], None],
    known: Kept[Object, Read] | None = None,
) -> Services:
    """The services of all Applications. `derive`: is given the name and contents of each derived file that they
    need. `known`: those that were read before."""
    secrets = Secrets(settings.namespace)
    known = Kept() if known is None else known
    found = Services([], [])
    applications: dict[str, Object] = {}
    for each in objects:
        if (each.kind, each.version) == ("Secret", "v1"):
            note = secrets.add(each)
        elif each.kind == "Application" and each.version.partition("/")[0] == GROUP:
            note = _add(each, applications)
        else:
            note = None  # a folder may hold other objects too
        if note is not None:
            found.notes.append(note)
    for app in applications.values():
        read = known.find(app)
        if read is None or read.settings != settings or not secrets.are(read.asked):
            notes: list[Problem] = []
            services = [*_Reading(app, settings, secrets, notes).services()]
            read = Read(settings, *secrets.take_used(), services, notes)
        known.keep(app, read)
        found.services += read.services
        found.notes += read.notes
        for name, content in read.derived.items():
            derive(name, content)
    return found


def _add(each: Object, applications: dict[str, Object]) -> Problem | None:
    if each.version != VERSION:
        return each.problem(("apiVersion",), _kind(each.version), f"expected {show(VERSION)}")
    if NAME.fullmatch(each.name) is None:
        wrong = "no name of an Application" if each.name else "no name"
        return each.problem(
            ("metadata", "name"), wrong, "expected a name of letters in lower case, digits, `-` and `.`"
        )
    if each.name in applications:
        first = applications[each.name].place
        return each.problem(("metadata", "name"), f"already at {first}, which counts", "expected it once")
    applications[each.name] = each
    return None


class _Reading:
    """One Application being read."""

    def __init__(self, app: Object, settings: Kyma, secrets: Secrets, notes: list[Problem]) -> None:
        self._app = app
        self._settings = settings
        self._secrets = secrets
        self._notes = notes

    def services(self) -> Iterator[KymaService]:
        """All of them that can be made."""
        try:
            spec = _mapping(self._app.value, (), "spec")
            self._skip_verify = _truth(spec, ("spec",), "skipVerify")
            listed = [*_listed(spec, ("spec",), "services")]
        except _Refused as refused:
            self._note(refused)
            return
        taken: dict[str, Path] = {}
        for path, said in listed:
            try:
                service = self._service(said, path)
                if service is not None:
                    self._take_name(service.name, "a service", path, taken)
                    yield service
            except _Refused as refused:
                self._note(refused)

    def _note(self, refused: _Refused) -> None:
        self._notes.append(self._app.problem(refused.path, refused.wrong, refused.expected))

    def _take_name(self, name: str, noun: str, path: Path, taken: dict[str, Path]) -> None:
        if name in taken:
            first = path_text(taken[name])
            raise _Refused(path, f"{noun} called {show(name)}, as {first} is, which counts", "expected another name")
        taken[name] = path

    def _service(self, said: Mapping[str, Any], path: Path) -> KymaService | None:
        """None: it has no API."""
        entries: dict[str, KymaEntry] = {}
        taken: dict[str, Path] = {}
        named = "displayName" if said.get("displayName") else "name"
        name = normalized(_text(said, path, named))
        for entry_path, entry in _listed(said, path, "entries"):
            try:
                kind = _text(entry, entry_path, "type")
                if kind == "Events":
                    continue
                if kind != "API":
                    raise _Refused((*entry_path, "type"), _kind(kind), 'expected "API" or "Events"')
                called = normalized(_text(entry, entry_path, "name", needed=False))
                self._take_name(called, "an entry", entry_path, taken)
                entries[called] = self._entry(entry, entry_path)
            except _Refused as refused:
                self._note(refused)
        if not entries:
            return None
        if not name:
            raise _Refused((*path, named), _kind(said[named]), "expected a name with a letter or digit")
        host = access_service(self._app.name, _text(said, path, "id", needed=False))
        if "" in entries and len(entries) > 1:
            raise _Refused(path, "several entries, one of them without a name", "expected each with `name`")
        if "" in entries:
            only = entries.pop("")
            settings = EgressService(**_fields(only.settings), host=host or None)
            return KymaService(self._app.name, name, self._app, only.path, settings, {})
        held = MappingProxyType({called: entry.settings for called, entry in entries.items()})
        settings = EgressService(entries=held, host=host or None)
        return KymaService(self._app.name, name, self._app, path, settings, entries)

    def _entry(self, said: Mapping[str, Any], path: Path) -> KymaEntry:
        url, in_url = self._target(said, path)
        credentials = _mapping(said, path, "credentials")
        at = (*path, "credentials")
        tls = UNVERIFIED if self._skip_verify and url.tls else UpstreamTls()
        csrf = self._csrf(credentials, at)
        if csrf is not None and self._skip_verify and csrf.token_url.origin.tls:
            csrf = replace(csrf, tls=UNVERIFIED)
        needs = (*at, "secretName")
        try:
            shown = self._credentials(credentials, at, url)
            needs = (*path, "requestParametersSecretName")
            parameters = self._parameters(_text(said, path, "requestParametersSecretName", needed=False), in_url)
        except Unusable as unusable:
            self._notes += [unusable.problem] if unusable.problem is not None else []
            self._notes.append(self._app.problem(needs, f"{unusable.why}: calls are answered 500"))
            return KymaEntry(EgressEntry(url=url, unavailable=unusable.why), path)
        if csrf is not None and shown.type == "certificate" and csrf.token_url.origin.tls:
            csrf = replace(csrf, tls=replace(csrf.tls, certificate=shown.certificate, key=shown.key))
        settings = EgressEntry(url=url, credentials=shown, csrf=csrf, request_parameters=parameters, tls=tls)
        return KymaEntry(settings, path)

    def _target(self, said: Mapping[str, Any], path: Path) -> tuple[Url, dict[str, tuple[Secret, ...]]]:
        """Where an API is, and the parameters that stand behind its URL."""
        text, _, query = _text(said, path, "targetUrl").partition("?")
        at = (*path, "targetUrl")
        try:
            url = parse_url(text)
        except ValueError as error:
            raise _Refused(at, str(error), "expected an http or https URL") from error
        self._check_origin(url, at)
        parameters: dict[str, tuple[Secret, ...]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if not name or not value or "#" in query:
                raise _Refused(at, "a fragment, or a parameter without name or value", "expected none")
            parameters[name] = (*parameters.get(name, ()), Secret(text=value))
        return url, parameters

    def _endpoint(self, said: Mapping[str, Any], path: Path, key: str) -> Endpoint:
        text = _text(said, path, key)
        try:
            endpoint = parse_endpoint(text)
        except ValueError as error:
            raise _Refused((*path, key), str(error), "expected an http or https URL") from error
        self._check_origin(endpoint.origin, (*path, key))
        return endpoint

    def _check_origin(self, url: Url, path: Path) -> None:
        if url.socket:
            raise _Refused(path, "a unix socket, where a document may not lead", "expected an http or https URL")
        why = "" if self._settings.allow_local else why_not_there(url)
        if why:
            expected = "expected another host, or `allow_local: true` with the provider"
            raise _Refused(path, f"{why}, where a document may not lead", expected)

    def _credentials(self, said: Mapping[str, Any], path: Path, url: Url) -> EgressCredentials:
        """Raises `Unusable`."""
        if not said:
            return EgressCredentials(type="none")
        kind = _text(said, path, "type")
        if kind not in TYPES:
            raise _Refused((*path, "type"), _kind(kind), suggest(kind, TYPES))
        if kind == "NoAuth":
            return EgressCredentials(type="none")
        name = _text(said, path, "secretName")
        secrets = self._secrets
        if kind == "Basic":
            username = secrets.username(name, "username")
            return EgressCredentials(type="basic", username=username, password=secrets.text(name, "password"))
        if kind == "CertificateGen":
            if not url.tls:
                raise _Refused((*path, "type"), "a client certificate for an http URL", "expected an https `targetUrl`")
            shown, its_key = secrets.pair(name, "crt", "key")
            return EgressCredentials(type="certificate", certificate=shown, key=its_key)
        endpoint = self._endpoint(said, path, "authenticationUrl")
        with_certificate = kind == "OAuthWithCert"
        if with_certificate and not endpoint.origin.tls:
            wrong = "a client certificate for an http URL"
            raise _Refused((*path, "authenticationUrl"), wrong, "expected an https URL")
        client_id = secrets.text(name, "clientId")
        certificate, key = secrets.pair(name, "crt", "key") if with_certificate else (None, None)
        headers, query = secrets.parameters_for_token(name)
        if not with_certificate:  # ours takes its place, as in Kyma
            headers = view({field: values for field, values in headers.items() if field.lower() != "authorization"})
        return EgressCredentials(
            type="oauth2_mtls" if with_certificate else "oauth2",
            token_url=endpoint,
            client_id=client_id,
            client_secret=None if with_certificate else secrets.text(name, "clientSecret"),
            client_auth="auto" if with_certificate else "auto_raw",
            certificate=certificate,
            key=key,
            token_headers=headers,
            token_query=query,
            token_tls=UNVERIFIED if self._skip_verify and endpoint.origin.tls else UpstreamTls(),
            second_level=self._settings.second_level,
        )

    def _csrf(self, credentials: Mapping[str, Any], path: Path) -> Csrf | None:
        said = _mapping(credentials, path, "csrfInfo")
        return Csrf(token_url=self._endpoint(said, (*path, "csrfInfo"), "tokenEndpointURL")) if said else None

    def _parameters(self, name: str, in_url: dict[str, tuple[Secret, ...]]) -> RequestParameters:
        """Raises `Unusable`."""
        headers, query = self._secrets.parameters(name) if name else (NONE, NONE)
        return RequestParameters(headers=headers, query=view({**query, **in_url}) if in_url else query)


def _fields(entry: EgressEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _mapping(said: Mapping[str, Any], path: Path, key: str) -> Mapping[str, Any]:
    held = said.get(key)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise _Refused((*path, key), _kind(held), "expected a mapping")
    return held


def _kind(held: Any) -> str:
    """As a problem names it; texts in places of their own are not shown, they might be anything."""
    return "text" if isinstance(held, str) else show(held)


def _listed(said: Mapping[str, Any], path: Path, key: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The mappings of a list, each with its path."""
    held = said.get(key)
    if held is None:
        return
    if not isinstance(held, list):
        raise _Refused((*path, key), _kind(held), "expected a list")
    for place, each in enumerate(held):
        if not isinstance(each, dict):
            raise _Refused((*path, key, place), _kind(each), "expected a mapping")
        yield (*path, key, place), each


def _text(said: Mapping[str, Any], path: Path, key: str, *, needed: bool = True) -> str:
    """ "": it is not said, and need not be."""
    held = said.get(key)
    if held is None or held == "":
        if needed:
            raise _Refused(path, f"no `{key}`", "expected one")
        return ""
    if not isinstance(held, str):
        raise _Refused((*path, key), _kind(held), "expected text")
    return held


def _truth(said: Mapping[str, Any], path: Path, key: str) -> bool:
    held = said.get(key)
    if not isinstance(held, bool | None):
        raise _Refused((*path, key), _kind(held), "expected true or false")
    return bool(held)
