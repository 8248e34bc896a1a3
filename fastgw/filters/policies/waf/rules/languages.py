"""Rules for code of PHP, Java and JavaScript, templates, queries of document databases, and XML entities."""

from base64 import b64encode
from typing import Final

from fastgw.filters.policies.waf.rules.rule import (
    ALL,
    ARGUMENTS,
    CRITICAL,
    HEADERS_AND_ARGUMENTS,
    PATH_AND_ARGUMENTS,
    Rule,
    alternatives,
)

_PHP_RISKY: Final = alternatives(
    "assert array_(?:diff_u?key|filter|map|reduce|udiff|uintersect|walk)(?:_[a-z]+)? base64_(?:de|en)code bzdecompress "
    "bzopen call_user_(?:func|method)(?:_array)? chmod chgrp chown convert_uudecode create_function curl_(?:exec|init) "
    "dirname dl error_log escapeshell(?:arg|cmd) eval exec exif_[a-z]+ extract file file(?:atime|group|inode|owner|"
    "perms|size|type) file_(?:get|put)_contents fileperms fopen fputs fread fsockopen ftp_[a-z]+ fwrite func_get_args "
    "function_exists get_(?:cfg_var|current_user|defined_[a-z]+|loaded_[a-z]+|meta_tags) gethostbyname getcwd getenv "
    "getmy[gpu]id getlastmod glob gz(?:compress|decode|encode|file|inflate|open|passthru|uncompress) hex2bin "
    "highlight_(?:file|string) image[a-z0-9]+ in(?:clude|i)_(?:get|set|restore) is_(?:dir|executable|file|link"
    "|readable|"
    "writable) iterator_apply link lstat mail mb_ereg(?:_replace)?(?:_callback)? mcrypt_[a-z]+ md5(?:_file)? "
    "mkdir move_uploaded_file mysql_[a-z]+ ob_[a-z]+ opendir openssl_[a-z]+ parse_(?:ini_file|str) passthru pathinfo "
    "pcntl_(?:exec|fork) pfsockopen pg_[a-z]+ php(?:_uname|credits|info|version) popen posix_[a-z]+ "
    "preg_(?:match|replace|grep|quote|split)(?:_[a-z]+)? print_r proc_(?:close|get_status|nice|open|terminate) "
    "putenv readfile readgzfile readdir readlink register_(?:shutdown|tick)_function rename rmdir rot13 "
    "scandir session_[a-z_]+ set_(?:error|exception)_handler setlocale sha1(?:_file)? shell_exec shmop_[a-z]+ "
    "show_source simplexml_load_(?:file|string) sleep spl_autoload_register sqlite_[a-z]+ str_(?:rot13|replace|repeat) "
    "stream_[a-z_]+ strrev substr symlink sys_get_temp_dir syslog system tempnam tmpfile touch uasort uksort umask "
    "unlink unpack unserialize urldecode usort uudecode var_dump zlib_decode "
    "bin2hex chr ord is_a count key rand round"
)
_PHP_STREAM: Final = (
    rb"\bphp://(?:std(?:in|out|err)|(?:in|out)put|fd|memory|temp|filter)|"
    rb"\b(?:zlib|phar|expect|glob|data|ogg|rar|ssh2(?:\.[a-z]+)?|compress\.(?:zlib|bzip2))://"
)
_JAVA_CLASSES: Final = (
    rb"\b(?:java\.(?:runtime|process)|java\.(?:io|lang|util|net|nio|beans|rmi|sql|security|awt)\.[a-z]|"
    rb"javax?\.(?:script|naming|management|el|imageio)\.[a-z]|com\.opensymphony\.|"
    rb"com\.sun\.(?:jndi|rowset|org\.apache)|freemarker\.template|"
    rb"org\.apache\.(?:commons|struts2?|xalan|catalina|tomcat|logging|batik|ibatis|myfaces|wicket)\.|"
    rb"org\.(?:omg\.corba|springframework|codehaus\.groovy|hibernate|mozilla\.javascript|jboss|python\.core)\.|"
    rb"groovy\.lang\.|sun\.(?:misc|reflect|tracing)\.|ognl\.[a-z]|bsh\.interpreter|net\.sf\.(?:json|cglib)\.)"
)


def _in_base64(words: str) -> bytes:
    """Return the alternation of words within base64, for each of their three alignments, in lower case."""
    found = []
    for word in words.split():
        for offset in range(3):
            text = b64encode(bytes(offset) + word.encode())
            found.append(text[(0, 2, 3)[offset] : (offset + len(word)) * 8 // 6].decode().lower())
    return alternatives(" ".join(each.replace("+", "\\+") for each in found))


LANGUAGE_RULES: Final = (
    # 933: PHP
    Rule(3301, "php", CRITICAL, 1, HEADERS_AND_ARGUMENTS,
         rb"<\?(?:php|=|[ \n]|$)|\[/?php\]|<%? ?script language ?=.?php"),
    Rule(3302, "php", CRITICAL, 1, HEADERS_AND_ARGUMENTS, _PHP_STREAM),
    Rule(3303, "php", CRITICAL, 1, ARGUMENTS,
         rb"\$_(?:get|post|request|server|cookie|files|env|session)\b|\$\{? ?(?:_|globals\b|http_(?:cookie|get"
         rb"|post|raw|"
         rb"server|env|session)_?[a-z_]*|php_errormsg|argv|argc|this->)|\bhttp_(?:get|post|cookie|server|env"
         rb"|session|request|"
         rb"raw_post)_(?:vars|data|files)\b"),
    Rule(3304, "php", CRITICAL, 1, ARGUMENTS,
         rb"\b(?:allow_url_(?:fopen|include)|auto_(?:ap|pre)pend_file|disable_(?:functions|classes)|open_basedir|"
         rb"safe_mode(?:_[a-z_]+)?|suhosin\.[a-z._]+|cgi\.force_redirect|error_(?:ap|pre)pend_string|display_errors|"
         rb"magic_quotes_[a-z]+|register_(?:globals|argc_argv|long_arrays)|session\.[a-z0-9_]+|mbstring\.[a-z_]+|"
         rb"assert\.[a-z_]+|include_path|log_errors|mail\.[a-z_]+|opcache\.[a-z_]+|sendmail_(?:from|path)|"
         rb"unserialize_callback_func|user_ini\.filename|zend\.[a-z_]+|extension_dir|enable_dl|open_basedir|"
         rb"output_(?:buffering|handler)|post_max_size|upload_tmp_dir|expose_php|docref_(?:ext|root)|html_errors|"
         rb"max_execution_time|memory_limit|doc_root|default_(?:mimetype|charset)|arg_separator\.[a-z]+) ?="),
    Rule(3305, "php", CRITICAL, 1, ARGUMENTS,
         rb"\b" + _PHP_RISKY + rb" ?(?:\(|/\*)[^)]*(?:\)|$)(?: ?[;.,)|&?\]}'\"]|$| ?//| ?#| ?/\*)"),
    Rule(3306, "php", CRITICAL, 1, HEADERS_AND_ARGUMENTS, rb"\b[oc]:[0-9]+:\"[^\"]*\":[0-9]+:\{"),
    Rule(3307, "php", CRITICAL, 1, ARGUMENTS,
         rb"\b(?:bzdecompress|call_user_func|base64_decode|chr|create_function|convert_uudecode|file_get_contents|"
         rb"file_put_contents|fsockopen|gzinflate|move_uploaded_file|passthru|phpinfo|popen|proc_open|shell_exec|"
         rb"str_rot13|posix_getuid|readfile|gzuncompress|eval|assert|system|exec|unlink)[ \n]?\( ?[\"'$)\w]|"
         rb"\b(?:array_(?:diff_u?key|intersect_ukey)|mb_ereg_replace_callback|preg_replace_callback|"
         rb"register_shutdown_function|register_tick_function|spl_autoload_register|sqlite_createfunction|"
         rb"stream_context_create|bson_encode|bson_decode|bcompiler_[a-z_]+|wddx_[a-z]+|yaml_parse)\b"),
    Rule(3308, "php", CRITICAL, 1, ARGUMENTS,
         rb"\$[a-z_]\w*(?:\[[^]]*\]|->\w+|\{[^}]*\})* ?\([^)]*\)|\$[a-z_]\w*\[?[^ ]* ?= ?[\"'(\[$]|"
         rb"(?:\(|\[)['\"][a-z_0-9]+['\"](?:\)|\])(?:\[[^]]*\])* ?\([^)]*\)|\([a-z_]+\)\([^)]+\) ?;|"
         rb"\( ?string ?\) ?[\"']|(?:\( ?\( ?|\[ ?)['\"]\w+['\"].* ?[.^|] ?['\"]"),
    Rule(3311, "php", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"base64_decode|call_user_func|bzdecompress|convert_uudecode|create_function|file_(?:get|put)_contents|"
         rb"fsockopen|gzinflate|gzuncompress|move_uploaded_file|shell_exec|proc_open|str_rot13|posix_getuid|"
         rb"\$\{[^}]*\} ?\([^)]*\)|\([a-z_]*(?:system|exec|passthru|popen|eval|assert|phpinfo)[a-z_]*\) ?\("
         rb"|\([a-z]+\.\([a-z]+\)\.[a-z]+\)\(|\[ ?[a-z_]{3,} ?\] ?\[ ?[0-9]+ ?\] ?\("),
    Rule(3309, "php", CRITICAL, 1, HEADERS_AND_ARGUMENTS, rb"^filename=[^\"]*\.(?:php[0-9]?|phtml|phar|pht"
         rb"|phps)\.*$"),
    Rule(3310, "php", CRITICAL, 3, ARGUMENTS, rb"\b[a-z_]{2,}[0-9]* ?\([^)]*\)|\$[a-z_]\w*"),
    # 934: JavaScript on a server
    Rule(3401, "generic", CRITICAL, 1, PATH_AND_ARGUMENTS,
         rb"__proto__|\bconstructor(?:\[['\"]|['\"]\]\[['\"]|\.)prototype\b|\bconstructor\[prototype\]|"
         rb"\.constructor ?\( ?['\"]|\[['\"]?constructor['\"]?\]"),
    Rule(3402, "generic", CRITICAL, 1, ARGUMENTS,
         rb"_\$\$nd_func\$\$_|__js_function|\bnew +function ?\(|\bfunction ?\( ?\) ?\{|\brequire ?\( ?['\"]"
         rb"|\bchild_process\b|"
         rb"\bprocess(?:\.|\[['\"`])(?:(?:access|binding|env|mainmodule|kill|exit|nexttick|stdout|dlopen)\b)|"
         rb"\bglobal(?:this)?(?:\.|\[)process\b|\bimport ?\( ?['\"`]|\b(?:exec|spawn|fork)(?:file)?sync ?\(|"
         rb"\bthis\.constructor\b|\bfunction ?\([^)]*\) ?\{[^}]*\} ?\( ?\)|\beval ?\( ?string\.fromcharcode|"
         rb"\bmodule\.exports ?=|\.mainmodule\b|\bfs\.(?:read|write)[a-z]* ?\("),
    Rule(3403, "nosql", CRITICAL, 1, ARGUMENTS,
         rb"(?:\[|^|\.|\")\$(?:n?eq?|[gl]te?|n?in|n?or|and|not|where|regex|exists|mod|expr|elemmatch|jsonschema"
         rb"|function|"
         rb"accumulator|text|search|options)(?:\]|$|\"?:| )|\{ ?[\"']?\$(?:ne|[gl]te?|where|regex|in|nin|or|and|expr)"
         rb"[\"']? ?:|\bthis\.[a-z_]+\.match\(|; ?return ?\(?true|\bdb\.[a-z_]+\.(?:find|insert|update|remove|drop|"
         rb"aggregate|count)\b|\bmapreduce ?\("),
    # templates
    Rule(3410, "ssti", CRITICAL, 1, HEADERS_AND_ARGUMENTS,
         rb"\{\{ ?(?:[0-9'\"(\[].*[*+|_.%/-]|config\b|self\b|request\b|settings\b|lipsum|cycler|joiner|namespace|"
         rb"url_for|get_flashed|app\b|_self\b|dump\b|range\b|constructor\b|.*__).*\}\}|\{% ?(?:for|if|set|import"
         rb"|include|"
         rb"extends|debug|raw|macro|with) .*%\}|\$\{ ?[0-9'\"]+ ?[*+/-]|#\{ ?[0-9'\"]+ ?[*+/-]|<%= ?[^>]*%>|"
         rb"@\( ?[0-9]+ ?[*+]|\{php\}|\{literal\}|\$smarty\.|\*\{ ?[0-9t(]"),
    Rule(3411, "ssti", CRITICAL, 1, HEADERS_AND_ARGUMENTS,
         rb"__(?:class|mro|subclasses|globals|builtins|import|base|bases|getattribute|dict|code)__|"
         rb"\bt\( ?java\.|freemarker\.template\.utility|\?new\(\)|#set ?\( ?\$|#foreach ?\( ?\$|\$class\.inspect|"
         rb"\bregisterundefinedfiltercallback\b|\bgetfilter\b ?\("),
    # XML entities
    Rule(3420, "xxe", CRITICAL, 1, ARGUMENTS,
         rb"<!entity\b|<!doctype [^>\[]*(?:\[|\bsystem ?[\"']|\bpublic ?[\"'][^\"']*[\"'] "
         rb"?[\"'](?:file|ftp|gopher|expect|php|jar|https?://(?:[0-9]|localhost)))|<xi:include\b|<xsl:(?:value-of"
         rb"|include)|"
         rb"<!attlist\b"),
    # 944: Java
    Rule(4401, "java", CRITICAL, 1, ALL, _JAVA_CLASSES),
    Rule(4402, "java", CRITICAL, 1, ALL,
         rb"\b(?:clonetransformer|forclosure|instantiatefactory|instantiatetransformer|invokertransformer|"
         rb"prototypeclonefactory|prototypeserializationfactory|whileclosure|getproperty|filewriter|xmldecoder|"
         rb"templatesimpl|badattributevalueexp|jdbcrowset|jndirealm|chainedtransformer|constanttransformer|"
         rb"annotationinvocationhandler|unmarshaller|propertyutils|beancomparator|processbuilder)\b"),
    Rule(4403, "java", CRITICAL, 1, ALL,
         rb"\bruntime\b.{0,40}\b(?:exec|getruntime)\b|\bgetruntime ?\(|\bgetclass ?\( ?\)|\.forname ?\("
         rb"|\bgetmethod ?\(|"
         rb"\bnewinstance ?\(|\bgetdeclared|\bclass\.(?:module\.)?classloader\b|\bclass\[['\"]?(?:module|classloader)|"
         rb"\bgetclassloader\b|\bscriptengine(?:manager)?\b|\bgetenginebyname\b"),
    Rule(4404, "java", CRITICAL, 1, ALL,
         rb"#_?memberaccess|%\{ ?\(?[#'\"]|\$\{ ?\(?#|@java\.|@ognl\.|#(?:context|request|session|application|attr|"
         rb"parameters|cmd|root|res|rt) ?[=\[.]|\b(?:redirect(?:action)?|action):[^ ]*[%$]\{|xwork\.methodaccessor"),
    Rule(4405, "java", CRITICAL, 1, ALL,
         rb"\$\{ ?(?:jndi|lower|upper|env|sys|java|date|ctx|log4j|main|bundle|k8s|docker|map|marker|spring|sd|web"
         rb"|base64|"
         rb"url|dns|script|::|:)[^a-z0-9_}]|\$\{[^}]{0,40}\$\{|\bjndi ?: ?(?:ldaps?|rmi|dns|iiop|nis|corba|https?"
         rb"|nds)"),
    Rule(4406, "java", CRITICAL, 1, ALL, rb"\xac\xed\x00?\x05|\bro0abx|\brO0AB|\baced0005|\bkztaaq|\bkztaa"),
    Rule(4409, "java", CRITICAL, 1, ALL, _in_base64(
        "runtime processbuilder clonetransformer forclosure instantiatefactory instantiatetransformer "
        "invokertransformer prototypeclonefactory prototypeserializationfactory whileclosure Runtime ProcessBuilder "
        "InvokerTransformer InstantiateTransformer")),
    Rule(4407, "java", CRITICAL, 2, ALL,
         rb"\bjava\.|\bjavax\.|\b(?:runtime|process)\b.{0,40}\b(?:start|exec|load|eval|evaluate|method|byte|open|"
         rb"instance|reader|outputstream|builder|forclosure|parser)"),
    Rule(4408, "java", CRITICAL, 3, HEADERS_AND_ARGUMENTS,
         rb"(?:runtime|process(?:builder)?|clonetransformer|forclosure|instantiate(?:factory|transformer)|"
         rb"invokertransformer|prototype(?:clone|serialization)factory|whileclosure|getproperty|filewriter"
         rb"|xmldecoder)"),
)  # fmt: skip
