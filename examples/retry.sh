#!/usr/bin/env bash
# The reacquire-and-retry loop of a shell script.
#
#   retry.sh PATH CMD...     run CMD DRAFT on a draft of PATH, and commit the draft
#
# CMD edits the file that is its last argument. If a peer commits meanwhile the
# write is refused (exit code 75): read again, edit again, write again. Any other
# failure ends the loop with its own exit code. For one filter or one editor
# `coherent update` and `coherent edit` do the same; write the loop out when
# there is more to do between reading and writing.
set -u

here=$(cd "$(dirname "$0")" && pwd)
COHERENT="${COHERENT:-$here/../.venv/bin/coherent}"
command -v "$COHERENT" > /dev/null || COHERENT=coherent

if [ $# -lt 2 ]; then
    echo "usage: retry.sh PATH CMD..." >&2
    exit 2
fi
path=$1
shift

# One name for all commands of this script, and for nobody else.
export COHERENT_SESSION="${COHERENT_SESSION:-retry-$$}"
draft=$(mktemp) || exit
trap 'rm -f "$draft"' EXIT

tries=0
until "$COHERENT" read "$path" > "$draft" &&
      "$@" "$draft" &&
      "$COHERENT" write "$path" --from "$draft"
do
    status=$?
    tries=$((tries + 1))
    # 75 says: read again and retry. Nothing was changed, and what was refused is kept.
    if [ "$status" -ne 75 ] || [ "$tries" -ge 100 ]; then
        exit "$status"
    fi
    # A little later than the others, so that those who met do not meet again.
    sleep "0.0$((RANDOM % 10))"
done
