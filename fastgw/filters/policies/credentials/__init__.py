"""credentials: what the gateway shows an API in place of the client."""

from fastgw.filters.policies.credentials.filter import Credentials

__all__ = ["Credentials"]
