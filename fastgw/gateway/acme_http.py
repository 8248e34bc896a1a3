"""The challenge http-01 of ACME (RFC 8555 section 8.3): answered by every HTTP listener without TLS, before all filters
and routes. Without certificates that are verified by it, listeners do not have this step.
"""

from typing import Final

from fastgw.config.base.settings_base import FilterUse
from fastgw.config.settings.gateway import Config, Listener, ServerTls
from fastgw.filters.api import Env, Exchange, Feed, Filter, Hooks, Outcome, Phase, Reply, Services
from fastgw.sync.acme_challenges import FEED, PATH, read

NAME: Final = "acme/http-01"
"""Name of the step, which no filter of a configuration has."""


class AcmeHttp(Filter, name="acme_http", phase=Phase.OBSERVE, order=-100):  # type: ignore[literal-required]  # order: ours
    """Answer requests for the tokens of challenges in progress."""

    def build(self, env: Env) -> Hooks:
        answers: dict[bytes, bytes] = {}
        feeds: list[Feed] = []
        fields = (b"Content-Type", b"application/octet-stream"), (b"Cache-Control", b"no-store")

        def use_challenges(value: bytes) -> None:
            answers.clear()
            answers.update((PATH + token.encode(), text.encode()) for token, text in read(value).http.items())

        def start(services: Services) -> None:
            feeds.append(services.feeds[FEED])
            use_challenges(feeds[0].value)
            feeds[0].on_change(use_challenges)

        def stop() -> None:
            feeds.pop().forget(use_challenges)

        def request(exchange: Exchange) -> Outcome:
            if not answers or exchange.method not in (b"GET", b"HEAD"):
                return None
            answer = answers.get(exchange.path)
            return None if answer is None else Reply(200, answer, fields)

        return Hooks(request=request, start=start, stop=stop)


USE: Final = FilterUse(NAME, "acme_http", AcmeHttp())


def answers_http(config: Config, listener: Listener) -> bool:
    """Whether a listener answers the challenge http-01."""
    return config.acme is not None and listener.protocol == "http" and listener.tls is None and _is_used(config)


def _is_used(config: Config) -> bool:
    owners = (*config.listeners.values(), *(() if config.admin is None else (config.admin,)))
    acme = config.acme
    if acme is not None and acme.on_demand is not None and acme.on_demand.challenge == "http-01":
        return True
    return any(_has_http(each.tls) for each in owners if each.tls is not None)


def _has_http(tls: ServerTls) -> bool:
    return any(each.acme is not None and each.acme.challenge == "http-01" for each in tls.certificates)
