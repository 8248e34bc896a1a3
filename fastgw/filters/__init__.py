"""Filters: the policies of routes, how they are loaded, and how they run.

The list of those that come with fastgw is in `fastgw.filters.built_in`. It is imported with the first use of `TYPES`:
a helper process imports the filter that it works for, and no other one.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["TYPES"]

if TYPE_CHECKING:
    from fastgw.filters.built_in import TYPES
else:

    def __getattr__(name: str) -> Any:
        if name != "TYPES":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fastgw.filters.built_in import TYPES

        globals()[name] = TYPES
        return TYPES
