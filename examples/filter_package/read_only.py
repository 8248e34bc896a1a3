"""read_only: refuse changes for a while."""

from collections.abc import Iterable

from fastgw.filters.api import Duration, Env, Exchange, Filter, Hooks, Phase, Reply, WarningContext

READING = (b"GET", b"HEAD", b"OPTIONS")


class ReadOnly(Filter, name="read_only", phase=Phase.AUTHORIZE):
    """Refuse requests that change something, such as while a database is moved. Reading goes on."""

    except_groups: tuple[str, ...] = ()
    """Groups of consumers whose changes are accepted."""
    retry_after: Duration = 60.0
    """Time after which clients may try again."""

    def build(self, env: Env) -> Hooks:
        groups = frozenset(self.except_groups)
        headers = ((b"Content-Type", b"text/plain"), (b"Retry-After", b"%d" % self.retry_after))
        refusal = Reply(503, b"Nothing can be changed here for a while.\n", headers)

        def request(exchange: Exchange) -> Reply | None:
            if exchange.method in READING:
                return None
            if exchange.consumer is not None and groups & exchange.consumer.groups:
                return None
            return refusal

        def response(exchange: Exchange) -> None:
            exchange.add_response_fields(b"X-Read-Only: yes\r\n")

        def explain(exchange: Exchange) -> str:
            return "it only reads" if exchange.method in READING else "a group that may"

        return Hooks(request=request, response=response, explain=explain)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return context.empty_groups(self.except_groups)
