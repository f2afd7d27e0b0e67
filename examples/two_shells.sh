#!/usr/bin/env bash
# Two shells edit one file: first with > and >>, then with the coherent command.
# Exits with 1 if the first half loses nothing or the second half loses anything.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
COHERENT="${COHERENT:-$here/../.venv/bin/coherent}"
command -v "$COHERENT" > /dev/null || COHERENT=coherent
export COHERENT

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

# Runs alice's and bob's shell at once. Each reads, says so, and waits for its turn.
together() {
    rm -rf turns && mkdir turns
    mkfifo turns/alice.read turns/alice.go turns/alice.done turns/bob.read turns/bob.go turns/bob.done
    bash -c "$1" shell alice '- alice: write the parser' &
    alice=$!
    bash -c "$1" shell bob '- bob: write the tests' &
    bob=$!
    read -r _ < turns/alice.read
    read -r _ < turns/bob.read
    echo > turns/alice.go
    read -r _ < turns/alice.done
    echo > turns/bob.go
    read -r _ < turns/bob.done
    wait "$alice"
    wait "$bob"
}

plain='
    text=$(cat plan.md)
    echo > "turns/$1.read"; read -r _ < "turns/$1.go"
    printf "%s\n" "$text" "$2" > plan.md
    echo > "turns/$1.done"
'

coherent='
    export COHERENT_SESSION=$1
    "$COHERENT" read plan.md > "$1.draft"
    echo "$2" >> "$1.draft"
    echo > "turns/$1.read"; read -r _ < "turns/$1.go"
    until "$COHERENT" write plan.md --from "$1.draft" > "$1.said" 2>&1; do
        status=$?
        sed "s/^/    | $1: /" "$1.said"
        echo "    | $1: exit code $status"
        echo "$status" >> "$1.refused"
        [ "$status" -eq 75 ] || break
        "$COHERENT" read plan.md > "$1.draft"    # reacquire
        echo "$2" >> "$1.draft"                  # and derive anew
    done
    echo > "turns/$1.done"
'

lines() {
    grep -c -e '^- alice: write the parser$' -e '^- bob: write the tests$' plan.md || true
}

echo "Two shells read plan.md. Alice's shell saves her line, then Bob's saves his."
echo
echo "1. With cat and >:"
echo '# Plan' > plan.md
together "$plain"
sed 's/^/    | /' plan.md
without=$(lines)
echo "   $without of 2 edits are there."

echo
echo "2. With coherent read and coherent write:"
echo '# Plan' > plan.md
"$COHERENT" init --managed plan.md > init.said
together "$coherent"
echo "   The plan is now:"
sed 's/^/    | /' plan.md
with=$(lines)
echo "   $with of 2 edits are there."

if [ "$without" -ne 1 ] || [ "$with" -ne 2 ] || ! grep -q '^75$' bob.refused; then
    echo "This run did not show what it should have shown." >&2
    exit 1
fi
