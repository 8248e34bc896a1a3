"""Turns Kyma's documents into services of `egress`.

An `Application` has services, and these have entries: APIs with a URL, and the names of Secrets for credentials and for
parameters. A service is called by its display name, an entry by its name (`names.normalized`). Invalid entries are left
out and noted. If a Secret is invalid, calls that need it fail with the reason.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from fastgw.config.base.problems import Path, Problem, format_value, path_text, suggest
from fastgw.config.base.settings_base import NONE, view
from fastgw.config.base.value_types import Endpoint, Url, parse_endpoint, parse_url
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.kyma.names import access_service, normalized, why_not_there
from fastgw.config.kyma.objects import NAME, Object
from fastgw.config.kyma.secrets import (
    CREDENTIALS_TYPE,
    TARGET_URL,
    Asked,
    Compass,
    Derived,
    KymaSecrets,
    Listed,
    UnusableSecret,
)
from fastgw.config.settings.credentials import Csrf, RequestParameters
from fastgw.config.settings.egress import ApiOfSecret, EgressCredentials, EgressEntry, EgressService, Kyma
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls

GROUP: Final = "applicationconnector.kyma-project.io"
VERSION: Final = f"{GROUP}/v1alpha1"
TYPES: Final = ("Basic", "OAuth", "OAuthWithCert", "CertificateGen", "NoAuth")
"""Types of credentials."""
COMPASS_TYPES: Final = ("OAuth", "OAuthWithCert", "BasicAuth", "Certificate", "NoAuth")
"""Values of `CREDENTIALS_TYPE`."""
_IS_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*").fullmatch

_SKIP_VERIFY: Final = ("spec", "skipVerify")
UNNAMED: Final = "unnamed"
"""Name of an entry without a name, if a service has several."""
_OTHER: Final = "expected another name"
_API: Final = re.compile("[A-Z0-9][A-Z0-9._-]{0,199}")
"""Names of APIs in Secrets, as Kyma writes and finds them."""
_IS_LOCAL: Final = "names this machine or its link-local network; expected another host, or `allow_local: true`"
_UNKNOWN: Final = parse_url("http://unknown.invalid")
"""URL of an API whose Secret does not have it: calls are refused before it is used (RFC 6761 section 6.4)."""
APIS_LISTED: Final = 8
"""Maximum number of APIs with the same name that are listed for the caller."""


def parts_of(of: Object, entry: Path) -> Mapping[Path, Path]:
    """Return the paths in a document from which the settings of an entry come."""
    if of.kind == "Secret":
        return {}
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
    """An API, and its position in its Application."""

    settings: EgressEntry
    path: Path


class KymaService(NamedTuple):
    """One service."""

    app: str
    """Name of its Application; for an API of a Secret without an Application, of the Secret."""
    name: str
    of: Object
    """Application of the service, or the Secret."""
    path: Path
    """Path of the service in it."""
    settings: EgressService
    entries: Mapping[str, KymaEntry]
    """Entries by name; none for a single API without a name."""


class _Api(NamedTuple):
    """An API with its names in the Application."""

    service: str
    """Name of its service in the document."""
    title: str
    """Name of the API; "" = none."""
    path: Path
    """Path of its service."""
    entry: KymaEntry
    host: str = ""
    """Former host name of its service; "" = none."""
    alone: bool = False
    """Whether it is the only API of its service."""

    @property
    def description(self) -> str:
        entry = f"the entry {format_value(self.title)}" if self.title else "an entry without a name"
        return f"{entry} of the service {format_value(self.service)}"


def _hosted(api: _Api) -> dict[str, str]:
    return {"host": api.host} if api.host and api.alone else {}


class KymaServices(Struct):
    """Services of the documents, and problems."""

    services: list[KymaService]
    notes: list[Problem]
    """Problems in the documents; the affected parts are left out."""
    missing: list[int]
    """Positions in `secrets` of Secrets that do not exist."""


class _Refused(Exception):
    """A part of a document is invalid."""

    def __init__(self, path: Path, wrong: str, expected: str = "", detail: str = "") -> None:
        """Keep the problem. `detail`: replaces `expected` in a message about the enclosing part."""
        self.path, self.wrong, self.expected = path, wrong, expected
        self.detail = detail or expected
        super().__init__(wrong)


class Read(NamedTuple):
    """Result of reading one Application, or Secret without one, and the inputs."""

    settings: Kyma
    asked: Asked
    derived: Derived
    services: Sequence[KymaService]
    notes: Sequence[Problem]


def services_in(
    objects: Iterable[Object],
    settings: Kyma,
    derive: Callable[[str, bytes], None],
    known: IncrementalCache[Object, Read] | None = None,
) -> KymaServices:
    """Return the services of all Applications, and those of the Secrets that `settings` names. `derive`: called with
    name and contents of each derived file that they need. `known`: cache of what was read of each."""
    secrets = KymaSecrets(settings.namespace)
    known = IncrementalCache() if known is None else known
    found = KymaServices([], [], [])
    applications: dict[str, Object] = {}
    for each in objects:
        if (each.kind, each.version) == ("Secret", "v1"):
            note = secrets.add(each)
        elif each.kind == "Application" and each.version.partition("/")[0] == GROUP:
            note = _add(each, applications)
        else:
            note = None  # a folder may contain other objects as well
        if note is not None:
            found.notes.append(note)
    alone = [secrets.named(name) for name in settings.secrets]
    found.missing += [index for index, secret in enumerate(alone) if secret is None]
    for of in dict.fromkeys((*applications.values(), *alone)):
        if of is None:
            continue
        read = known.find(of)
        if read is None or read.settings != settings or not secrets.are_unchanged(read.asked):
            notes: list[Problem] = []
            reading = _Reading(of, settings, secrets, notes)
            services = [*(reading.apis_of_secret() if of.kind == "Secret" else reading.services())]
            read = Read(settings, *secrets.take_used(), services, notes)
        known.store(of, read)
        found.services += read.services
        found.notes += read.notes
        for name, content in read.derived.items():
            derive(name, content)
    return found


def _add(each: Object, applications: dict[str, Object]) -> Problem | None:
    if each.version != VERSION:
        return each.problem(("apiVersion",), _kind(each.version), f"expected {format_value(VERSION)}")
    if NAME.fullmatch(each.name) is None:
        wrong = "not a valid Application name" if each.name else "no name"
        return each.problem(("metadata", "name"), wrong, "expected a name of lower-case letters, digits, `-` and `.`")
    if each.name in applications:
        first = applications[each.name].location
        return each.problem(
            ("metadata", "name"), f"already defined at {first}, which takes precedence", "expected a unique name"
        )
    applications[each.name] = each
    return None


class _Reading:
    """One Application being read, or one Secret without an Application."""

    _skip_verify = False

    def __init__(self, app: Object, settings: Kyma, secrets: KymaSecrets, notes: list[Problem]) -> None:
        self._app = app
        self._provider = settings
        self._secrets = secrets
        self._notes = notes

    def services(self) -> Iterator[KymaService]:
        """Yield all services without errors."""
        try:
            spec = _mapping(self._app.value, (), "spec")
            self._skip_verify = _truth(spec, ("spec",), "skipVerify")
            listed = [*_listed(spec, ("spec",), "services")]
        except _Refused as refused:
            self._note(refused)
            return
        named: dict[str, list[_Api]] = {}
        for path, said in listed:
            try:
                name, apis = self._apis(said, path)
                named.setdefault(name, []).extend(apis)
            except _Refused as refused:
                self._note(refused)
        for name, apis in named.items():
            if apis:
                yield self._service(name, apis)

    def apis_of_secret(self) -> Iterator[KymaService]:
        """Yield the API of each key `{API}_TARGET_URL` of a Secret."""
        secret = self._app.name
        keys = self._secrets.target_keys(secret)
        if not keys:
            self._notes.append(self._app.problem((), f"no `{{API}}{TARGET_URL}`: nothing is served", "expected one"))
        for key in keys:
            path, api = self._secrets.path_of(secret, key), key.removesuffix(TARGET_URL)
            if _API.fullmatch(api) is None:
                wrong = "not a name of an API: nothing is served"
                self._notes.append(self._app.problem(path, wrong, "expected upper-case letters, digits and `_`"))
                continue
            try:
                url = self._target_in(secret, key)
                compass = self._secrets.compass_alone(secret)
                shown = EgressCredentials(type="none")
                if compass.type != "NoAuth":
                    shown = self._of_compass({}, (), compass.type, url, compass)
                csrf = self._csrf({}, (), compass)
                settings = self._settings_of(url, shown, csrf, self._parameters("", compass, ""))
            except UnusableSecret as unusable:
                self._notes += [unusable.problem] if unusable.problem is not None else []
                settings = self._settings(_UNKNOWN, unavailable=unusable.why)
            yield KymaService(secret, api, self._app, path, ApiOfSecret(**_fields(settings)), {})

    def _note(self, refused: _Refused) -> None:
        self._notes.append(self._app.problem(refused.path, refused.wrong, refused.expected))

    def _apis(self, said: Mapping[str, Any], path: Path) -> tuple[str, list["_Api"]]:
        """Return the name of a service, and its APIs."""
        named = "displayName" if said.get("displayName") else "name"
        title = _text(said, path, named)
        apis = []
        for entry_path, entry in _listed(said, path, "entries"):
            try:
                kind = _text(entry, entry_path, "type")
                if kind == "Events":
                    continue
                if kind != "API":
                    raise _Refused((*entry_path, "type"), _kind(kind), 'expected "API" or "Events"')
                called = _text(entry, entry_path, "name", needed=False)
                apis.append(_Api(title, called, path, self._entry(entry, entry_path)))
            except _Refused as refused:
                self._note(refused)
        name = normalized(title)
        if not apis:
            return name, []
        if not name:
            raise _Refused((*path, named), _kind(said[named]), "expected a name with a letter or digit")
        host = access_service(self._app.name, _text(said, path, "id", needed=False))
        return name, [each._replace(host=host, alone=len(apis) == 1) for each in apis]

    def _service(self, name: str, apis: list["_Api"]) -> KymaService:
        """Return the service of all APIs with this name. As in Kyma, a call needs a name that only one API has."""
        if len(apis) == 1 and not normalized(apis[0].title):
            (only,) = apis
            settings = EgressService(**{**_fields(only.entry.settings), **_hosted(only)})
            return KymaService(self._app.name, name, self._app, only.entry.path, settings, {})
        by_name: dict[str, list[_Api]] = {}
        for each in apis:
            by_name.setdefault(normalized(each.title) or UNNAMED, []).append(each)
        entries = {called: self._distinguished(alike) for called, alike in by_name.items()}
        held = MappingProxyType({called: entry.settings for called, entry in entries.items()})
        of_one = apis[0].host if all(each.path == apis[0].path for each in apis) else ""
        settings = EgressService(entries=held, host=of_one or None)
        return KymaService(self._app.name, name, self._app, apis[0].path, settings, entries)

    def _distinguished(self, alike: list["_Api"]) -> KymaEntry:
        """Return the API; for several with the same name, an entry that reports the ambiguity."""
        first = alike[0]
        if len(alike) == 1:
            return KymaEntry(replace(first.entry.settings, **_hosted(first)), first.entry.path)
        more = f" and {len(alike) - APIS_LISTED} more" if len(alike) > APIS_LISTED else ""
        wrong = f"Several APIs have this name: {', '.join(each.description for each in alike[:APIS_LISTED])}{more}."
        also = f"called as {path_text(first.entry.path)} is: calls of both are answered 400"
        self._notes += [self._app.problem(each.entry.path, also, _OTHER) for each in alike[1:]]
        return KymaEntry(EgressEntry(url=first.entry.settings.url, ambiguous=wrong), first.entry.path)

    def _entry(self, said: Mapping[str, Any], path: Path) -> KymaEntry:
        at = (*path, "credentials")
        needs = (*at, "secretName")
        shown_by = said.get("credentials")
        in_secret = not said.get("targetUrl") and isinstance(shown_by, dict) and bool(shown_by.get("secretName"))
        url, query = (_UNKNOWN, "") if in_secret else self._target(said, path)
        try:
            credentials = _mapping(said, path, "credentials")
            name = _text(credentials, at, "secretName", needed=False)
            url = self._target_in(name, self._target_key(name, said, path)) if in_secret else url
            compass = self._secrets.compass(name) if name else None
            csrf = self._csrf(credentials, at, compass)
            shown = self._credentials(credentials, at, url, compass)
            needs = (*path, "requestParametersSecretName")
            named = _text(said, path, "requestParametersSecretName", needed=False)
            parameters = self._parameters(named, compass, query)
        except UnusableSecret as unusable:
            self._notes += [unusable.problem] if unusable.problem is not None else []
            self._notes.append(self._app.problem(needs, f"{unusable.why}: calls are answered 500"))
            return KymaEntry(self._settings(url, unavailable=unusable.why), path)
        except _Refused as refused:
            # As in Kyma, the service exists. Values are not shown: a secret may stand in the wrong place.
            self._note(refused)
            why = f"{path_text(refused.path)} of the Application {self._app.name} cannot be used: {refused.detail}"
            return KymaEntry(self._settings(url, unavailable=why), path)
        return KymaEntry(self._settings_of(url, shown, csrf, parameters), path)

    def _settings_of(
        self, url: Url, shown: EgressCredentials, csrf: Csrf | None, parameters: RequestParameters
    ) -> EgressEntry:
        """Return the settings of an entry that can be called."""
        if csrf is not None and csrf.token_url.origin.tls and (self._skip_verify or shown.type == "certificate"):
            csrf = replace(csrf, tls=self._tls(csrf.token_url.origin, shown))
        return self._settings(url, credentials=shown, csrf=csrf, request_parameters=parameters, tls=self._tls(url))

    def _settings(self, url: Url, **said: Any) -> EgressEntry:
        """Return the settings of an entry, completed with the provider's defaults."""
        given = self._provider.defaults
        names = ("timeouts", "retries", "tolerate", "response_limits", "use", "filters")
        return EgressEntry(url=url, **{name: getattr(given, name) for name in names}, **said)

    def _tls(self, url: Url, shown: EgressCredentials | None = None) -> UpstreamTls:
        """Return the TLS settings for a URL. `shown`: credentials, possibly with a client certificate."""
        if not url.tls:
            return UpstreamTls()
        tls = self._provider.defaults.tls
        if self._skip_verify:
            tls = replace(tls, verify=False)
        if shown is not None and shown.type == "certificate":
            tls = replace(tls, certificate=shown.certificate, key=shown.key)
        return tls

    def _target(self, said: Mapping[str, Any], path: Path) -> tuple[Url, str]:
        """Return the URL of an API without its query, and the query."""
        text, _, query = _text(said, path, "targetUrl").partition("?")
        at = (*path, "targetUrl")
        try:
            url = parse_url(text)
        except ValueError as error:
            raise _Refused(at, str(error), "expected an http or https URL") from error
        self._check_origin(url, at)
        if _IS_QUERY(query) is None:
            raise _Refused(at, "a fragment, or a query with invalid characters", "expected none")
        return url, query

    def _target_key(self, secret: str, said: Mapping[str, Any], path: Path) -> str:
        """Return the key of the URL of an API in its Secret. Raises `UnusableSecret`."""
        name = _text(said, path, "name")
        its_id = _text(said, path, "id", needed=False)
        return self._secrets.target_key(secret, (*([f"{name}_{its_id}"] if its_id else ()), name))

    def _target_in(self, secret: str, key: str) -> Url:
        """Return the URL of an API in its Secret. Raises `UnusableSecret`, without the value."""
        try:
            url = parse_url(self._secrets.plain(secret, key))
        except ValueError:
            wrong = "is not an http or https URL without a query"
            raise self._secrets.unusable(secret, key, wrong) from None  # the cause would show the value
        if self._is_local(url):
            raise self._secrets.unusable(secret, key, _IS_LOCAL)
        return url

    def _is_local(self, url: Url) -> bool:
        return url.socket != "" or not (self._provider.allow_local or not why_not_there(url))

    def _endpoint(self, said: Mapping[str, Any], path: Path, key: str) -> Endpoint:
        at = (*path, key)
        try:
            endpoint = parse_endpoint(_text(said, path, key))
        except ValueError as error:
            raise _Refused(at, str(error), "expected an http or https URL") from error
        self._check_origin(endpoint.origin, at)
        return endpoint

    def _endpoint_in(self, compass: Compass, part: str) -> Endpoint:
        """Return the `tokenUrl` of a Compass Secret. Raises `UnusableSecret`, without the value."""
        try:
            endpoint = parse_endpoint(compass.plain("tokenUrl", part))
        except ValueError:
            wrong = f"has no http or https URL as `{part}.tokenUrl`"
            raise compass.unusable(wrong) from None  # the cause would show the value
        if self._is_local(endpoint.origin):
            raise compass.unusable(f"has a `{part}.tokenUrl` that {_IS_LOCAL}")
        return endpoint

    def _check_origin(self, url: Url, path: Path) -> None:
        if url.socket:
            raise _Refused(
                path, "a unix socket, which is not allowed in an Application", "expected an http or https URL"
            )
        why = "" if self._provider.allow_local else why_not_there(url)
        if why:
            expected = "expected another host, or `allow_local: true` with the provider"
            raise _Refused(path, f"{why}, which is not allowed in an Application", expected)

    def _credentials(self, said: Mapping[str, Any], path: Path, url: Url, compass: Compass | None) -> EgressCredentials:
        """Return the credentials. `compass`: its Secret, if of the older form. Raises `UnusableSecret`."""
        if not said:
            return EgressCredentials(type="none")
        kind = _text(said, path, "type", needed=compass is None) or (compass.type if compass is not None else "")
        if kind not in TYPES and said.get("type"):
            detail = f"it is unknown; expected one of {', '.join(TYPES)}"
            raise _Refused((*path, "type"), "it is unknown", suggest(kind, TYPES), detail)
        if kind == "NoAuth":
            return EgressCredentials(type="none")
        name = _text(said, path, "secretName")
        secrets = self._secrets
        if compass is not None:
            return self._of_compass(said, path, kind, url, compass)
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
        if with_certificate:
            pair = secrets.pair(name, "crt", "key")
            return self._oauth(endpoint, client_id, secrets.parameters_for_token(name), pair=pair)
        parameters = secrets.parameters_for_token(name)
        return self._oauth(endpoint, client_id, parameters, client_secret=secrets.text(name, "clientSecret"))

    def _oauth(
        self,
        endpoint: Endpoint,
        client_id: Secret,
        parameters: tuple[Listed, Listed],
        *,
        client_secret: Secret | None = None,
        pair: tuple[str, str] | None = None,
    ) -> EgressCredentials:
        """Return the credentials for tokens. Expects a secret, or a certificate and its key."""
        headers, query = parameters
        if pair is None:  # replaced by the gateway's own, as in Kyma
            headers = view({field: values for field, values in headers.items() if field.lower() != "authorization"})
        certificate, key = pair or (None, None)
        return EgressCredentials(
            type="oauth2" if pair is None else "oauth2_mtls",
            token_url=endpoint,
            client_id=client_id,
            client_secret=client_secret,
            client_auth="auto_raw" if pair is None else "auto",
            certificate=certificate,
            key=key,
            token_headers=headers,
            token_query=query,
            token_tls=self._token_tls(endpoint.origin),
            token_tolerate=self._provider.defaults.tolerate,
            second_level=self._provider.second_level,
        )

    def _token_tls(self, url: Url) -> UpstreamTls:
        """Return the TLS settings of a token endpoint: those of the APIs, without their server name and certificate."""
        return replace(self._tls(url), server_name=None, certificate=None, key=None)

    def _of_compass(
        self, said: Mapping[str, Any], path: Path, kind: str, url: Url, compass: Compass
    ) -> EgressCredentials:
        """Return the credentials in a Compass Secret. Raises `UnusableSecret`."""
        if kind == "Basic":
            username = compass.text("username")
            if compass.plain("username").find(":") >= 0:
                raise compass.unusable("has a username with a colon (RFC 7617)")
            return EgressCredentials(type="basic", username=username, password=compass.text("password"))
        if kind == "CertificateGen":
            if not url.tls:
                raise compass.unusable("has a client certificate for an http URL")
            shown, its_key = compass.pair()
            return EgressCredentials(type="certificate", certificate=shown, key=its_key)
        if kind not in TYPES:
            raise compass.unusable(f"is unknown; expected one of {', '.join(COMPASS_TYPES)}", CREDENTIALS_TYPE)
        if said.get("authenticationUrl"):
            endpoint = self._endpoint(said, path, "authenticationUrl")
        else:
            endpoint = self._endpoint_in(compass, "credentials")
        client_id, parameters = compass.text("clientId"), compass.parameters("credentials")
        if kind == "OAuth":
            return self._oauth(endpoint, client_id, parameters, client_secret=compass.text("clientSecret"))
        if not endpoint.origin.tls:
            raise compass.unusable("has a client certificate for an http `credentials.tokenUrl`")
        return self._oauth(endpoint, client_id, parameters, pair=compass.pair())

    def _csrf(self, credentials: Mapping[str, Any], path: Path, compass: Compass | None) -> Csrf | None:
        said = _mapping(credentials, path, "csrfInfo")
        if said:
            return Csrf(token_url=self._endpoint(said, (*path, "csrfInfo"), "tokenEndpointURL"))
        if compass is None or not compass.has_csrf_url:
            return None
        return Csrf(token_url=self._endpoint_in(compass, "csrfConfig"))

    def _parameters(self, name: str, compass: Compass | None, query_first: str) -> RequestParameters:
        """Return the request parameters. Raises `UnusableSecret`."""
        headers, query = NONE, NONE
        if name:
            headers, query = self._secrets.parameters(name)
        elif compass is not None:
            headers, query = compass.parameters()
        return RequestParameters(headers=headers, query=query, query_first=query_first)


def _fields(entry: EgressEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _mapping(said: Mapping[str, Any], path: Path, key: str) -> Mapping[str, Any]:
    held = said.get(key)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise _Refused((*path, key), _kind(held), "expected an object")
    return held


def _kind(held: Any) -> str:
    """Return the type of a value for a problem; strings are not shown, because they may be secrets in the wrong
    place.
    """
    return "a string" if isinstance(held, str) else format_value(held)


def _listed(said: Mapping[str, Any], path: Path, key: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the objects of a list, each with its path."""
    held = said.get(key)
    if held is None:
        return
    if not isinstance(held, list):
        raise _Refused((*path, key), _kind(held), "expected a list")
    for index, each in enumerate(held):
        if not isinstance(each, dict):
            raise _Refused((*path, key, index), _kind(each), "expected an object")
        yield (*path, key, index), each


def _text(said: Mapping[str, Any], path: Path, key: str, *, needed: bool = True) -> str:
    """Return a text; "" if it is missing and not needed. Raises `_Refused`."""
    held = said.get(key)
    if held is None or held == "":
        if needed:
            raise _Refused(path, f"no `{key}`", "expected one")
        return ""
    if not isinstance(held, str):
        raise _Refused((*path, key), _kind(held), "expected a string")
    return held


def _truth(said: Mapping[str, Any], path: Path, key: str) -> bool:
    held = said.get(key)
    if not isinstance(held, bool | None):
        raise _Refused((*path, key), _kind(held), "expected true or false")
    return bool(held)
