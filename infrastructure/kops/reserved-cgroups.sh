#!/bin/sh
# Hands the controllers that the kubelet asks for down to each cgroup named, as a path under the root. A slice that has
# just been started has only those that systemd needs, and "some missing controllers" is the same to the kubelet as no cgroup.
# It runs before every start of the kubelet, since systemd may take them back.
set -eu
root="${CGROUP_ROOT:-/sys/fs/cgroup}"
for cgroup in "$@"; do
    at="$root"
    rest="$cgroup"
    while [ -n "$rest" ]; do
        # A plain assignment: a cgroup that is not there ends the script, and with it the kubelet's start.
        there=$(cat "$at/cgroup.controllers")
        for controller in cpu cpuset memory hugetlb pids; do
            case " $there " in
                *" $controller "*) echo "+$controller" >>"$at/cgroup.subtree_control" ;;
            esac
        done
        at="$at/${rest%%/*}"
        case "$rest" in
            */*) rest="${rest#*/}" ;;
            *) rest="" ;;
        esac
    done
    cat "$at/cgroup.controllers" >/dev/null
done
