"""JSON splices: texts that are checked, searched and merged by positions, without objects for their values."""

from fastgw.http.json_splices.splices import (
    MOST_AT_ONCE,
    OF_VALUES,
    check_text,
    elements_of,
    merge_objects,
    path_of,
    value_at,
)

__all__ = ["MOST_AT_ONCE", "OF_VALUES", "check_text", "elements_of", "merge_objects", "path_of", "value_at"]
