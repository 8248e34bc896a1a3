"""Rules for access to files, remote files, commands of a shell, and requests to internal addresses."""

from typing import Final

from fastgw.filters.policies.waf.rules.rule import (
    ALL,
    ARGUMENTS,
    CRITICAL,
    ERROR,
    HEADERS_AND_ARGUMENTS,
    PATH,
    PATH_AND_ARGUMENTS,
    RequestPart,
    Rule,
    alternatives,
)

_BODY: Final = frozenset((RequestPart.BODY,))

# Commands that attackers run. Each is followed by the end of a word below.
_UNIX: Final = alternatives(
    "apt(?:-get)? aptitude ash bash busybox bzip2 chattr chgrp chmod chown cksum cpio crontab csh curl dd df "
    "dmesg dpkg egrep ftp gawk gcc gdb getent gunzip gzip hexdump hostname htop ifconfig ksh lsof ls "
    "lwp-(?:download|request|dump) lynx mkfifo mysql(?:dump)? nc(?:at)? netcat netstat nmap nohup nslookup "
    "openssl pgrep pkill poweroff printenv psql pwd rm rmdir rpm rsync scp sed sftp sh socat ssh strace sudo "
    "sysctl tac tcpdump tcsh telnet tftp traceroute uname uptime unzip useradd usermod vi vim wget whereis xargs "
    "xxd yum zsh"
)
_UNIX_WORDS: Final = alternatives(
    "arch awk base64 cat cut dash diff dig echo env expr fetch find finger fish git grep halt head id init "
    "ip(?:tables)? java kill(?:all)? last less ln mail mkdir more mount mv nano nice nl node(?:js)? od passwd "
    "perl(?:5)? php[0-9]? ping printf ps python[0-9.]* reboot ruby service shutdown sleep sort strings su tail "
    "tar tee time timeout top touch watch wc which who(?:ami)? zip"
)
_WINDOWS: Final = alternatives(
    "arp assoc attrib bitsadmin cacls call certutil cmd(?:\\.exe)? copy cscript del dir echo erase fc find findstr for "
    "format ftype fsutil gpresult icacls ipconfig mklink mountvol move msbuild mshta msiexec nbtstat net(?:1|sh|stat)? "
    "nltest nslookup pathping ping powershell(?:\\.exe)? psexec pwsh qprocess query rd reg regsvr32 ren robocopy "
    "route rundll32 sc schtasks set shutdown start subst systeminfo taskkill tasklist tracert tree type vssadmin ver "
    "whoami wmic wscript xcopy"
)
_OS_FILES: Final = (
    rb"(?:etc[/\\](?:passwd|shadow|group|gshadow|hosts|hostname|issue|fstab|motd|sudoers|crontab|mtab|my\.cnf|"
    rb"resolv\.conf|ssh[/\\]|nginx[/\\]|apache2?[/\\]|httpd[/\\]|mysql[/\\]|php|security[/\\]|master\.passwd|"
    rb"os-release|(?:redhat|debian|centos)[-_](?:release|version)|cron\.d)|"
    rb"proc[/\\](?:self|version|cpuinfo|meminfo|[0-9]+|mounts|net|cmdline|environ)|"
    rb"var[/\\]log[/\\]|var[/\\]www[/\\]|usr[/\\]local[/\\](?:apache|etc|php)|root[/\\]\.[a-z]|"
    rb"(?:home|users)[/\\][a-z0-9_-]+[/\\]\.(?:ssh|bash|aws|gnupg|profile|netrc|git)|"
    rb"dev[/\\](?:tcp|udp|shm|fd|null|zero|u?random)[/\\]?|"
    rb"windows[/\\](?:system32|win\.ini|repair|php\.ini|debug)|winnt[/\\]|boot\.ini\b|"
    rb"inetpub[/\\](?:wwwroot|logs)|documents and settings[/\\])"
)
_RESTRICTED: Final = (
    rb"(?:^|[/\\])(?:\.(?:git|svn|hg|bzr|cvs|aws|ssh|docker|kube|gnupg|azure|idea|vscode)(?:[/\\]|$)|"
    rb"\.(?:env|htaccess|htpasswd|htgroup|netrc|npmrc|pypirc|dockercfg|pgpass|bash_history|bashrc|profile|"
    rb"mysql_history|psql_history|ds_store|gitignore|gitconfig|git-credentials)\b|"
    rb"(?:wp-config|config\.inc|localsettings|configuration|settings\.local)\.php|web-inf[/\\]|meta-inf[/\\]|"
    rb"web\.config\b|id_(?:rsa|dsa|ecdsa|ed25519)\b|authorized_keys\b|docker-compose\.ya?ml|"
    rb"(?:phpinfo|adminer)\.php|\.?wwwacl|server-status$|server-info$)"
)
# The characters after which a shell begins a command. `.` before one belongs to a file name.
_BEGIN: Final = rb"(?:[;|`\n]|\|\||&&?|\$\(|\$\(\(|<\(|>\(|\bthen |\bdo |\belse )"
_END: Final = rb"(?:[ \n;|&<>)`'\"}$,]|$)"
_PATH_TO: Final = rb"(?:[^ \n;|&<>()'\"=]*/)?"

INJECTION_RULES: Final = (
    # 930: local files
    Rule(3001, "lfi", CRITICAL, 1, ALL - {RequestPart.HEADERS},
         rb"(?:^|[/\\;=])\.\.\.?[/\\;]|[/\\]\.\.\.?(?:[/\\;]|$)"),
    Rule(3002, "lfi", CRITICAL, 1, ALL, rb"(?:^|[^a-z0-9_.-])[/\\]?" + _OS_FILES),
    Rule(3003, "lfi", CRITICAL, 1, PATH_AND_ARGUMENTS - _BODY, _RESTRICTED),
    Rule(3004, "lfi", CRITICAL, 1, PATH,
         rb"\.(?:bak|backup|old|orig|save|swp|swo|sql|sqlite3?|mdb|pem|key|pfx|p12|jks|keystore|rdb|ini|conf|cfg"
         rb"|log|inc|"
         rb"dist)$|~$"),
    Rule(3005, "lfi", CRITICAL, 1, ARGUMENTS, rb"^ ?(?:file|phar|jar|netdoc|glob|zip|rar|bzip2):/"),
    Rule(3006, "lfi", CRITICAL, 2, ARGUMENTS, rb"^ ?/(?:etc|proc|var|usr|root|opt|tmp|home|dev|sys|boot|mnt)/"),
    # 931: remote files
    Rule(3101, "rfi", CRITICAL, 1, ARGUMENTS,
         rb"^ ?(?:ftps?|https?)://(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:[:/?#]|$)"),
    Rule(3102, "rfi", CRITICAL, 1, ARGUMENTS,
         rb"^ ?(?:ftps?|sftp|ssh2?|telnet|tftp|ldaps?|gopher|dict|imap|smb|expect|ogg|zlib|php|data):(?://|/|text|;)"),
    Rule(3103, "rfi", CRITICAL, 1, ARGUMENTS, rb"^ ?(?:ftps?|https?)://[^ \n]*\?+$"),
    Rule(3104, "rfi", CRITICAL, 1, ARGUMENTS,
         rb"^ ?(?:ftps?|https?)://[^ \n?]+\.(?:php[0-9]?|phtml|asp|jsp|sh|txt|dat|gif|jpe?g)\?[^ \n=]*$|"
         rb"\binclude=(?:ftps?|https?|file)://|mosconfig_absolute_path="),
    Rule(3105, "rfi", CRITICAL, 2, ARGUMENTS, rb"^ ?(?:ftps?|https?|file)://[^ \n]"),
    # SSRF: addresses that only this machine or this network should use
    Rule(3110, "ssrf", CRITICAL, 1, ARGUMENTS,
         rb"(?:169\.254\.(?:169|170)\.[0-9]{1,3}|0xa9\.?(?:0x)?fe\.?(?:0x)?a9\.?(?:0x)?fe|\b2852039166\b|"
         rb"0251\.0376\.0251\.0376|\bmetadata\.(?:google\.internal|tencentyun\.com|goog)|100\.100\.100\.200|"
         rb"fd00:ec2::254|::ffff:a9fe:a9fe|192\.0\.0\.192|169\.254\.169\.254\.(?:nip|xip|sslip)\.io|"
         rb"/latest/(?:meta-data|user-data|dynamic)|/computemetadata/v1|/metadata/instance\?api)"),
    Rule(3111, "ssrf", ERROR, 1, ARGUMENTS,
         rb"^ ?(?:ftps?|https?|gopher|dict|ldap|file|tftp)://(?:[^ /\n@]*@)?(?:localhost|0\.0\.0\.0|127\.[0-9.]+|"
         rb"10\.[0-9.]+|192\.168\.[0-9.]+|172\.(?:1[6-9]|2[0-9]|3[01])\.[0-9.]+|0|"
         rb"\[(?:::1?|::ffff:[0-9a-f.:]+|f[cd][0-9a-f]{2}:[0-9a-f:]+|fe80:[0-9a-f:]+|0:0:0:0:0:0:0:1)\]|"
         rb"0x[0-9a-f]{8}|[0-9]{8,10}|0[0-7]{10,11})(?:[:/?#]|$)"),
    # 932: commands
    Rule(3201, "rce", CRITICAL, 1, ARGUMENTS, _BEGIN + rb" ?" + _PATH_TO + _UNIX + _END + rb"(?:[^=:]|$)|"
         + _BEGIN + rb" ?(?:" + _PATH_TO + _UNIX_WORDS + rb"(?:$| ?[;|&`)>]| [-+]{1,2}[a-z0-9]| [\"'$]*[/.~$*%]| "
         rb"[0-9.]+$)|"
         rb"(?:/[^ /]+)+/" + _UNIX_WORDS + rb"\b)"),
    Rule(3202, "rce", CRITICAL, 1, ARGUMENTS,
         rb"(?:[;|\n]|&&?|\|\||`|\( ?) ?@?\(? ?(?:call )?\"?(?:[a-z]:)?(?:[^ \n;|&<>()'\"=]*\\)?" + _WINDOWS
         + rb" (?:/[a-z?]|-[a-z]|[a-z]:|\\\\|[%*.])"),
    Rule(3203, "rce", CRITICAL, 1, HEADERS_AND_ARGUMENTS, rb"\$\([^)]{2,}\)|\$\(\(.+\)\)|[<>]\([^)]{2,}\)"),
    Rule(3204, "rce", CRITICAL, 1, HEADERS_AND_ARGUMENTS, rb"^ ?\( ?\) ?\{|\( ?\) ?\{ ?[:_]?[^}]*\} ?;"),
    Rule(3205, "rce", CRITICAL, 1, HEADERS_AND_ARGUMENTS,
         rb"(?:^|[^a-z0-9.])/(?:usr/(?:local/)?)?s?bin/(?:[a-z]|\?)|/dev/(?:tcp|udp)/|\$\{?ifs\b|\{(?:cat|ls|id"
         rb"|wget|curl|ping|nc|sh|bash|uname|whoami),|\bbash -[ic]\b|"
         rb"\bsh -c\b|\bnc(?:at)? (?:-[a-z0-9]+ )*-[a-z]*e|\bmkfifo /"),
    Rule(3206, "rce", CRITICAL, 1, ARGUMENTS,
         rb"\b(?:wget|curl|lwp-download) (?:-[a-z-]+ ?[^ ]* )*[\"']?(?:https?|ftp)://|"
         rb"\b(?:rm|chmod|chown) -[rf]|\bchmod (?:[0-7]{3,4}|[ugoa]*\+)|\bping -[cnt] ?[0-9]"),
    Rule(3207, "rce", CRITICAL, 1, ARGUMENTS,
         rb"\bpowershell(?:\.exe)? |\bcmd(?:\.exe)? ?/[ckqr]|\bcertutil(?:\.exe)? .*-urlcache|\bregsvr32 |\brundll32 |"
         rb"\b(?:invoke|add|get|set|new|remove|start|stop|out|import|export|convertto|convertfrom|select|where|write|"
         rb"test|update|register|unregister|clear|copy|enable|disable|enter|exit|format|group|join|measure|move"
         rb"|pop|push|"
         rb"read|receive|rename|reset|resolve|restart|restore|resume|save|send|show|sort|split|suspend|switch|tee"
         rb"|trace|"
         rb"undo|use|wait|limit|debug|complete|compare|checkpoint)-(?:expression|webrequest|command|item|itemproperty|"
         rb"content|process|service|object|location|childitem|computer|csv|date|history|host|job|module|pssession|"
         rb"psdrive|variable|wmiobject|wmimethod|alias|acl|eventlog|string|random|path|type|member|job|transcript|"
         rb"restmethod|netconnection|hotfix|credential|counter|culture|debugger|event|file|null|help)\b"),
    Rule(3208, "rce", CRITICAL, 1, ARGUMENTS,
         rb"\bfor(?:/[dflr].*)? %+[^ ]+ in ?\(.*\) ?do|\bif(?:/i)?(?: not)?(?: exist\b| defined\b| errorlevel\b|"
         rb" cmdextversion\b|(?: |.*(?:==|\bgeq\b|\bequ\b|\bneq\b|\bleq\b|\bgtr\b|\blss\b)) ?%)|"
         rb"\bfor /[dflr] |\bif(?:/i)?(?: not)?[ (].*(?:==|\bgeq\b|\bequ\b|\bneq\b|\bleq\b|\bgtr\b|\blss\b)"),
    Rule(3209, "rce", CRITICAL, 1, ARGUMENTS, rb"`[^`\x00]*\b(?:" + _UNIX + rb"|" + _UNIX_WORDS + rb")\b[^`\x00]*`"
         rb"|\$\{[a-z@]*[/#%:][^}]*\}|\$[@*]"),
    Rule(3210, "rce", CRITICAL, 1, ARGUMENTS, rb"^ ?" + _PATH_TO + alternatives(
        "cat curl wget nc ncat netcat ping nslookup chmod chown uname whoami ifconfig ipconfig netstat systeminfo")
        + rb" (?:-[a-z0-9]|/[a-z]|https?:|[0-9]{1,3}\.[0-9])"),
    Rule(3211, "rce", CRITICAL, 2, ARGUMENTS,
         _BEGIN + rb" ?" + _PATH_TO + rb"(?:" + _UNIX + rb"|" + _UNIX_WORDS + rb")\b"),
    Rule(3212, "rce", CRITICAL, 2, ARGUMENTS, rb"^ ?(?:" + _UNIX + rb"|" + _UNIX_WORDS + rb")(?: -|$)|\*[^ ]*/|/[^ "
         rb"]*\?[^ ]*/|\[[^]]+\][^ ]*/"),
    Rule(3213, "rce", ERROR, 3, ARGUMENTS, rb"[;|`]|&&|\$\("),
)  # fmt: skip
