#!/bin/sh
# Stand-in for a command of the recipes: records its call and answers as the test has set.
#
# $STAND_IN is a folder: `calls` gets a line for each call; each folder of `answers` has the `beginning` of a call, the
# longest first, and the answer's `out`, `err` and `code`. `uv run … python` runs the real script with $PYTHON, and
# `uv run … kn-bench` the real subcommands of $REAL_KN_BENCH; `kind` remembers its clusters. It is a shell script because
# the tests start it thousands of times.
set -u
name=${0##*/}
line="$name $*"
if [ "$name" = uv ]; then
    while [ $# -gt 0 ]; do
        word=$1
        shift
        case "$word" in
            python) exec "$PYTHON" "$@" ;;
            kn-bench)
                case " ${REAL_KN_BENCH:-} " in
                    *" $1 "*) exec "${PYTHON%/*}/kn-bench" "$@" ;;
                esac
                break
                ;;
        esac
    done
fi
printf '%s\n' "$line" >>"$STAND_IN/calls"
for answer in "$STAND_IN"/answers/*; do
    [ -e "$answer" ] || break
    IFS= read -r beginning <"$answer/beginning"
    case "$line" in
        "$beginning"*)
            [ ! -s "$answer/out" ] || cat "$answer/out"
            [ ! -s "$answer/err" ] || cat "$answer/err" >&2
            read -r code <"$answer/code"
            exit "$code"
            ;;
    esac
done
clusters="$STAND_IN/kind-clusters"
case "$line" in
    "kind create cluster "*)
        named=${line#* --name }
        echo "${named%% *}" >"$clusters"
        ;;
    "kind get clusters"*) [ ! -e "$clusters" ] || cat "$clusters" ;;
    "kind delete cluster"*) rm -f "$clusters" ;;
esac
