"""Filters for what requests say: parameters of the query, and JSON by its schema."""

from fastgw.filters.policies.content.query_parameters import QueryParameters
from fastgw.filters.policies.content.validate import Validate

__all__ = ["QueryParameters", "Validate"]
