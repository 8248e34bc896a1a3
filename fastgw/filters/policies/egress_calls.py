"""egress_calls, unknown_service: responses to applications that call APIs through the gateway, and requests to these
APIs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Final, Literal

import orjson

from fastgw.config.base.settings_base import NONE
from fastgw.config.base.value_types import Segment
from fastgw.config.settings.egress import Addressing
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, Reply

_FORMS: Final[Mapping[str, str]] = {
    "path": "/{application}/{service}",
    "path_with_entry": "/{application}/{service}/{entry}",
    "secret": "/secret/{secret}/api/{API}",
}
"""Forms of paths, by addressing."""
LONGEST_NAME: Final = 64
"""Maximum characters of a name that is repeated in a response."""
_PROBLEM: Final = b"application/problem+json"
_HARMLESS: Final = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@%-]")


class EgressCalls(Filter, name="egress_calls", phase=Phase.TRANSFORM, order=-10):  # type: ignore[literal-required]  # order: ours
    """Behave towards applications as Kyma's application gateway does.

    Problem details of the gateway have Kyma's members as well: `code`, the status, and `error`, the reason. If files of
    `credentials` or `request_parameters` of the same route are unusable, calls of this route are answered 500 with the
    reason, and all other routes are served.

    On a listener, with `user_agent: pass`, the filter adds these members to errors of requests that match no route.
    """

    fails_alone = True

    user_agent: Literal["empty", "pass"] = "empty"
    """`empty`: a request without `User-Agent` is forwarded with an empty one; `pass`: forwarded as received."""
    unavailable: str | None = None
    """Reason why the service cannot be called. Calls are answered 500 with this reason. null = it can be called."""
    ambiguous: str | None = None
    """Reason why it is ambiguous which service is meant. Calls are answered 400 with this reason. null = it is not
    ambiguous."""

    stands_anywhere = True

    @property
    def phase_of_listener(self) -> Phase:
        acts = self.unavailable is not None or self.ambiguous is not None or self.user_agent == "empty"
        return Phase.TRANSFORM if acts else Phase.OBSERVE

    def build(self, env: Env) -> Hooks:
        if env.route is None:
            return Hooks(reply=lambda exchange, reply: reply if exchange.route else _with_members(exchange, reply))
        fault = Fault.BAD_REQUEST if self.ambiguous is not None else Fault.SERVICE_MISCONFIGURED
        why = self.ambiguous if self.ambiguous is not None else self.unavailable

        def agree(exchange: Exchange) -> Outcome:
            if exchange.head.first(b"user-agent") is None:
                exchange.request_added += b"User-Agent: \r\n"
            return None

        def refuse(exchange: Exchange) -> Outcome:
            return exchange.refuse(fault, why)

        request = refuse if why is not None else agree if self.user_agent == "empty" else None
        return Hooks(request=request, reply=_with_members)


class UnknownService(Filter, name="unknown_service", phase=Phase.TRANSFORM):
    """Answer calls that lead to no API: 404 with the names that the client used; 400 if it used too few; 503 while the
    services are not known yet, because the cluster has not answered since the gateway was started."""

    apps: tuple[Segment, ...] = ()
    """Names of the applications."""
    addressing: Addressing = "path"
    """Form of a service's address."""
    several: Mapping[str, tuple[Segment, ...]] = NONE
    """Services with several entries, which cannot be called by `{app}/{service}` or by host, and their entries."""
    awaited: bool = False
    """Whether the services are not known yet."""

    def build(self, env: Env) -> Hooks:
        apps = frozenset(app.encode() for app in self.apps)
        of_hosts = sorted((app.lower() for app in apps), key=len, reverse=True)
        form = _FORMS.get(self.addressing, "")
        parts = form.encode().split(b"/")[1:]
        words = [part[1:-1].decode() for part in parts if part.startswith(b"{")][:2]
        several = {name.encode(): _entries(entries) for name, entries in self.several.items()}
        awaited = self.awaited

        def by_path(exchange: Exchange) -> Reply:
            segments = exchange.path.split(b"/")[1 : len(parts) + 1]
            names = []
            for part, segment in zip_longest(parts, segments, fillvalue=b""):
                if part.startswith(b"{") and segment:
                    names.append(segment)
                elif part != segment:
                    lacking = part.strip(b"{}").decode()
                    return exchange.refuse(Fault.BAD_REQUEST, f"The path has no {lacking}; expected {form}/….")
            if entries := several.get(b"/".join(names)):
                app, service = map(_quoted, names)
                wrong = f"The service {service} of the application {app} {entries}"
                return exchange.refuse(Fault.BAD_REQUEST, wrong)
            if awaited:
                return exchange.refuse(Fault.SERVICES_UNKNOWN)
            return exchange.refuse(Fault.ROUTE_NOT_FOUND, _unknown(names, apps, *words))

        def by_host(exchange: Exchange) -> Reply:
            label, _, domain = exchange.host.partition(b".")
            if entries := several.get(exchange.host) or several.get(label):
                return exchange.refuse(Fault.BAD_REQUEST, f"The service of the host {_quoted(label)} {entries}")
            if awaited:
                return exchange.refuse(Fault.SERVICES_UNKNOWN)
            app = next((app for app in of_hosts if label.startswith(app + b"-")), b"")
            if app:
                wrong = _unknown((app, label[len(app) + 1 :]), {app})
                wrong = f"{wrong[:-1]} under the domain {_quoted(domain)}." if domain else wrong
                return exchange.refuse(Fault.ROUTE_NOT_FOUND, wrong)
            wrong = f"The host {_quoted(exchange.host)} does not belong to a known application."
            return exchange.refuse(Fault.ROUTE_NOT_FOUND, wrong)

        return Hooks(request=by_host if self.addressing == "host" else by_path)


def _entries(entries: Iterable[str]) -> str:
    """Describe a service with these entries."""
    names = ", ".join(f'"{entry}"' for entry in entries)
    form = "/{application}/{service}/{entry}/…"
    return f"has several entries ({names}); call one of them, as {form} where the listener allows such paths."


def _unknown(
    names: Sequence[bytes], apps: frozenset[bytes] | set[bytes], of: str = "application", part: str = "service"
) -> str:
    app, service, *entry = names
    if app not in apps:
        return f"There is no {of} {_quoted(app)}."
    if entry:
        return f"The {of} {_quoted(app)} has no entry {_quoted(entry[0])} of a {part} {_quoted(service)}."
    return f"The {of} {_quoted(app)} has no {part} {_quoted(service)}."


def _quoted(name: bytes) -> str:
    """Return a client's name in quotes, escaped so that it is safe in a page and in a log."""
    text = _HARMLESS.sub(lambda found: b"%%%02X" % found[0][0], name[: LONGEST_NAME + 1]).decode()
    return f'"{text}"' if len(name) <= LONGEST_NAME else f'"{text[:LONGEST_NAME]}…"'


def _with_members(exchange: Exchange, reply: Reply) -> Reply:
    if (b"Content-Type", _PROBLEM) not in reply.fields:
        return reply
    assert isinstance(reply.body, bytes)
    said = orjson.loads(reply.body)
    body = orjson.dumps({**said, "code": said["status"], "error": said["detail"]})
    return Reply(reply.status, body, reply.fields, reply.fault, reply.invites)
