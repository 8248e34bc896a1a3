"""Filters for what requests say: parameters of the query."""

from fastgw.filters.policies.content.query_parameters import QueryParameters

__all__ = ["QueryParameters"]
