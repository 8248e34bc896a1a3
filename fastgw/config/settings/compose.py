"""Settings of composed routes: one response from several requests to upstreams."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Json, Settings, Some
from fastgw.config.base.value_types import Destination, Duration, FieldName, Method, Size, Url

_Names = Annotated[tuple[FieldName, ...], Meta(max_length=100)]
_Key = Annotated[str, Meta(min_length=1)]
PASSED = '"pass"'
"""Value of `body` for the body of the client."""


class FlatmapStep(Settings):
    """Step of a `flatmap`. Paths are dotted; `*` stands for every member or element, a number for an element."""

    type: Literal["move", "append", "del"]
    """`move`: from the first path to the second, in an array always to its end; `append`: the elements of the arrays at
    the first path, in their order, to the array at the second; `del`: remove these paths. A value stays where it is if
    its destination is below a text or number, or is a name in an array."""
    args: Annotated[tuple[_Key, ...], Meta(min_length=1, max_length=100)]
    """Dotted paths."""

    def __post_init__(self) -> None:
        if self.type != "del" and len(self.args) != 2:
            raise ValueError(f"`{self.type}` has {len(self.args)} paths; expected two")
        if self.type == "move" and self.args[1].count("*") > self.args[0].count("*"):
            raise ValueError("the second path has more `*` than the first; expected at most as many")


class StaticData(Settings):
    """Fixed members of the response, which replace those of the same name."""

    strategy: Literal["always", "success", "complete", "errored", "incomplete"] = "always"
    """When they are added. `success` and `complete`: all parts are there; `errored` and `incomplete`: a part has
    failed."""
    data: Json
    """The members: an object."""

    def __post_init__(self) -> None:
        if not self.data.startswith("{"):
            raise ValueError("`data` is no object; expected one such as {source: gateway}")


class Part(Settings):
    """One request of a composed route, and how its answer is used.

    In `path`, `headers` and `body`, `{name}` stands for a path parameter, `{query.NAME}`, `{header.NAME}` and
    `{cookie.NAME}` for values of the request, `{part.NAME.PATH}` for a value in the answer of an earlier part,
    as it was received, and `{item}` or `{item.PATH}` for the element of `for_each`; further variables are those of the
    `headers` filter. Values are encoded for their position, so that none adds a segment, a parameter or a line. If a
    value is missing, empty, or an object or array, the part fails and is not sent.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_-]*$")]
    """Name of the part, in other parts, in the log and in errors."""
    upstream: Destination
    """Upstream, by name, or the URL of a single target. Its load balancing, retries, limits, health and credentials
    apply; its other filters do not run."""
    method: Method = "GET"
    """Method of the request."""
    path: Annotated[str, Meta(pattern="^/", examples=["/users/{id}"])]
    """Path and query of the request. Parameters of the query here replace those of the client with the same name."""
    headers: Mapping[FieldName, str] = NONE
    """Headers of the request. They replace those of the client, and a `Content-Type` here that of `body`."""
    headers_to_pass: _Names = ()
    """Headers of the client's request for this part, in addition to those of all parts. Each is named: there is no
    `*`."""
    query_to_pass: Annotated[tuple[_Key, ...], Meta(max_length=100)] = ()
    """Query parameters of the client's request for this part, in addition to those of all parts; `["*"]` = all."""
    body: Json | None = None
    """Body of the request: `pass` for the client's own, with its `Content-Type`, or a value that is sent as JSON, with
    `application/json`. In it, a string that is only a variable becomes its value, a number or object of an earlier part
    unchanged. null = none."""
    after: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    """Parts that have to be answered before. If one of them fails and has no `default`, this part fails too."""
    for_each: str | None = None
    """List in the answer of an earlier part, such as `{part.orders.items}`: one request for each element. The part is
    the list of their answers in the same order, with null for those that failed, under the name `group` or `wrap`."""
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 8
    """Maximum number of requests of `for_each` in flight."""
    max: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Maximum number of elements of `for_each`. With more, the part fails and nothing is sent."""
    timeout: Duration | None = None
    """Timeout of each request of this part. null = the time that is left of the whole."""
    encoding: Literal["json", "string"] = "json"
    """`json`: the answer is JSON; `string`: it is a text in UTF-8, and becomes the member `content`."""
    required: bool = False
    """Whether the response fails if this part fails: the client then gets the part's status and body, with the headers
    that clients need for it (such as `WWW-Authenticate`, `Location`, `Retry-After`), or an error. With `for_each`, the
    first element that fails decides."""
    default: Json | None = None
    """Object that takes the place of the answer if the part fails. The response is incomplete even so."""
    is_collection: bool = False
    """Whether the answer is an array. It becomes a member with the name `wrap`."""
    wrap: _Key = "collection"
    """Name of the member for an array."""
    target: _Key | None = None
    """Dotted path of the object that is used in place of the whole answer; if there is none, an empty one."""
    allow: Annotated[tuple[_Key, ...], Meta(max_length=1000)] = ()
    """Dotted paths of the members that are used. `deny` has no effect then."""
    deny: Annotated[tuple[_Key, ...], Meta(max_length=1000)] = ()
    """Dotted paths of the members that are not used."""
    mapping: Mapping[_Key, _Key] = NONE
    """New names of members at the top, by their names in the answer."""
    group: _Key | None = None
    """Name under which the answer stands in the response. null = its members are at the top."""
    flatmap: Annotated[tuple[FlatmapStep, ...], Meta(max_length=100)] = ()
    """Steps that move values in the answer, in place of `allow`, `deny` and `mapping`."""
    error_as: _Key | None = None
    """Name under which a failure stands in the response, as `{http_status_code, http_body, http_body_encoding}`: its
    status, the first 64 KiB of its body, and its content type, as far as they were received; `{name}` is the name of
    the part. null = it does not."""

    @property
    def takes_body(self) -> bool:
        """Whether it is sent with the body of the client's request."""
        return self.body == PASSED


class Compose(Settings):
    """One response from several requests. Nothing of the client's request is sent to them, except for what the settings
    name. Answers that are no JSON in UTF-8, or have duplicate names, or are longer than `max_bytes`, are failures."""

    parts: Annotated[Some[Part], Meta(max_length=100)]
    """Requests. Their answers are merged at the top in this order; a later one replaces members of the same name."""
    timeout: Duration = 5.0
    """Timeout for all parts together. Parts without an answer by then have failed. With `no-op` it is the timeout until
    the response head."""
    sequential: bool = False
    """Whether each part waits for the one before it, as if named in `after`."""
    output: Literal["json", "no-op", "string", "xml", "negotiate"] = "json"
    """`json`: the merged answers; `xml`: the same as XML, below `doc` or the only member; `negotiate`: XML if the
    client prefers it by `Accept`, else JSON; `string`: the text in the member `content`, as `text/plain`; `no-op`:
    status, headers and body of the only part as they arrive, of any size and type."""
    all_or_nothing: bool = False
    """Whether the failure of any part, or of any element of `for_each`, is the failure of the response. All other
    requests are then cancelled."""
    completed_header: FieldName = "Fastgw-Completed"
    """Header that says whether all parts are there: `true` or `false`. No name of a header that responses have anyway,
    such as `Content-Type`."""
    headers_to_pass: _Names = ()
    """Headers of the client's request for all parts. Each is named: there is no `*`, which would pass credentials,
    conditions and ranges to every upstream."""
    query_to_pass: Annotated[tuple[_Key, ...], Meta(max_length=100)] = ()
    """Query parameters of the client's request for all parts; `["*"]` = all."""
    static: StaticData | None = None
    """Fixed members of the response. null = none."""
    flatmap: Annotated[tuple[FlatmapStep, ...], Meta(max_length=100)] = ()
    """Steps that move values in the merged response."""
    max_bytes: Annotated[Size, Meta(ge=1, le=4 * 1024**2)] = 1024**2
    """Maximum size of one answer, and of the client's body with `body: pass`; a response as XML may be eight times as
    long for each part. All of them together, and responses until their clients have read them, share the node's memory
    for held bodies (64 MiB)."""

    @property
    def destinations(self) -> tuple[str | Url, ...]:
        """Return the upstreams of all parts, each once."""
        return tuple(dict.fromkeys(part.upstream for part in self.parts))

    def order(self) -> Mapping[str, tuple[str, ...]]:
        """Return the parts that each part waits for, by its name."""
        names = [part.name for part in self.parts]
        before = {name: (names[place - 1],) if self.sequential and place else () for place, name in enumerate(names)}
        return {part.name: tuple(dict.fromkeys((*before[part.name], *part.after))) for part in self.parts}
