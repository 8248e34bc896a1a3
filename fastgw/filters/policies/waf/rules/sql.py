"""Rules for SQL injection. Text in quotes and prose with words of SQL pass: a rule wants what only a statement has.

`\\x20` stands where lines of ordinary text begin so: with an item of a list, a heading or a rule of Markdown, a comment
of a program, or a signature.
"""

from typing import Final

from fastgw.filters.policies.waf.rules.rule import (
    CRITICAL,
    ERROR,
    HEADERS_AND_ARGUMENTS,
    PATH_AND_ARGUMENTS,
    WARNING,
    Rule,
    alternatives,
)

_SQL: Final = PATH_AND_ARGUMENTS | HEADERS_AND_ARGUMENTS
_QUOTE: Final = rb"[\"'`]"
_VALUE: Final = rb"(?:\(* ?(?:[\"'`][^\"'`]*[\"'`]?|-?[0-9][0-9a-fx.]*|null|true|false|@@?[a-z_]+|[a-z_][\w.]*) ?\)*)"
_COMPARES: Final = (
    rb"(?:[<>]?=[<>]?|<>|!=|[<>]|\b(?:s?like|rlike|regexp|between|sounds like)\b ?[\"'`(0-9%@!~]|\bin ?\( ?[\"'`0-9s@(]"
    rb"|\bis (?:not )?(?:null|true|false|unknown|[0-9(]))"
)
"""Comparisons. A word is one before a value that is no word: `"salt" and pepper is fine` compares nothing."""
_COMPARES_NAMES: Final = (
    rb"[\w.`]+ (?:not )?(?:(?:s?like|rlike|regexp|sounds like) [\w.`]+|between [\w.`]+ and [\w.`]+|in ?\( ?[\w.`]+ ?\)"
    rb"|is (?:not )?[\w.`]+)"
)
"""Comparison of names by a word. A text may have one, too: it counts before what ends a statement or opens a string."""
_FUNCTIONS: Final = alternatives(
    "ascii benchmark bin cast char_length chr concat(?:_ws)? conv current_(?:date|time|user) database decode "
    "des_(?:de|en)crypt elt encode encrypt export_set extractvalue field find_in_set from_base64 "
    "generate_series group_concat hex iif ifnull instr isnull is_(?:srv)?rolemember json_(?:keys|extract|value) "
    "last_insert_id least left load_file load_extension locate lpad ltrim make_set master_pos_wait md5 mid name_const "
    "nchar nullif oct octet_length old_password ord openrowset openquery pg_(?:client_encoding|sleep|read_file|ls_dir) "
    "quarter quote randomblob reverse row_count rpad rtrim schema session_user sha[12]? sleep soundex space "
    "sqlite_version std(?:dev(?:_pop|_samp)?)? strcmp strftime substr(?:ing)?(?:_index)? sysdate system_user "
    "sys_context to_(?:base64|char|date|number) try_parse typeof uncompress(?:ed_length)? unhex unicode updatexml "
    "user user_(?:id|name) utl_(?:http|inaddr)\\.[a-z_]+ uuid var(?:_pop|_samp)? version xmltype xpath"
)

SQL_RULES: Final = (
    # a comparison that is always true, after a quote or a number that ends the value of the statement
    Rule(4201, "sqli", CRITICAL, 1, _SQL,
         _QUOTE + rb" ?\)* ?(?:\bx?or\b|\band\b|\|\||&&|\bdiv\b|\blike\b|\bbetween\b|\bwhere\b|\bhaving\b)[ "
         rb"('\"`!~+@-]*"
         + _VALUE + rb" ?" + _COMPARES
         + rb"|" + _QUOTE + rb" ?\)* ?(?:x?or\b|and\b|\|\||&&) ?\(* ?(?:not )?" + _COMPARES_NAMES
         + rb" ?\)* ?(?:--|#|(?:x?or\b|and\b|\|\||&&) ?\(* ?[\"'`][^\"'`]*$)"),
    Rule(4202, "sqli", CRITICAL, 1, _SQL,
         rb"(?:^|[ ('\"=,)])-?[0-9]+[\"'`)]* (?:x?or|and|&&|\|\||having|where) [ ('\"`!~+-]*(?:not "
         rb")?[\"'`]?-?[0-9]+[\"'`)]* ?"
         + _COMPARES + rb"|\b(?:x?or|and) ?\(? ?(?:[0-9]+|[\"'`][0-9a-z]+[\"'`]?) ?=+ "
         rb"?[\"'`]?[0-9a-z]+[\"'`)]*(?: ?--|"
         rb" ?#| ?;|$)"),
    Rule(4203, "sqli", CRITICAL, 1, _SQL,
         _QUOTE + rb"(?: ?(?:=|<|<>|<=>|!=|\|\||&&|\^|~|%|\bdiv\b|\bmod\b|\bsounds\b) ?|\x20?[+*-] ?|\x20?>\x20?"
         rb"|\n[>+*-]\n?)(?:" + _QUOTE
         + rb"|[0-9]+ ?(?:$|--|#)|\(select\b|char\()|^ ?" + _QUOTE + rb" ?(?:x?or|and|\|\||&&)\b? ?[\"'`(0-9!~@-]"),
    Rule(4204, "sqli", CRITICAL, 1, _SQL,
         rb"[\"'`] ?union(?:/| s$| ?\(| (?:all|distinct|select|values|table)\b)|"
         rb"\bunion[ (]+(?:all[ (]*|distinct[ (]*)?(?:\(? ?select\b[ "
         rb"(]*(?:[0-9'\"`@*(!~+-]|null\b|"
         rb"[\w.@]+ ?[,(]|\w+ from\b|distinct |top )|\(+ ?(?:select|values|table)\b|values ?\()"),
    Rule(4205, "sqli", CRITICAL, 1, _SQL,
         rb"; ?(?:drop|create|alter|truncate|rename) (?:table|database|view|procedure|function|schema|user|index|"
         rb"trigger|column|role|login)\b|; ?(?:insert into|update [\w.`]+ set [\w.`]+ ?=|delete from \w|replace into|"
         rb"exec(?:ute)? (?:xp_|sp_|master|immediate|[(@])|declare @?\w+ ?(?:[,;@]|n?varchar|n?char|int|cursor"
         rb"|table|$)|"
         rb"shutdown ?(?:;|-|$|with)|grant [\w, ]+ on |revoke [\w, ]+ on |waitfor |load data|set @|pragma \w|"
         rb"attach database|copy \w+ (?:from|to) |select (?:[\w.*@`]+ ?,|\*|[@0-9('\"]|[\w.`]+ from\b|\w+ ?\())"),
    Rule(4206, "sqli", CRITICAL, 1, _SQL,
         rb"[\"'`)] ?(?:; ?)?\b(?:drop|create|alter|truncate) (?:table|database|view|procedure|function|schema|user"
         rb"|index) (?:if (?:not )?exists )?[\w`\"\[.]+ ?(?:;|--|#|/|$|\()|"
         rb"[\"'`)] ?(?:; ?)?(?:insert into [\w.`]+ ?(?:\(|values|select)|delete from [\w.`]+ ?(?:where|;|--|#|/|$)"
         rb"|update [\w.`]+ set|exec(?:ute)? (?:xp_|sp_|master|immediate|[(@'\"])|waitfor delay"
         rb"|shutdown ?(?:;|--|with))|"
         rb"[\"'`)] ?; ?shutdown\b|"
         rb"\b(?:alter|drop|create|truncate) (?:table|database|schema|procedure) (?:if (?:not )?exists "
         rb"|[\w`\"\[.]+ ?(?:--|\(|character set|convert to))|\balter [a-z]+ .*\bcharacter set\b"),
    Rule(4207, "sqli", CRITICAL, 1, _SQL,
         rb"\b(?:sleep|benchmark|pg_sleep|randomblob|load_file|extractvalue|updatexml|master_pos_wait|name_const|"
         rb"dbms_\w+\.\w+|utl_(?:http|inaddr|file)\.\w+|xp_\w+|sp_(?:executesql|password|oacreate|makewebtask"
         rb"|configure|help\w*|"
         rb"addlogin|sqlexec|replwritetovarbin)|load_extension|lo_(?:import|export)|pg_(?:read_file|ls_dir)|"
         rb"openrowset|openquery|opendatasource|httpuritype|ctxsys\.\w+(?:\.\w+)?|exp|geometrycollection|gtid_subset|"
         rb"json_keys|procedure analyse|current_setting|query_to_xml|database_to_xml|group_concat|"
         rb"char_length|row_count|last_insert_id|sqlite_version|waitfor) ?\([^)]*[0-9a-z'\"`@*(]|"
         rb"\bwaitfor (?:delay|time) ?['\"`]|\bprocedure analyse\b|\bxp_(?:cmdshell|reg\w+|dirtree|fileexist"
         rb"|loginconfig|"
         rb"servicecontrol|availablemedia|enumdsn|enumerrorlogs|enumgroups|execresultset|filelist|grantlogin|logevent|"
         rb"makecab|msver|ntsec|terminate\w*|revokelogin)\b|\bsp_executesql\b|\bdbms_(?:java|pipe|lock|ldap"
         rb"|scheduler)\b"),
    Rule(4208, "sqli", CRITICAL, 1, _SQL,
         rb"\binformation_schema\b|\bsys(?:objects|columns|databases|users|logins|tables|fulltextcatalogs|filegroups|"
         rb"constraints|segments|indexes|processes)\b|\bsys\.(?:user_\w+|all_\w+|tab|tables|databases|objects|columns|"
         rb"dba_\w+|schema\w*|x\$\w+|v_\$?\w+)|\bpg_(?:catalog|class|database|user|shadow|tables|attribute)\b|"
         rb"\bsqlite_(?:temp_)?(?:master|schema)\b|\bmysql\.(?:user|db|host|tables_priv)\b|\bmsys(?:aces|objects"
         rb"|queries|"
         rb"relationships|accessobjects|accessstorage|modules2?|acees|relationships)\b|\b(?:all|user"
         rb"|dba)_(?:objects|tables|"
         rb"tab_columns|tab_privs|constraints|ind_columns|col_privs|users|views)\b|@@(?:version|hostname|datadir"
         rb"|basedir|"
         rb"global|session|servername|innodb\w+|spid|pack_received)|\bv\$(?:version|session|instance)\b|\bmaster\.\.|"
         rb"\bnorthwind\.|\btempdb\b|\bmsdb\b|\bdatabase_principal|\bperformance_schema\b|\bfrom dual\b|\bdual ?--"),
    # what ends a statement early
    Rule(4209, "sqli", CRITICAL, 1, _SQL,
         _QUOTE + rb"\x20?[)]*\x20?(?:--(?:[ -+\n]|$)|#(?: |$|\n)|; ?$)|^ ?\w*" + _QUOTE + rb"\x20?(?:--|#)|"
         rb"[0-9)]\x20?;?\x20?-- ?-?$|;\x20?--|"
         + _QUOTE + rb" ?[)]* ?(?:;--|/\*!?|;%00)|\A ?\w*" + _QUOTE + rb"[)]*\n(?:--|#)|"
         rb"\A[^\x20]*[\"'`0-9);]\n(?:; ?)?(?:--(?:[ +]-?)?|# ?)\z|"
         rb"\b(?:or|and) [^ ]+ ?=[^ ]* ?--|/\*![0-9]{0,6}|\*/ ?(?:union|select|or|and)\b"),
    Rule(4210, "sqli", CRITICAL, 1, _SQL,
         rb"\binto (?:out|dump)file\b|\bload (?:data|xml)\b.*\binfile\b|\bselect\b.*\binto (?:outfile|dumpfile|@)|"
         rb"\bselect (?:@@?\w|0x[0-9a-f]|char\(|chr\(|count ?\(|sleep ?\(|version ?\(|user ?\(|database ?\(|concat "
         rb"?\(|load_file|"
         rb"cast ?\(|hex ?\(|if ?\(|[0-9'\"`]+ ?(?:--|#|;|=|\||\+|/)|(?:null|[0-9]+),(?:null|[0-9]))|"
         rb"\bselect\b[^;]*\bfrom\b[^;]*(?:\bwhere\b[^;]*(?:=|<|>|\blike ?[\"'`(%]|\bin ?\()|\blimit [0-9]|"
         rb"--|#)|\bselect\b ?\*|\b(?:select|delete|update|insert|count)\b[^a-z]*\( ?select\b|\bdelete from "
         rb"[\w.`]+ ?where [\w.`(]+ ?(?:[=<>!]|\blike ?[\"'`(%]|\bin ?\()|"
         rb"\binsert into [\w`.\[\]]+ ?(?:\([^)]*\) ?)?(?:values ?\(|select\b)|\bupdate [\w`.\[\]]+ set [\w`.]+ ?="),
    Rule(4211, "sqli", CRITICAL, 1, _SQL,
         rb"(?:[\"'`)]|[0-9]) ?(?:order|group) by (?:[0-9]+|\(|[\w`]+ ?(?:--|#|,|desc\b|asc\b))|\bhaving "
         rb"[\"'`]?[0-9]+[\"'`]? ?[=<>]|"
         rb"\b(?:order|group) by [0-9]+ ?(?:--|#)|\blimit [0-9]+ ?(?:,|offset) ?[0-9]+ ?(?:--|#|into|procedure"
         rb"|union)|"
         rb"[\"'`] ?(?:having (?:[^a-z]|[\w.`]+(?:\(| ?[=<>]))|limit [0-9(]|procedure analyse|rlike\b|regexp\b"
         rb"|collate\b)|"
         rb"\bcase when .*[=<>(].* then\b|\bif ?\( ?.*[=<>].*,.*,.*\)|"
         rb"\bcoalesce ?\([^)]*select|\(select\b|\bexists ?\( ?select\b|\bselect[ (].*\bcase when\b|"
         rb"\blike ?\( ?[\"'`]"),
    Rule(4212, "sqli", CRITICAL, 1, _SQL,
         rb"(?:[\"'`)0-9,=(|&+*/%-]|\bor |\band |\bselect |\bwhere |\bby |\blike |\bunion |\bset )[ (]*!?" + _FUNCTIONS
         + rb" ?\([^)]*(?:\)|$)(?: ?(?:[=<>|&,;#'\"`+*/%-]|--|\)|or\b|and\b|from\b|is\b|in\b|$))"),
    Rule(4213, "sqli", CRITICAL, 1, _SQL,
         rb"\bcreate (?:or replace )?(?:function|procedure) [\w.`]+ ?\(.* (?:returns?|as|is|begin)\b|\bexec(?:ute)? "
         rb"(?:immediate [\"'`]|master\.|xp_|sp_|"
         rb"\( ?[@'\"])|\bset @\w+ ?=|\bdeclare ?@\w"
         rb"|[)`] ?as [\w`\"]+ from ?$|[0-9] as [\"'`]\w+[\"'`] from\b|"
         rb"\bselect pg_sleep|\b(?:current_user|db_name|database|user|version)\( ?(?:\)"
         rb"|$|=)|\bprint @@"
         rb"|\bgrant .* to .* identified by [\"'`]|"
         rb"\bsp_password\b|\blocal\(\)|\bbulk insert \w+ from [\"'`]|\bmerge .* using ?\( ?select\b|\bdiv 0\b|"
         rb"\bselect .* (?:into ?@|over ?\( ?(?:\)|order by|partition by))"),
    # numbers and names that only attacks write so
    Rule(4214, "sqli", CRITICAL, 1, _SQL,
         rb"(?:^|[ (=,])(?:0x[0-9a-f]{3,}[a-f0-9]*) ?(?:[,)]|--|#|=|$)[^ ]*(?:select|union|from|or )|\bn?char ?\( "
         rb"?[0-9]+ ?[,)]|"
         rb"\bchr ?\( ?[0-9]+ ?\) ?(?:\|\||\+|,|from|and)|\b(?:un)?hex ?\( ?[0-9a-f'\"(]|\bconcat(?:_ws)? ?\( "
         rb"?(?:0x|char|[\"'`(@]|select|"
         rb"version|user|database)|\bb?'[01]{3,}'|^ ?(?:-?2147483648|-?2147483647|4294967296|0000012345|1e309"
         rb"|2\.2250738585072011e-308|"
         rb"2\.2250738585072007e-308|2\.2\.90738585072007e-308)$"),
    # words of a statement that a text may have, too: alone they do not refuse it
    Rule(4215, "sqli", WARNING, 1, _SQL,
         rb"\bunion (?:all )?select ?$|\bselect (?:[0-9]+|null|password|case when)\b|"
         rb"\bselect\b[^;]*\bfrom\b[^;]*\b(?:group|order) by\b|\bdelete from [\w.`]+|"
         rb"\binsert into [\w`.\[\]]+ ?(?:\(|values\b)|"
         rb"\b(?:alter|drop|create|truncate) (?:table|database|schema|procedure) [\w`\"\[.]+|"
         rb"\bcreate (?:or replace )?(?:function|procedure) .* (?:returns?|as|is|begin)\b|"
         rb"\bdeclare \w+ (?:varchar|nvarchar|int|char|cursor|table)\b|\bexec(?:ute)? (?:immediate|master)\b|"
         rb"[)`] ?as [\w`\"]+ from\b|\bbulk insert\b|\bmerge .* using ?\(|\breferences \w+ ?\(|"
         rb"\bselect .* (?:into|over) ?\(|\bcase when .* then\b|\bdual\b ?(?:#|where|union)"),
    # paranoia 2 and above: single signs and words
    Rule(4250, "sqli", CRITICAL, 2, _SQL, rb"\b" + _FUNCTIONS + rb"\b[^\w]*\("),
    Rule(4251, "sqli", CRITICAL, 2, _SQL,
         rb"[\"'`][ )]*(?:or|and|xor|not|like|between|union|select|where|having|group|order|is|in|having|limit|div|mod|"
         rb"regexp|rlike|sounds|binary|from|as|[<>=!~^|&*%])|\b(?:or|and|xor|not|\|\||&&)\b[ "
         rb"(+-]*(?:[\"'`][^\"'`]*[\"'`]?|[0-9]+|"
         rb"[a-z_.]+) ?(?:[=<>!]|like|is|in|between)"),
    Rule(4252, "sqli", CRITICAL, 2, _SQL,
         rb"--|#[^a-z0-9/]|/\*|\*/|;[^a-z0-9]*(?:[a-z]|$)|[\"'`]\s*$|^\s*[\"'`]|@@|[\"'`] ?[,;)]|[\"'`][^\w]+[\"'`]"),
    Rule(4253, "sqli", CRITICAL, 2, _SQL,
         rb"\b(?:union|select|insert|update|delete|drop|create|alter|truncate|declare|exec(?:ute)?|merge|grant"
         rb"|revoke|replace|having|"
         rb"rename|desc|load|call|into|as|overlaps|procedure|analyse|trigger|cursor)\b[^\w]+(?:\w+[^\w]+)*(?:from"
         rb"|into|table|set|"
         rb"values|where|select|by|database|function|procedure|infile|view|using|\()"),
    Rule(4254, "sqli", CRITICAL, 2, _SQL,
         rb"(?:^|[^\w])[0-9]+ ?(?:[=<>!^|&*/%-]|or|and|xor|like|is|in|between|div|mod) ?[\"'`(]?[0-9a-z]|"
         rb"[!=<>]{1,2} ?[\"'`]|\bcollate \w|\bregexp\b|\brlike\b|\bsounds like\b|(?:0x[0-9a-f]+)"),
    Rule(4255, "sqli", ERROR, 3, _SQL, rb"(?:[~!@#$%^&*()+={}\[\]|:;\"'`<>-][^~!@#$%^&*()+={}\[\]|:;\"'`<>-]*){8,}"),
    Rule(4256, "sqli", CRITICAL, 3, _SQL, rb"[\"'`]|\bin ?\(|\b(?:having|select|union|where|order by|group by)\b"),
    Rule(4257, "sqli", CRITICAL, 4, _SQL, rb"[~!@#$%^&*()+={}\[\]|:;\"'`<>]"),
)  # fmt: skip
