#!/bin/sh
# system_packages.sh PACKAGE…: installs Debian packages that are missing, if this is root on a Debian.
# Never fails: what is not there makes tests skip by name.
set -u

missing=
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, tests that need them skip:$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
timeout 120 apt-get -qq update >/dev/null 2>&1
for package in $missing; do
    # One by one: a package that this release does not have must not cost the others.
    timeout 300 apt-get -qq install -y --no-install-recommends "$package" >/dev/null 2>&1 ||
        echo "could not install $package; tests that need it skip" >&2
done
exit 0
