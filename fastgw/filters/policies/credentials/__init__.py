"""credentials: credentials that the gateway sends to an API in place of the client's."""

from fastgw.filters.policies.credentials.filter import Credentials

__all__ = ["Credentials"]
