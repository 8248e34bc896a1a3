"""Rules for scripts and markup in data (XSS), and for session fixation."""

from typing import Final

from fastgw.filters.policies.waf.rules.rule import (
    ARGUMENTS,
    CRITICAL,
    HEADERS_AND_ARGUMENTS,
    PATH_AND_ARGUMENTS,
    RequestPart,
    Rule,
    alternatives,
)

_XSS: Final = HEADERS_AND_ARGUMENTS | {RequestPart.PATH}
_SPACED_JAVASCRIPT: Final = b"[ \\n]?".join(bytes([letter]) for letter in b"javascript")
_SPACED_VBSCRIPT: Final = b"[ \\n]?".join(bytes([letter]) for letter in b"vbscript")
_LATIN_1_QUARTER: Final = (
    rb"(?:^|[\x00-\x7f\xc0-\xc2\xe0-\xff]|(?:^|[\x00-\x7f\xc0-\xdf\xf0-\xff])[\x80-\xbf]"
    rb"|(?:^|[^\xf0-\xf4])[\x80-\xbf][\x80-\xbf])\xbc"
)
"""The sign 1/4, which some readers of US-ASCII take for `<`, in Latin-1 or in UTF-8: not the last byte of another
character in UTF-8, as in most names of some East Asian languages."""

XSS_RULES: Final = (
    Rule(4101, "xss", CRITICAL, 1, _XSS, rb"<[ /]*(?:script|x:script|xss|noscript)\b|<[^>]*[:]script[ />]"),
    Rule(4102, "xss", CRITICAL, 1, _XSS,
         rb"(?:^|[<\"'`/ \n;=,(&\x0b\x0c])on(?:abort|activate|after[a-z]+|animation[a-z]+|auxclick|before[a-z]+|begin|"
         rb"blur|bounce|canplay[a-z]*|cellchange|change|click|close|context[a-z]+|control[a-z]+|copy|cuechange|cut|"
         rb"data[a-z]+|dbl?click|deactivate|drag[a-z]*|drop|duration[a-z]+|emptied|end(?:ed)?|error(?:update)?|"
         rb"filterchange|finish|focus(?:in|out)?|formdata|formchange|forminput|full[a-z]+|gesture[a-z]*"
         rb"|gotpointer[a-z]+|"
         rb"hashchange|help|input|invalid|key(?:down|press|up)|layoutcomplete|load(?:end|start|eddata|edmetadata)?|"
         rb"losecapture|lostpointer[a-z]+|message[a-z]*|mouse[a-z]+|moz[a-z]+|move[a-z]*|o(?:ff|n)line|open|"
         rb"outofsync|page(?:hide|show)|paste|pause|play(?:ing)?|pointer[a-z]+|popstate|progress|propertychange|"
         rb"ratechange|readystatechange|redo|repeat|reset|resize(?:end|start)?|resume|reverse|row[a-z]+|scroll[a-z]*|"
         rb"search|seek(?:ed|ing)?|select(?:ionchange|start)?|show|slotchange|stalled|start|stop|storage|submit"
         rb"|suspend|"
         rb"syncrestored|time(?:error|update)|toggle|touch[a-z]+|trackchange|transition[a-z]+|unhandledrejection|"
         rb"undo|unload|urlflip|volumechange|waiting|webkit[a-z]+|wheel|zoom)[ \n]*=[^=]"),
    Rule(4103, "xss", CRITICAL, 1, _XSS,
         rb"\b" + _SPACED_JAVASCRIPT + rb" ?:|" + _SPACED_VBSCRIPT + rb" ?:|\blivescript:|\bmocha:|"
         rb"\bdata: ?(?:text/(?:html|xml|javascript|x-)|image/svg|application/(?:xhtml|xml|javascript)|;|,"
         rb"|[a-hj-z][^,]*;base64,)|"
         rb"\bx-(?:script|schema) ?:|\bfeed:(?:javascript|data)|\bview-source:"),
    Rule(4104, "xss", CRITICAL, 1, _XSS,
         rb"<[ /!?%]*" + alternatives(
             "a(?:nimate[a-z]*|pplet|udio) base basefont bgsound blink body button comment dialog embed event-source "
             "form frame(?:set)? handler head html i(?:frame|layer|mage|mg|nput|sindex) keygen layer link listener "
             "m(?:arquee|ath|eta|aind) noembed noframes object option param plaintext select server set style svg "
             "table template textarea title video xml xmp x")
         + rb"(?:[ /+\n][^>]*)?[ /+\n\"'`](?:src|srcdoc|href|xlink:href|style|action|formaction|data|code|codebase"
         rb"|lowsrc|"
         rb"dynsrc|background|poster|http-equiv|content|folder|behavior|xmlns|to|values|from|attributename"
         rb"|allowscript[a-z]*|"
         rb"classid|rel|on[a-z]+)[ /\n]*=|<[a-z0-9]+:?[a-z0-9]* [^>]*\b(?:xmlns|xlink:href|xsi:)"
         rb"|<[a-z]+:vmlframe\b|<[ /!?%]*" + alternatives(
             "applet base bgsound embed event-source frame(?:set)? iframe ilayer isindex keygen layer marquee meta "
             "noembed object plaintext svg math xmp xml-stylesheet import") + rb"[ />\n]"),
    Rule(4105, "xss", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"\b(?:document|window|self|top|parent|frames|this)\)? ?(?:\.|\[ ?['\"`]) ?(?:cookie|domain|write(?:ln)?|body"
         rb"|location|"
         rb"url|referrer|open|name|execcommand|createelement|getelement|documentelement|eval|alert|prompt|confirm|"
         rb"localstorage|sessionstorage|opener|import|atob|settimeout|setinterval|fetch)\b|"
         rb"\.(?:innerhtml|outerhtml|parentnode|fromcharcode|insertadjacenthtml)\b|"
         rb"\bstring\.fromcharcode\b|\blocal?storage\.(?:get|set)item|\bxmlhttprequest\b|\bdocument\.(?:cookie"
         rb"|forms)\b"),
    Rule(4106, "xss", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"(?:^|[^a-z0-9_.])(?:alert|prompt|confirm|eval|settimeout|setinterval|atob|fetch|import) ?"
         rb"(?:\(|`|\(`)[^)]*(?:[\"'`/0-9.)]|document|location|window|name|self|this|top)|"
         rb"\[['\"][a-z]+['\"]\] ?\(|\(alert\)\(|=alert\b|\btop\[|\bself\[['\"/]|\bwindow\[|\(?[a-z]=alert\)?"),
    Rule(4107, "xss", CRITICAL, 1, _XSS,
         rb"\bexpression ?\(|-moz-binding ?:|\bbehaviou?r ?: ?url|@import\b ?(?:url|['\"])|\burl ?\( ?['\"]? "
         rb"?(?:javascript|"
         rb"data:|vbscript)|style ?= ?['\"]?[^'\">]*(?:expression|url\(|behaviou?r|binding)"),
    Rule(4108, "xss", CRITICAL, 1, _XSS,
         rb"<!\[cdata\[|<\?(?:xml|import)\b[^>]*>|<!--#(?:exec|include|echo|config)|<%[^>]*%?>"
         rb"|<!\[if|<!doctype html"),
    Rule(4109, "xss", CRITICAL, 1, ARGUMENTS,
         rb"['\"`] ?(?:[-+*;,|&^/]|\|\|) ?(?:alert|prompt|confirm|eval|fetch|self|window|top|document|location) "
         rb"?[(\[.`=]|"
         rb"\{\{ ?constructor\.constructor|\bconstructor\.constructor\(|\bng-(?:app|init|click)\b ?=|"
         rb"\bv-(?:html|bind|on)\b[:=]|\bx-(?:data|init|html)\b ?="),
    Rule(4110, "xss", CRITICAL, 1, ARGUMENTS,
         rb"\+/v[89+/]?|\+adw-|\+ad4-|" + _LATIN_1_QUARTER
         + rb"(?:script|(?: ?/ ?[a-z]|" + alternatives(
             "applet audio base body button embed form frame(?:set)? i(?:frame|mg|nput) link m(?:arquee|ath|eta) "
             "object style svg textarea video xml"
         ) + rb"\b)[^\xbe]*\xbe)|(?:!!? ?\[\]|\[\] ?\[|\(! ?\[\] ?\+|\+ ?\[\]\)? "
         rb"?\[|\[ ?\+ ?!)"
         rb"[()\[\]!+ ]{6,}|\bsource=[^ ]+ ?;.*\b(?:eval|with)\b"),
    Rule(4111, "xss", CRITICAL, 2, _XSS,
         rb"<[a-z/!?%][^>]*>|<(?:a|abbr|b|br|div|font|hr|i|img|input|li|p|pre|span|table|td|u|ul|strong)\b"),
    Rule(4112, "xss", CRITICAL, 2, ARGUMENTS,
         rb"[\"'`][ \n]*(?:[^a-z0-9~_:' ]|in\b)[^;]*(?:[-\w]+ ?\(|[-.\[]|\bsrc\b|=)|\bwith ?\(|\b(?:throw|typeof"
         rb"|void|new) "),
    # 943: session fixation
    Rule(4301, "fixation", CRITICAL, 1, ARGUMENTS,
         rb"\.cookie\b.*;[^\w]*(?:expires|domain|path|max-age)[^\w]*=|\bhttp-equiv[^\w]+set-cookie\b"),
)  # fmt: skip
