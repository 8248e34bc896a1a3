"""transform: bodies of requests and responses are mapped to others."""

from fastgw.filters.policies.transform.filter import Transform

__all__ = ["Transform"]
