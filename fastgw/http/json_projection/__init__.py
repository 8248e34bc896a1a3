"""JSON projection: a JSON text with fewer members, or members with other names."""

from fastgw.http.json_projection.projection import EACH, CostlyJson, Projection, count_separators

__all__ = ["EACH", "CostlyJson", "Projection", "count_separators"]
