"""A filter for tests that responds with the token or CSRF token that an API would receive."""

FILTER = '''
from fastgw.config.settings.credentials import Basic, Csrf, OAuth2
from fastgw.filters.api import Env, Fault, FeedSource, Filter, Hooks, Phase, Reply, Secret, Services
from fastgw.filters.policies.credentials.csrf_tokens import CsrfSource, Shown, csrf_cache
from fastgw.filters.policies.credentials.messages import Unavailable
from fastgw.filters.policies.credentials.oauth_tokens import Token, TokenSource, token_cache


class ShownHere(Filter, name="shown", phase=Phase.CREDENTIALS):
    """`/`: what is held, or is had; `/refused/TOKEN`: something newer than this token; `/held`: what is there."""

    oauth2: OAuth2 | None = None
    basic: Basic | None = None
    csrf: Csrf | None = None

    @property
    def _shown(self):
        return Shown(basic=self.basic, oauth2=self.oauth2)

    def feeds(self):
        if self.oauth2 is not None:
            yield TokenSource.of(self.oauth2)
        if self.csrf is not None:
            yield CsrfSource.of(self.csrf, self._shown)

    def build(self, env: Env) -> Hooks:
        if self.csrf is not None:
            holder = csrf_cache(env, self.csrf, self._shown)
        else:
            holder = token_cache(env, self.oauth2)

        def text(held):
            if isinstance(held, Token):
                return held.line.decode().partition("Bearer ")[2].strip().encode()
            return held.token + b"".join(b";%b=%b" % pair for pair in held.cookies)

        async def obtained(exchange, seen):
            try:
                return Reply(200, text(await holder.obtain(seen)))
            except Unavailable as problem:
                fields = ((b"Retry-After", b"%d" % problem.retry_after),) if problem.retry_after else ()
                return exchange.refuse(problem.fault, fields=fields, why=problem.why)

        def request(exchange):
            held = holder.peek(exchange.begun_at)
            if exchange.path == b"/held":
                return Reply(200, b"" if held is None else text(held))
            if exchange.path.startswith(b"/refused/"):
                token = exchange.path.removeprefix(b"/refused/")
                return obtained(exchange, Token(b"Authorization: Bearer %b\\r\\n" % token))
            return obtained(exchange, None) if held is None else Reply(200, text(held))

        return Hooks(request=request, start=holder.start, stop=holder.stop)
'''
