#!/usr/bin/env bash
# Run the tests in a clean root of another Debian, on the Python that it has: tests/clean_root.sh SUITE [COMMAND...]
#
# SUITE: trixie (CPython 3.13), sid (3.14), or another that debootstrap knows. COMMAND runs in a copy of this tree, with
# what is not committed yet; without one it is `make test`. Takes root, and debootstrap. The root is kept in
# build/roots/SUITE, so that the next run begins sooner. What is mounted there is seen by the command alone.
set -euo pipefail
suite=${1:?"usage: $0 SUITE [COMMAND...]"}
shift
[ $# -gt 0 ] || set -- make test
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "$0: only root can set up a root of its own" >&2; exit 2; }
root=$PWD/build/roots/$suite

if [ ! -e "$root/.ready" ]; then
  # The archive that this machine installs from, which is the nearest one; another by MIRROR.
  mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 '/debian/*$')}
  rm -rf "$root" && mkdir -p "$root"
  debootstrap --variant=minbase --include=ca-certificates,gcc,git,libc6-dev,make,python3-dev,python3-venv \
    "$suite" "$root" "$mirror" >"$root.log" || { tail "$root.log" >&2; exit 1; }
  apt-config dump Acquire >"$root/etc/apt/apt.conf.d/99host"
  touch "$root/.ready"
fi
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
# What was made there before stays: the environment. What is compiled goes with the sources, and is made anew.
mkdir -p "$root/root/fastgw"
git clone --quiet --bare . "$root/root/fastgw/.new"
find "$root/root/fastgw" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .new -exec rm -rf {} +
rm -f "$root/root/fastgw/.venv/.compiled"
mv "$root/root/fastgw/.new" "$root/root/fastgw/.git"
git --git-dir="$root/root/fastgw/.git" config core.bare false
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --null --files-from=- --create | tar --extract --directory="$root/root/fastgw"
git --git-dir="$root/root/fastgw/.git" --work-tree="$root/root/fastgw" reset --quiet

exec unshare --mount --pid --fork bash -euc '
  root=$1; shift
  mount --bind "$root" "$root"  # tests that change their mounts want a root that is one
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs tmpfs "$root/run"
  exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 CI="${CI-}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
    bash -c "cd /root/fastgw && exec \"\$@\"" tests "$@"
' roots "$root" "$@"
