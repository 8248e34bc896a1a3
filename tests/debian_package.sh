#!/usr/bin/env bash
# Install, upgrade, remove and purge the Debian package of dist/ in a clean root of this Debian: tests/debian_package.sh
#
# As root, with debootstrap. The root is kept in build/roots/package, so that the next run begins sooner.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
root=$PWD/build/roots/package
package=$(ls -t dist/fastgw_*.deb | head -1)

if [ ! -e "$root/.ready" ]; then
  mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 '/debian/*$')}
  rm -rf "$root" && mkdir -p "$root"
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" || { tail "$root.log" >&2; exit 1; }
  apt-config dump Acquire >"$root/etc/apt/apt.conf.d/99host"
  touch "$root/.ready"
fi
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp "$package" "$root/root/first.deb"

# The next version, as far as dpkg knows.
again=$(mktemp -d)
trap 'rm -rf "$again"' EXIT
dpkg-deb --raw-extract "$package" "$again/tree"
sed -i 's/^\(Version: .*\)$/\1+next/' "$again/tree/DEBIAN/control"
dpkg-deb --root-owner-group -Znone --build "$again/tree" "$root/root/second.deb" >/dev/null

unshare --mount --pid --fork bash -euc '
  root=$1
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -s
' roots "$root" <<'INSIDE'
set -euo pipefail
say() { echo "== $*"; }
get() { python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1:8080/", timeout=5).read().decode(), end="")'; }
wait_for() { for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; echo "gave up: $*" >&2; return 1; }
cd /root
apt-get purge -qq -y fastgw >/dev/null 2>&1 || true
apt-get update -qq
find / -xdev \( -path /proc -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /var/lib/apt -o -path /var/cache \
  -o -path /var/log -o -path /var/lib/dpkg \) -prune -o -print | sort >/tmp/before

say install
apt-get install -qq -y ./first.deb >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
! command -v gcc >/dev/null
getent passwd fastgw
fastgw version | grep -x 'wire: *compiled'
fastgw version | grep 'http2: *libnghttp2'
fastgw check /etc/fastgw/gateway.yaml
test -s /usr/share/man/man1/fastgw.1.gz && test -s /lib/systemd/system/fastgw.service && test -s /etc/logrotate.d/fastgw
. /usr/share/bash-completion/completions/fastgw
install -d -o fastgw -g fastgw /run/fastgw /var/log/fastgw /var/lib/fastgw  # which systemd does for the unit
RUNTIME_DIRECTORY=/run/fastgw setpriv --reuid fastgw --regid fastgw --init-groups fastgw run /etc/fastgw/gateway.yaml >/tmp/fastgw.log 2>&1 &
gateway=$!
wait_for get || { cat /tmp/fastgw.log >&2; exit 1; }  # such as a port that is in use outside of the root
get

say upgrade
echo '# a line of the operator' >>/etc/fastgw/gateway.yaml
apt-get install -qq -y ./second.deb >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
grep -q '^# a line of the operator' /etc/fastgw/gateway.yaml
kill -USR2 $gateway  # which the package does where systemd runs
wait_for grep ' upgraded: .* new$' /tmp/fastgw.log
get
kill -TERM $gateway
wait $gateway
cat /tmp/fastgw.log

say remove
apt-get remove -qq -y fastgw >/dev/null
test ! -e /usr/bin/fastgw && test -e /etc/fastgw/gateway.yaml && test -d /var/log/fastgw

say purge
apt-get purge -qq -y fastgw >/dev/null
for each in /etc/fastgw /usr/lib/fastgw /var/log/fastgw /var/lib/fastgw /etc/logrotate.d/fastgw; do
  if [ -e "$each" ]; then echo "purge has left $each" >&2; exit 1; fi
done
apt-get autoremove -qq -y --purge >/dev/null
find / -xdev \( -path /proc -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /var/lib/apt -o -path /var/cache \
  -o -path /var/log -o -path /var/lib/dpkg \) -prune -o -print | sort >/tmp/after
comm -13 /tmp/before /tmp/after | { grep -i fastgw && { echo "files of fastgw are left" >&2; exit 1; } || true; }
say "installed, upgraded, removed and purged"
INSIDE
