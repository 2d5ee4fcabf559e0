#!/usr/bin/env bash
# Installs what the virtual SLURM cluster of the tests is made of (tests/cluster), on Debian and Ubuntu, as root. Its
# daemons are not started here: the tests start their own, with a configuration and a network of their own.
set -euo pipefail

programs=(munged mungekey slurmctld slurmd sbatch nsenter ip tc)
missing=()
for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]}; as root, with apt-get: apt-get install slurm-wlm munge iproute2" >&2
    exit 1
fi
# Packages would start their services when they are installed, on the machine's own network.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge iproute2 util-linux
