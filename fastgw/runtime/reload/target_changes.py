"""Changes of nothing but targets: they take effect in the active generation, and no table is compiled."""

from collections.abc import Sequence

from msgspec.structs import replace

from fastgw.config import Loaded
from fastgw.config.kubernetes.provider import FILE
from fastgw.config.settings.gateway import NONE, Config, Upstream
from fastgw.config.sources.followed_files import is_discovered
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.upstream.targets.target import labels_of


def only_targets_differ(loaded: Loaded, active: Config, current: ConfigSnapshot) -> bool:
    """Whether a configuration differs from the active one in targets that a registry or a cluster has listed, and in
    nothing else, so that they can be replaced in place. Its consumers are compared by the caller.
    """
    now, before_files = loaded.config, current.captured
    files = [name for name, content in loaded.captured.items() if before_files.get(name) != content]
    if (
        not all(is_discovered(each) or each == FILE for each in files)
        or loaded.captured.keys() != current.captured.keys()
        or loaded.refused_objects != current.refused_objects
        or now.upstreams.keys() != active.upstreams.keys()
        or now.routes != active.routes
        or _rest(now) != _rest(active)
    ):
        return False
    for name, each in now.upstreams.items():
        before = active.upstreams[name]
        if each is not before and each != before and not _reached_alike(before, each):
            return False
    return True


def labels_in(upstream: Upstream) -> Sequence[str]:
    """Return the labels of an upstream's targets."""
    return labels_of(each.url for each in upstream.targets)


def _rest(settings: Config) -> Config:
    return replace(settings, upstreams=NONE, routes=(), consumers=())


def _reached_alike(before: Upstream, now: Upstream) -> bool:
    """Whether two upstreams differ in their targets only, which are reached in the same way: what is compiled of the
    others fits these.
    """
    if replace(before, targets=now.targets) != now:
        return False
    plain = all(not target.url.base_path for each in (before, now) for target in each.targets)
    return plain and (before.needs_tls == now.needs_tls or not now.targets)
