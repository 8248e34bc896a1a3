"""waf: refuse requests that look like attacks, by rules of fastgw and by the OWASP Core Rule Set."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Final, Literal, final
from urllib.parse import unquote_to_bytes

from msgspec import Meta

from fastgw.config.base.problems import format_value, suggest
from fastgw.exchange.reply import extended
from fastgw.filters.api import (
    ArgumentVerifier,
    BodyHead,
    Duration,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    ReadableFile,
    Reply,
    RequestHook,
    Settings,
    Size,
    WarningContext,
)
from fastgw.filters.policies.waf.crs import CrsUse
from fastgw.filters.policies.waf.custom_rules import LOWEST_ID, CustomRule, read_rules
from fastgw.filters.policies.waf.inspection import (
    Exclusion,
    InspectedRequest,
    Inspector,
    Match,
    RequestCopy,
    TextTooLong,
    score_of,
)
from fastgw.filters.policies.waf.rules import DEFAULT_RULES
from fastgw.http.grpc.calls import is_grpc
from fastgw.http.messages import RequestHead
from fastgw.observe.metrics.families import WAF_ATTACKS
from fastgw.wildcards import wildcard_expression

MOST_BODY: Final = 128 * 1024
AT_ONCE: Final = 2048
"""Bytes of path and query, of headers, and of a body that are inspected on the event loop: 1 ms for random text. Longer
ones go to a thread: RE2 works without the lock of the interpreter.
"""
_thread: Final = ThreadPoolExecutor(1, "waf")
_CODING: Final = b"content-encoding"
_CODING_OVERHEAD: Final = 2048
"""Maximum number of bytes by which the beginning of a compressed body may be longer than what it decompresses to: more
is no compression, but hides the body behind the bytes that are inspected.
"""
_SHOWN: Final = 12
"""Maximum number of matches in a log line."""


class Exclude(Settings):
    """Matches that do not count, because they are false positives."""

    rules: tuple[int, ...] = ()
    """Ids of rules."""
    tags: tuple[str, ...] = ()
    """Tags of rules, such as `attack-sqli`."""
    paths: tuple[str, ...] = ()
    """Paths of requests, with `*` for any characters. None = all. Not for rules of the CRS."""
    arguments: tuple[str, ...] = ()
    """Names of arguments, cookies or headers (whose case does not matter). None = all. Not for rules of the CRS."""

    def __post_init__(self) -> None:
        if not self.rules and not self.tags:
            raise ValueError("expected at least one of `rules` and `tags`")


class Crs(Settings):
    """The OWASP Core Rule Set, by libmodsecurity in helper processes of each worker."""

    rules: str = "/usr/share/modsecurity-crs"
    """Directory of the rule set, with `rules/*.conf`. It is read when a process starts. Rules that look up addresses
    (REQUEST-910) and rules for responses are not used."""
    processes: Annotated[int, Meta(ge=1, le=256)] = 1
    """Number of processes for the node, of about 80 MiB each. They are divided among the workers, of which each has at
    least one: with more workers than `processes` there are as many as workers."""
    deadline: Duration = 0.05
    """Maximum time for one request, including its time in the queue. Processes start with the worker, which accepts
    connections once they are ready or have failed; requests that come before the first of them is ready wait up to 30 s
    longer."""
    on_timeout: Literal["pass", "refuse"] = "pass"
    """Result for a request that was not inspected: the deadline has passed, the queue is full, the process has failed,
    or the body is longer than `body_bytes` and JSON or XML, which cannot be read in part. Such requests are counted in
    `fastgw_filter_helper_requests_total`. A whole body that cannot be read is refused by the rules 200002 to 200004."""


class Waf(Filter, name="waf", phase=Phase.INSPECT):
    """Web application firewall: refuse requests that look like attacks.

    Each rule that matches adds the score of its severity (critical 5, error 4, warning 3, notice 2), as in the OWASP
    Core Rule Set. A request whose score reaches `threshold` is answered 403 (`waf_blocked`) with the id of the request,
    and nothing of the rules; the log has the score, the rules and their tags. Path, query, headers and cookies are
    inspected before the route is known, the body after authentication and before it is forwarded: fields of forms,
    strings of JSON, fields and file names of `multipart/form-data`, text of XML, or the text itself. A body
    with a content coding is inspected as the filter `decompress` of the route decompresses it, and refused without it;
    bodies of upgraded connections, and of gRPC calls to upstreams with `protocol: grpc`, are not inspected.

    Rules do not replace safe code in a service: they stop known patterns, and new ones pass.
    """

    rules: Literal["default", "none"] = "default"
    """Rules of fastgw. `none`: only those of `custom`, `rules_file` and `crs`."""
    custom: tuple[CustomRule, ...] = ()
    """Rules of your own."""
    rules_file: ReadableFile | None = None
    """YAML file with a list of rules of your own, with the same settings as in `custom`."""
    paranoia: Annotated[int, Meta(ge=1, le=4)] = 1
    """Level of the rules. Level 1 has few false positives; 2 and above need exclusions for most services."""
    threshold: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Score at which a request is refused."""
    body_bytes: Annotated[Size, Meta(le=MOST_BODY)] = 16384
    """Number of bytes of a body that are inspected: the request waits for them. 0 = bodies are not inspected. All
    bodies that are held for filters share 64 MiB on the node, without 4 KiB of each (`fastgw_kept_body_bytes`); where
    none is left, the request is answered 503 (`overloaded`)."""
    long_body: Literal["pass", "refuse"] = "pass"
    """Treatment of a body longer than `body_bytes`: its rest passes without inspection, or the request is answered
    413; with `body_bytes: 0` every request with a body is, except calls of gRPC to upstreams with `protocol: grpc`."""
    max_arguments: Annotated[int, Meta(ge=1, le=2000)] = 200
    """Maximum number of parameters of a query, and of fields of a form; more are a match of rule 2001. All are
    searched."""
    exclude: tuple[Exclude, ...] = ()
    """Matches that do not count."""
    crs: Crs | None = None
    """The OWASP Core Rule Set in addition: a request is refused if either refuses it. null = it is not used."""

    def __post_init__(self) -> None:
        if self.rules == "none" and not self.custom and self.rules_file is None and self.crs is None:
            raise ValueError("no rules: expected at least one of `custom`, `rules_file` and `crs`")

    def warnings(self, context: WarningContext) -> Iterable[str]:
        workers = context.workers
        if self.crs is not None and workers is not None and self.crs.processes < workers:
            yield (
                f"`crs.processes: {self.crs.processes}` is less than `workers: {workers}`: each worker has a process, "
                f"so there are {workers}"
            )
        if self.crs is None:
            yield from self._exclusions_of_nothing()
        for path in (path for each in self.exclude for path in each.paths):
            if not path.startswith(("/", "*")):
                yield f"`exclude` has {format_value(path)}, which is the path of no request: paths begin with `/`"
        for rule in self.custom:
            if rule.paranoia > self.paranoia:
                yield (
                    f"`custom` has rule {rule.id} with `paranoia: {rule.paranoia}`, and `paranoia` of the filter is "
                    f"{self.paranoia}: the rule is not used"
                )

    def _exclusions_of_nothing(self) -> Iterator[str]:
        """Warn about exclusions of rules and tags that do not exist; those of `rules_file` are not known here."""
        rules = (*(DEFAULT_RULES if self.rules == "default" else ()), *(each.rule() for each in self.custom))
        ids = {rule.id for rule in rules}
        tags = {tag for rule in rules for tag in rule.all_tags}
        from_file = self.rules_file is not None
        for each in self.exclude:
            for number in each.rules:
                if number not in ids and not (from_file and number >= LOWEST_ID):
                    yield f"`exclude` has {number}, which is the id of no rule here"
            for tag in each.tags:
                if tag not in tags and not from_file:
                    yield f"`exclude` has {format_value(tag)}, which is the tag of no rule here; {suggest(tag, tags)}"

    def build(self, env: Env) -> Hooks:
        own = [each.rule() for each in self.custom]
        if self.rules_file is not None:
            own += [each.rule() for each in read_rules(env.read(self.rules_file), self.rules_file)]
        default = DEFAULT_RULES if self.rules == "default" else ()
        rules = tuple(rule for rule in (*default, *own) if rule.paranoia <= self.paranoia)
        doubled = {rule.id for rule in own if sum(each.id == rule.id for each in own) > 1}
        if doubled:
            raise ValueError(f"duplicate rule id {min(doubled)}")
        exclusions = tuple(map(_exclusion_of, self.exclude))
        key = "waf", rules, self.exclude, self.max_arguments
        inspector = env.shared(key, lambda: Inspector(rules, exclusions, self.max_arguments))
        crs = None if self.crs is None else CrsUse.build(env, self.crs, self.paranoia, self.threshold, exclusions)
        use = _WafUse(env.instance, self, inspector, crs, env.verifiers)
        return Hooks(
            request=RequestHook(use.request, asks="" if crs is None else "the OWASP Core Rule Set"),
            request_body=None
            if not use.awaits_body
            else BodyHead(
                use.inspect_body,
                self.body_bytes + (self.long_body == "refuse"),  # of a longer one, one byte more is seen
                _has_body_to_inspect,
                skips_calls=True,
            ),
            start=None if crs is None else crs.start,
            stop=None if crs is None else crs.stop,
            explain=use.explain,
        )


@final
class _WafUse:
    """One use of the filter."""

    __slots__ = (
        "_body_bytes",
        "_crs",
        "_inspector",
        "_instance",
        "_refuses_long",
        "_threshold",
        "_verifiers",
        "awaits_body",
    )

    def __init__(
        self,
        instance: str,
        settings: Waf,
        inspector: Inspector,
        crs: CrsUse | None,
        verifiers: Collection[ArgumentVerifier],
    ) -> None:
        self._verifiers = verifiers
        self._instance = instance
        self._inspector, self._crs = inspector, crs
        self._threshold, self._body_bytes = settings.threshold, settings.body_bytes
        self._refuses_long = settings.long_body == "refuse"
        self.awaits_body = bool(self._body_bytes) or self._refuses_long
        """Whether requests wait for the beginning of their body."""

    def request(self, exchange: Exchange) -> Outcome:
        """Inspect path, query, headers and cookies."""
        request = self._without_verified(exchange.head)
        try:
            found = self._inspector.inspect_head(request, AT_ONCE)
        except TextTooLong:
            copy = RequestCopy(request)
            return self._decide_later(
                lambda: self._inspector.inspect_head(copy), lambda found: self._decide_head(exchange, found)
            )
        return self._decide_head(exchange, found)

    def inspect_body(self, exchange: Exchange) -> Outcome:
        """Inspect the beginning of the body, together with the matches of the head."""
        body = exchange.request_body
        assert body is not None
        head = body.head(self._body_bytes)
        if self._refuses_long and body.bytes > self._body_bytes:
            return self._refuse_long(exchange)
        is_cut = not (body.ended and body.bytes == len(head))
        if not head and not is_cut:  # a content coding of nothing hides nothing
            plain = RequestCopy(exchange.head, without=_CODING)
            return self._decide_all(exchange, head, is_cut, self._find_all(plain, head))
        removed = exchange.chain.removed_codings
        if removed is not None and (codings := removed(exchange)):
            return self._inspect_coded(exchange, codings, head, is_cut)
        if len(head) > AT_ONCE:
            copy = RequestCopy(exchange.head)
            return self._decide_later(
                lambda: self._find_all(copy, head), lambda found: self._decide_all(exchange, head, is_cut, found)
            )
        return self._decide_all(exchange, head, is_cut, self._find_all(exchange.head, head))

    async def _inspect_coded(
        self, exchange: Exchange, codings: Sequence[bytes], head: bytes, is_cut: bool
    ) -> Reply | None:
        """Inspect a body as `decompress` will decompress it. One that cannot be decompressed is a body with a content
        coding.
        """
        copy = RequestCopy(exchange.head)
        in_thread = partial(asyncio.get_running_loop().run_in_executor, _thread)
        plain = await in_thread(_decompressed, codings, head, self._body_bytes, not is_cut)
        if plain is None:
            plain = b""
        else:
            copy = RequestCopy(copy, without=_CODING)
            is_cut = is_cut or len(plain) > self._body_bytes
            if self._refuses_long and len(plain) > self._body_bytes:
                return self._refuse_long(exchange)
            plain = plain[: self._body_bytes]
        outcome = self._decide_all(exchange, plain, is_cut, await in_thread(self._find_all, copy, plain))
        return outcome if outcome is None or isinstance(outcome, Reply) else await outcome

    def _is_declared_long(self, exchange: Exchange) -> bool:
        """Whether the request can be refused before its body is sent, for which a client may wait (`Expect`)."""
        is_long = self._refuses_long and (exchange.body_length or 0) > self._body_bytes
        return is_long and not _may_be_tunnel_or_call(exchange.head)

    def _refuse_long(self, exchange: Exchange) -> Reply:
        return exchange.refuse(Fault.BODY_TOO_LARGE, why=f"waf: the body is longer than {self._body_bytes} bytes")

    def _find_all(self, request: InspectedRequest, head: bytes) -> list[Match]:
        """Return the matches in the beginning of a body, and if there are any, those in the head."""
        found = self._inspector.inspect_body(request, head)
        if found:
            known = {match.rule.id for match in found}
            found += [match for match in self._inspector.inspect_head(request) if match.rule.id not in known]
        return found

    async def _decide_later(
        self, find: Callable[[], list[Match]], decide: Callable[[list[Match]], Outcome]
    ) -> Reply | None:
        """Find the matches in the thread, and decide."""
        outcome = decide(await asyncio.get_running_loop().run_in_executor(_thread, find))
        return outcome if outcome is None or isinstance(outcome, Reply) else await outcome

    def _decide_head(self, exchange: Exchange, found: list[Match]) -> Outcome:
        if found and score_of(found) >= self._threshold:
            return self._refuse(exchange, found)
        if self._is_declared_long(exchange):
            return self._refuse_long(exchange)
        if self._crs is None or (
            self.awaits_body and exchange.request_body is not None and not _may_be_tunnel_or_call(exchange.head)
        ):
            return None  # with a body, the CRS sees all at once
        return self._ask_crs(self._crs, exchange, b"", False)

    def _decide_all(self, exchange: Exchange, head: bytes, is_cut: bool, found: list[Match]) -> Outcome:
        if found and score_of(found) >= self._threshold:
            return self._refuse(exchange, found)
        return None if self._crs is None else self._ask_crs(self._crs, exchange, head, is_cut)

    def _without_verified(self, head: RequestHead) -> InspectedRequest:
        """Return the request without the arguments that another filter verifies, if there are any."""
        query = head.query
        if not query or not self._verifiers:  # PERF: to look through a set of nobody takes 8,000 instructions
            return head
        experts = [each for each in self._verifiers if each.own_path == head.path]
        if not experts:
            return head

        def is_verified(piece: bytes) -> bool:
            name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in piece.partition(b"="))
            return any(each.expects(name, value) for each in experts)

        kept = [piece for piece in query.split(b"&") if not is_verified(piece)]
        return RequestCopy(head, query=b"&".join(kept))

    async def _ask_crs(self, crs: CrsUse, exchange: Exchange, body: bytes, is_cut: bool) -> Reply | None:
        query = self._without_verified(exchange.head).query
        why = await crs.inspect(exchange, self._instance, query, body, is_cut)
        if not why:
            return None
        exchange.client.counts.count_filter(self._instance, WAF_ATTACKS["crs"])
        return _refusal(exchange, why)

    def _refuse(self, exchange: Exchange, found: Sequence[Match]) -> Reply:
        by_attack: dict[str, int] = {}
        for match in found:
            by_attack[match.rule.attack] = by_attack.get(match.rule.attack, 0) + match.rule.severity
        exchange.client.counts.count_filter(self._instance, WAF_ATTACKS[max(by_attack, key=by_attack.__getitem__)])
        return _refusal(exchange, described(found))

    def explain(self, exchange: Exchange) -> str:
        found = self._inspector.inspect_head(self._without_verified(exchange.head))
        return f"{described(found)}; threshold {self._threshold}"


def described(found: Sequence[Match]) -> str:
    """Describe the matches for log and `explain`: the score, and each rule with its tags and location."""
    texts = []
    for match in found[:_SHOWN]:
        name = match.name[:40].decode("ascii", "replace") if match.name else ""
        where = f"{match.target} {name!r}" if name else match.target
        texts.append(f"{match.rule.id} ({', '.join(match.rule.all_tags)}) in {where}")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"score {score_of(found)}" + (f": {'; '.join(texts)}{more}" if texts else "")


def _refusal(exchange: Exchange, why: str) -> Reply:
    """Return the problem (RFC 9457) with the id of the request."""
    reply = exchange.refuse(Fault.WAF_BLOCKED, why=why)
    return extended(reply, {"request_id": exchange.request_id.decode("latin-1")}) if exchange.request_id else reply


def _decompressed(codings: Sequence[bytes], head: bytes, most: int, is_whole: bool) -> bytes | None:
    """Return the decompressed beginning of a body, as `decompress_beginning` does. None: it cannot be decompressed, or
    its beginning is decompressed to nothing or to much less than its length.
    """
    if len(codings) != 1:
        return None
    try:
        from fastgw.http.content_coding.decompressors import Undecodable, decompress_beginning
    except ImportError:
        return None
    try:
        plain = decompress_beginning(head, codings[0], most, is_whole=is_whole)
    except (KeyError, Undecodable):
        return None
    return plain if is_whole or (plain and len(plain) + _CODING_OVERHEAD >= len(head)) else None


def _has_body_to_inspect(exchange: Exchange) -> bool:
    return not _opens_tunnel(exchange.head)


def _opens_tunnel(head: RequestHead) -> bool:
    return bool(head.upgrade) or head.method == b"CONNECT"


def _may_be_tunnel_or_call(head: RequestHead) -> bool:
    """Whether the body may not be inspected: for a call of gRPC by the client's word, the route decides later."""
    return _opens_tunnel(head) or is_grpc(head)


def _exclusion_of(settings: Exclude) -> Exclusion:
    paths = [re.compile(wildcard_expression(path.encode()), re.DOTALL) for path in settings.paths]
    names = frozenset(name.encode() for name in settings.arguments)
    of_headers = frozenset(name.lower() for name in names)
    return Exclusion(frozenset(settings.rules), frozenset(settings.tags), paths, names, of_headers)
