"""What a filter is made of. A filter is one file with one frozen struct: its settings, its manual and its factory.

`build` is pure: no I/O, no thread, no loop. It runs once for each use of the filter, before the workers are forked:
parse and precompute there. The hooks it returns live as long as the route; what belongs to one request is kept on the
exchange. API is the version of what this file offers.
"""

from enum import IntEnum
from typing import Any, ClassVar, Final, dataclass_transform

import msgspec

from fastgw.config.settings import Settings, SettingsMeta
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Hooks, Outcome, Reply

__all__ = ["API", "Env", "Exchange", "Fault", "Filter", "Hooks", "Outcome", "Phase", "Reply"]

API: Final = 1


class Phase(IntEnum):
    """Where in the running order a filter stands. Cheap refusals first; who it is before what they may do."""

    OBSERVE = 1
    ADMIT = 2
    LIMIT_CLIENT = 3
    INSPECT = 4
    # a route is found here
    AUTHENTICATE = 5
    AUTHORIZE = 6
    LIMIT_CONSUMER = 7
    VALIDATE = 8
    CACHE = 9
    TRANSFORM = 10
    CREDENTIALS = 11

    @property
    def early(self) -> bool:
        """Whether it runs before a route is found, for every request: such filters belong to gateway and listeners."""
        return self <= Phase.INSPECT

    @property
    def always(self) -> bool:
        """Whether its response and finish steps run for every answer, whoever made it."""
        return self <= Phase.ADMIT


class Env:
    """What `build` may know of where a filter stands. `instance`: its name in the configuration."""

    __slots__ = ("instance", "route")

    def __init__(self, instance: str, route: str | None) -> None:
        self.instance = instance
        self.route = route  # None: an early filter, which serves all routes of its listener


class FilterMeta(SettingsMeta):
    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str = "",
        phase: Phase | None = None,
        order: int = 0,
        **options: Any,
    ) -> Any:
        made = super().__new__(mcls, class_name, bases, namespace, **options)
        if phase is not None:
            made.type_name, made.phase, made.order = name, phase, order
        return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Filter(Settings, metaclass=FilterMeta, frozen=True):
    """The settings of a filter; `class X(Filter, name=…, phase=…)` says what it is called and when it runs."""

    type_name: ClassVar[str]
    phase: ClassVar[Phase]
    order: ClassVar[int]
    """Among the filters of one phase: lower runs earlier."""

    def build(self, env: Env) -> Hooks:
        """The hooks of one use of these settings. Raises `ValueError` when they make no sense there."""
        raise NotImplementedError
