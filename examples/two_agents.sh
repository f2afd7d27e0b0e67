#!/usr/bin/env bash
# Two shells work as two agents under `coherent run`, with tools that know nothing of it.
# Exits with 1 if a save that should be refused goes through, or the other way round.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
COHERENT="${COHERENT:-$here/../.venv/bin/coherent}"
command -v "$COHERENT" > /dev/null || COHERENT=coherent
export COHERENT

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir turns work
mkfifo turns/alice turns/bob
cd work

printf '%s\n' '# Plan' '1. parser' '2. tests' '3. release' > plan.md
"$COHERENT" init --managed plan.md > ../init.said
"$COHERENT" run --as nobody -- true              # says what is missing where no mount is possible

# What an agent types is shown, then done; "over" hands the other one the turn, "turn" waits for it.
cat > ../agent.sh <<'AGENT'
coherent() { "$COHERENT" "$@"; }
type() {
    echo "$name\$ $1"
    eval "$1" 2>&1 | sed -e 's/^.*: line [0-9]*: /bash: /' -e 's/^/    /'
    return "${PIPESTATUS[0]}"
}
over() { echo > "$turns/$1"; }
turn() { read -r _ < "$turns/$name"; }
refused() { type "$1" && { echo "This save should have been refused: $1" >&2; exit 1; }; return 0; }
AGENT

agent() {
    local turns="$scratch/turns"
    export turns name=$1
    timeout 60 "$COHERENT" run --as "$1" -- bash -eu -c ". ../agent.sh; $2"
}

agent alice '
    type "cat plan.md"
    sleep 1                                  # she thinks; a reflex is not a reading
    over bob; turn
    refused "(echo \"# Plan\"; echo \"1. lexer\") > plan.md"
    type "coherent why plan.md | head -4"
    type "sed -i \"s/^2. tests/2. tests first/\" plan.md"
    type "cat plan.md"
    sleep 1
    type "(cat plan.md; echo \"5. rest\") > draft && cat draft > plan.md"
    over bob
' &
alice=$!
agent bob '
    turn
    type "cat plan.md > /dev/null; echo \"4. announce\" >> plan.md"
    over alice; turn
    type "cat plan.md"
'
wait "$alice"

expected=$(printf '%s\n' '# Plan' '1. parser' '2. tests first' '3. release' '4. announce' '5. rest')
if [ "$(cat plan.md)" != "$expected" ]; then
    echo "This run did not show what it should have shown." >&2
    exit 1
fi
echo "Every line of both is there."
