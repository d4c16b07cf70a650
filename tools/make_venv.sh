#!/bin/sh
# make_venv.sh PYTHON FOLDER: a virtual environment with pip, on machines whose Python came without.
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "synd needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2
    exit 1
}
"$python" -m venv "$venv" 2>/dev/null && exit 0

# Debian keeps venv's pip in a package of its own.
rm -rf "$venv"
version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null && apt-get -qq install -y "$version" >/dev/null 2>&1 ||
        apt-get -qq install -y python3-venv >/dev/null
    exec "$python" -m venv "$venv"
fi
echo "$python cannot make virtual environments; install $version" >&2
exit 1
