"""Rules of the WAF that come with fastgw: data, a module per class of attacks.

The numbers of the classes are those of the OWASP Core Rule Set without the leading 9 (942xxx: SQL injection, here
42xx); the patterns are our own. They are RE2 expressions over text as `normalization` leaves it: lower case, decoded,
comments and repeated white space squeezed; `^` and `$` also match at line ends. A space also matches a line break,
except in rules for commands (`rce`); `\\x20` is a space alone.
"""

from typing import Final

from fastgw.filters.policies.waf.rules.injection import INJECTION_RULES
from fastgw.filters.policies.waf.rules.languages import LANGUAGE_RULES
from fastgw.filters.policies.waf.rules.protocol import PROTOCOL_RULES
from fastgw.filters.policies.waf.rules.rule import Rule
from fastgw.filters.policies.waf.rules.sql import SQL_RULES
from fastgw.filters.policies.waf.rules.xss import XSS_RULES

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    *PROTOCOL_RULES,
    *INJECTION_RULES,
    *LANGUAGE_RULES,
    *XSS_RULES,
    *SQL_RULES,
)
