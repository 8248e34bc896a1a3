"""JSON projection: a JSON text with fewer members, or members with other names."""

from fastgw.http.json_projection._projection import count_separators
from fastgw.http.json_projection.projection import EACH, CostlyJson, Projection

__all__ = ["EACH", "CostlyJson", "Projection", "count_separators"]
