"""Routes from an OpenAPI document: the settings of `routes: [{openapi: …}]`, and of `x-fastgw` in the document."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Filters, FilterUse, Inner, Settings, Some
from fastgw.config.base.value_types import Destination, Duration, ReadableFile, RouteName, Size
from fastgw.config.settings.upstreams import RouteRetries, RouteTimeouts

LONGEST_BODY: Final = 128 * 1024
"""Maximum size in bytes of a body that is validated."""
Mode = Literal["enforce", "report", "off"]
ResponseMode = Literal["report", "off"]
Scheme = Annotated[FilterUse, Inner("AUTHENTICATE")]


class OperationModes(Settings):
    """Validation of an operation, where it differs from that of the others."""

    validate: Mode | None = None
    """Validation of requests."""
    responses: ResponseMode | None = None
    """Validation of responses."""


class OpenApi(Settings):
    """An OpenAPI document (3.0, 3.1 or 3.2) and what is made of it. Needs `fastgw[validate]`."""

    file: ReadableFile
    """The document: YAML or JSON. References are followed within it, and to other files in its folder; nothing is
    fetched."""
    upstream: Destination | None = None
    """Destination of the requests: the name of an upstream, or the URL of a single target. null = with `mock` only."""
    mock: bool = False
    """Whether the gateway answers itself, from the examples of the document, instead of an upstream."""
    validate: Mode = "enforce"
    """Validation of requests. `enforce`: one that does not conform is answered 400, 413 or 415; `report`: it passes,
    and log and metrics have its errors; `off`: none."""
    responses: ResponseMode = "off"
    """Validation of responses: one that does not conform passes, and log and metrics have its errors."""
    operations: Mapping[str, OperationModes] = NONE
    """Validation of single operations, by `operationId` or by method and path as in the document, such as
    `{"POST /orders": {validate: off}}`. It takes precedence over `x-fastgw`. Schemas that no validation needs are not
    compiled."""
    max_body: Annotated[Size, Meta(ge=1, le=LONGEST_BODY)] = LONGEST_BODY
    """Maximum size of a body that is validated. A longer request body is answered 413; a longer response is not
    validated. A request body with more than 16,000 arrays and objects, with more than 100 numbers such as `1e-30`, or
    with more than 8,000 comparisons of a number with those that `enum` and `const` list, is validated in a helper
    process, within 10 s, without the start of a worker's first process (at most 30 s); such a response, and such a
    request with `validate: report`, is not validated."""
    unknown_paths: Literal["pass", "refuse"] = "refuse"
    """Handling of requests below the base path for which the document has no operation. `refuse`: there is no route for
    them, so they are answered 404 or 405 unless another route matches; `pass`: they are forwarded without
    validation."""
    unknown_parameters: Literal["pass", "refuse"] = "pass"
    """Handling of query parameters that the operation does not have."""
    base_path: str | None = None
    """Path before the paths of the document, such as `/v1`. null = the path of its first server."""
    security: Mapping[str, Scheme] = NONE
    """Filters by the name of the security scheme that they implement: authentication methods, each as an object with
    one key, its type, such as `{api_key: {key_auth: {}}}`. A scheme that an operation requires has to be here."""
    docs: str | None = None
    """Path of the documentation for people, such as `/docs`; the document as JSON, without `x-fastgw`, is at
    `openapi.json` below it. null = no documentation."""


class OpenApiRoutes(Settings):
    """Routes from an OpenAPI document: one for each operation, named by its `operationId`."""

    openapi: OpenApi
    """The document."""
    name: RouteName | None = None
    """Prefix of the names of the routes, followed by a dot. null = none."""
    listeners: Some[str] = ()
    """Names of the listeners that serve the routes. Left out = all."""
    hosts: Some[str] = ()
    """Hosts, as for other routes. Left out = any host."""
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    """Priority of the routes."""
    strip_prefix: str | None = None
    """Prefix to remove from the path before the request is sent, in whole path segments."""
    timeout: Duration | None = None
    """Timeout for the response head, over all attempts. null = only the timeouts of the upstream apply."""
    timeouts: RouteTimeouts | None = None
    """Timeouts for the upstream, where they differ from `timeouts` of the upstream."""
    retries: RouteRetries | None = None
    """Retries of failed requests of these routes, where they differ from `retries` of the upstream."""
    use: tuple[str, ...] = ()
    """Names of filter sets."""
    filters: Filters = NONE
    """Filters for these routes only."""


class OperationExtension(Settings):
    """`x-fastgw` of an OpenAPI document, a path or an operation. Settings of an operation take precedence over those of
    its path, and these over those of the document; filters add up by name."""

    filters: Filters = NONE
    """Filters of the operation, such as a rate limit."""
    use: tuple[str, ...] | None = None
    """Names of filter sets, in place of those of the configuration."""
    timeout: Duration | None = None
    """Timeout for the response head, over all attempts."""
    timeouts: RouteTimeouts | None = None
    """Timeouts for the upstream."""
    retries: RouteRetries | None = None
    """Retries of failed requests."""
    validate: Mode | None = None
    """Validation of requests."""
    mock: bool | None = None
    """Whether the gateway answers from the examples."""
