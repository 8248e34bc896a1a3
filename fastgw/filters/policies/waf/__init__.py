"""Web application firewall: `filter` decides by the rules of fastgw (`rules`, `inspection`) and by the OWASP Core Rule
Set, which runs in helper processes (`crs`, `crs_program`).
"""

from fastgw.filters.policies.waf.filter import Waf

__all__ = ["Waf"]
