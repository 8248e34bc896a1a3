"""fastgw with an additional filter, `noop`, which lets every request pass.

`python with_noop.py run ...` is `fastgw run ...`. The filter is added to the table that the commands read when they are
called; the product is not changed. (This folder is first on the path of
programs run from it, unless Python is isolated: it has no other module.)
"""

from fastgw import filters
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase
from fastgw.filters.plugins.loader import FilterTypes


class Noop(Filter, name="noop", phase=Phase.TRANSFORM):
    """Filter that lets every request pass."""

    def build(self, env: Env) -> Hooks:
        def request(exchange: Exchange) -> Outcome:
            return None

        return Hooks(request=request)


if __name__ == "__main__":
    vars(filters)["TYPES"] = FilterTypes([*filters.TYPES.built_in.values(), Noop])
    from fastgw import cli

    cli.main()
