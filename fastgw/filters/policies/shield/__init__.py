"""Filters that limit what one request may ask of an API."""

from fastgw.filters.policies.shield.graphql import Graphql

__all__ = ["Graphql"]
