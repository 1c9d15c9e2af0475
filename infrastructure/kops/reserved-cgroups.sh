#!/bin/sh
# Enables the controllers that the kubelet needs in each cgroup that is named, as a path under the root. A slice that was
# just started has only the controllers that systemd needs, and the kubelet does not start with "some missing controllers".
# It runs before every start of the kubelet, since systemd may disable them.
set -eu
root="${CGROUP_ROOT:-/sys/fs/cgroup}"
for cgroup in "$@"; do
    at="$root"
    rest="$cgroup"
    while [ -n "$rest" ]; do
        # A plain assignment: if the cgroup does not exist, the script ends and the kubelet does not start.
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
