"""ip: allow or deny by the client's address. `filter` has the settings, `address_check` decides, `network_feed` fetches
lists of networks from URLs.
"""

from fastgw.filters.policies.ip.filter import Ip

__all__ = ["Ip"]
