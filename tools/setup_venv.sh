#!/usr/bin/env bash
# Makes .venv in the checkout and installs what pyproject.toml asks for, in the exact versions of constraints.txt.
# Called by the Makefile. Safe to run again, and at the same time as another copy of itself: the second waits.
#
#   tools/setup_venv.sh          PYTHON=python3.12 chooses the interpreter; an existing .venv is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly needed="import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))"

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "$needed" 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 was found (tried: ${PYTHON:-python3 python3.12 python3.11 python3.10})." \
        "Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv python3-dev), or name one: make PYTHON=/path/to/python3.11 test"
}

# What the one C++ build of DeepSpeed's CPU optimizer needs; better known now than after the installation.
check_compiler() {
    command -v "${CXX:-g++}" >/dev/null ||
        fail "the C++ compiler ${CXX:-g++} was not found; it builds DeepSpeed's CPU optimizer." \
            "Install it (Debian, Ubuntu: sudo apt-get install g++) and run the same command again."
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        fail "the header Python.h of $1 was not found; DeepSpeed's CPU optimizer is built against it." \
            "Install it (Debian, Ubuntu: sudo apt-get install python3-dev) and run the same command again."
}

make_venv() {
    if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$1" -c 'import ensurepip' 2>/dev/null ||
            fail "$1 cannot make virtual environments here." \
                "Install what is missing (Debian, Ubuntu: sudo apt-get install python3-venv) and run the same command again."
        echo "== making .venv with $("$1" --version)"
        "$1" -m venv .venv
    fi
    .venv/bin/python -c "$needed" ||
        fail ".venv holds $(.venv/bin/python --version), but Python 3.10 to 3.12 is needed. Remove .venv and run the same command again."
}

quiet_pip() {
    .venv/bin/python -m pip install -c constraints.txt "$@" >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "pip could not install: $*. The lines above say why; all of them are in $log." \
            "Without a network, or behind a proxy or mirror, tell pip so (PIP_INDEX_URL, PIP_PROXY) and run the same command again."
    }
}

python=$(find_python)
check_compiler "$python"
mkdir -p .venv
exec 9>.venv/.lock
flock 9
make_venv "$python"

readonly log=.venv/install.log
echo "== installing the packages: 1 to 6 GB, some minutes (log: $log)"
: >"$log"
quiet_pip --upgrade pip
# torch first: it is the largest, and a build of the same version that is already there (cu126 for V100) is kept.
.venv/bin/python -m pip install -c constraints.txt torch==2.13.0
echo "== torch is there; the other 150 packages follow, one to three minutes"
quiet_pip -e '.[dev]'
touch .venv/.installed
echo "== installed in .venv"
