"""Filters that limit what one request, or a sequence of them, may ask of an API."""

from fastgw.filters.policies.shield.graphql import Graphql
from fastgw.filters.policies.shield.misdirected import Misdirected
from fastgw.filters.policies.shield.sequence import CallSequence

__all__ = ["CallSequence", "Graphql", "Misdirected"]
