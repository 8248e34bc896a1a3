"""Rules for scanners, protocol attacks and requests that cannot be inspected. Rules without a pattern are checked by
`inspection`.
"""

from typing import Final

from fastgw.filters.policies.waf.rules.rule import (
    ARGUMENTS,
    CRITICAL,
    HEADERS,
    NO_TARGETS,
    PATH,
    PATH_AND_ARGUMENTS,
    WARNING,
    Rule,
    alternatives,
)

TOO_MANY_ARGUMENTS: Final = 2001
ODD_CHARSET: Final = 2002
NUL_BYTE: Final = 2003
BAD_MULTIPART: Final = 2004
ENCODED_BODY: Final = 2005
OVERLONG_UTF8: Final = 2006
SEVERAL_CONTENT_TYPES: Final = 2007
DEEP_ENCODING: Final = 2008
BAD_PERCENT: Final = 2009

_SCANNERS: Final = alternatives(
    "acunetix arachni blackwidow brutus burpcollaborator bsqlbf cgichk crowbar datacha0s dav\\.pm dirbuster dirb "
    "dotdotpwn feroxbuster fhscan fimap floodgate fuff ffuf gobuster grendel-scan havij httprint hydra iisscan "
    "jaascois jaeles jbrofuzz joomscan jorgee libwhisker masscan morfeus mysqloit n-stealth nessus netsparker "
    "nikto nmap nsauditor nuclei openvas owasp_?zap pangolin paros pmafind qualys rapid7 s\\.t\\.a\\.l\\.k\\.e\\.r "
    "skipfish sqlmap sqlninja sqlpowerinjector struts-pwn sysscan tbi-webscanner toata tplmap vega w3af wapiti "
    "webbandit webinspect webshag wfuzz whatweb whcc wpscan xsser xspider zgrab zmeu"
)

PROTOCOL_RULES: Final = (
    Rule(1301, "scanner", CRITICAL, 1, HEADERS, rb"\b" + _SCANNERS + rb"\b"),
    Rule(1302, "scanner", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"nessus_is_probing|/nikto-|acunetix[-_]?(?:wvs|test|product)|\bw00tw00t\b|appscan_fingerprint|/netsparker-|"
         rb"\bburpcollaborator\.net|\binteract\.sh\b|\boast(?:ify)?\.(?:com|pro|live|fun|me|site|online)\b|"
         rb"/thereisnowaythat|/nessustest|/muieblackcat|/jmx-console"),
    Rule(1303, "scanner", CRITICAL, 2, HEADERS,
         rb"^(?:python-(?:requests|urllib)|libwww-perl|go-http-client|java/|curl/|wget/|ruby|perl|scrapy|php/|lwp)"),
    Rule(TOO_MANY_ARGUMENTS, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(ODD_CHARSET, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(NUL_BYTE, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(BAD_MULTIPART, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(ENCODED_BODY, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(OVERLONG_UTF8, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(SEVERAL_CONTENT_TYPES, "protocol", CRITICAL, 1, NO_TARGETS, b""),
    Rule(DEEP_ENCODING, "protocol", WARNING, 2, NO_TARGETS, b""),
    Rule(BAD_PERCENT, "protocol", WARNING, 2, NO_TARGETS, b""),
    # a request or response head within data: smuggling, splitting, header injection
    Rule(2101, "protocol", CRITICAL, 1, ARGUMENTS,
         rb"^ ?(?:get|head|post|put|patch|delete|options|trace|connect|propfind|lock|move|copy)[ \n]+"
         rb"(?:/|https?:)[^ \n]*[ \n]+http/[0-9]"),
    Rule(2102, "protocol", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"\n ?(?:content-(?:type|length|encoding|disposition)|transfer-encoding|set-cookie|location|refresh|host|"
         rb"access-control-allow-origin|x-forwarded-(?:for|host)) ?:|\n ?<(?:html|meta)\b|"
         rb"\n ?(?:get|post|head|put|delete|options|connect|trace) /[^ \n]*(?:\n|$)"),
    Rule(2103, "protocol", CRITICAL, 1, PATH_AND_ARGUMENTS, rb"\bhttp/[0-9](?:\.[0-9])? [1-5][0-9][0-9] [a-z]"),
    Rule(2104, "protocol", CRITICAL, 1, PATH, rb"\n"),
    Rule(2105, "protocol", CRITICAL, 2, ARGUMENTS, rb"\n ?[a-z][a-z0-9-]{2,30} ?: ?[^ \n/]"),
    Rule(2106, "ldap", CRITICAL, 1, ARGUMENTS,
         rb"^[^:(]*\) ?[&|!]? ?\( ?(?:[&|!]|[a-z]+ ?[~<>]?=)|^[^(]*\)\( ?(?:cn|uid|mail|objectclass|objectcategory"
         rb"|userpassword|"
         rb"samaccountname|[a-z]+) ?=|\* ?\) ?\( ?[a-z|&!]|\( ?[a-z]+[~<>]?= ?\*\)"),
)  # fmt: skip
