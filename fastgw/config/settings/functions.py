"""Settings of routes whose back end is a function."""

from typing import Annotated, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_types import Destination, Duration, Size

MOST_PAYLOAD = 6 * 1024**2
"""Maximum bytes of an event and of a response that is not streamed, as Lambda has it."""


class Lambda(Settings):
    """Function of AWS Lambda that answers the requests of a route.

    Each request is an invocation of the function with an event, as API Gateway makes it. The requests to Lambda are
    signed by the filter `credentials` of the upstream (`aws_sigv4`).
    """

    upstream: Destination
    """Lambda itself, by the name of an upstream or as a URL: `https://lambda.REGION.amazonaws.com`. Its load balancing,
    retries, limits, health and credentials apply; its other filters do not run."""
    function: Annotated[str, Meta(pattern="^[A-Za-z0-9_:-]{1,170}$", examples=["orders"])]
    """Name or ARN of the function."""
    qualifier: Annotated[str, Meta(pattern="^[A-Za-z0-9$_-]{1,128}$")] | None = None
    """Version or alias. null = the latest version."""
    payload_format: Literal["1.0", "2.0"] = "2.0"
    """Format of events and responses, as of API Gateway. `1.0` has `multiValueHeaders`; with `2.0` a result without
    `statusCode` is the body itself."""
    streaming: bool = False
    """Whether the function streams its response (`InvokeWithResponseStream`). Otherwise the response has 6 MiB at
    most."""
    timeout: Duration = 30.0
    """Timeout for the whole response; with `streaming`, until the head of the response."""
    max_bytes: Annotated[Size, Meta(ge=1, le=MOST_PAYLOAD)] = 1024**2
    """Maximum size of the body of a request, and of a response that is not streamed. The event has 6 MiB at most.
    Both count towards the node's memory for held bodies (64 MiB), responses until their clients have read them."""
