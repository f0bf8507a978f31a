# shellcheck shell=bash
# Sourced by the scenes, which run blocks of the documentation as they stand, in the order of somebody's work.
#
#   block PAGE 'TEXT'           runs the one block of the page that holds the text, in this shell; every command must end with 0
#   exits CODE PAGE 'TEXT'      the same in a shell of its own, which must end with this code
#   text PAGE 'TEXT'            prints the block, for files that are not shell
#   stands FOR WHAT             in blocks, a name that only stands for another: an id, an address, a password
#   shows 'REGEX'               what ran last has printed such a line
#   until_true SECONDS WHAT COMMAND...   waits for a level
#   finish                      ends the scene: all that it names has run
set -euo pipefail

scene_file=${BASH_SOURCE[1]}
scene_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/blocks/find.sh
. "$scene_root/tests/blocks/find.sh"
scene_folder=$(mktemp -d "${TMPDIR:-/tmp}/blocks-XXXXXX")
scene_at='the beginning' scene_text=''
declare -A scene_names=()
touch "$scene_folder/"{ran,said,used}
# A block may end the shell while its own output goes elsewhere.
exec {scene_errors}>&2

scene_end() {
    local code=$?
    trap - EXIT
    if ((code)); then
        printf '%s: FAILED at %s, with code %s\n' "${scene_file##*/}" "$scene_at" "$code"
        printf -- '--- the block\n%s\n--- what it said\n' "$scene_text"
        tail -n 60 "$scene_folder/said"
    fi >&"$scene_errors"
    rm -rf "$scene_folder"
    exit "$code"
}
trap scene_end EXIT

wrong() {
    printf '%s: %s\n' "${scene_file##*/}" "$1" >&"$scene_errors"
    exit 1
}

stands() { scene_names[$1]=$2; }

take() {
    local line name
    scene_at="$1 '$2'" scene_text=''
    line=$(cd "$scene_root" && find_block "$1" "$2") || wrong "$line"
    scene_at=$1:$line
    scene_text=$(fences "$scene_root/$1" '' "$line")
    for name in "${!scene_names[@]}"; do
        [[ $scene_text == *"$name"* ]] || continue
        echo "$name" >>"$scene_folder/used"
        scene_text=${scene_text//"$name"/"${scene_names[$name]}"}
    done
    echo "$scene_at" >>"$scene_folder/ran"
}

block() {
    take "$1" "$2"
    eval "$scene_text" </dev/null >"$scene_folder/said" 2>&1
    printf '%4s s  %s\n' "$SECONDS" "$scene_at"
}

exits() {
    local wanted=$1 found
    take "$2" "$3"
    set +e
    (
        set -e
        eval "$scene_text"
    ) </dev/null >"$scene_folder/said" 2>&1
    found=$?
    set -e
    ((found == wanted)) || wrong "$scene_at: ended with $found, and not with $wanted"
    printf '%4s s  %s, as it should, with %s\n' "$SECONDS" "$scene_at" "$wanted"
}

text() {
    take "$1" "$2"
    printf '%s\n' "$scene_text"
}

shows() { grep -qE -- "$1" "$scene_folder/said" || wrong "$scene_at: nothing it says is like $1"; }
shows_no() { ! grep -E -- "$1" "$scene_folder/said" || wrong "$scene_at: it must not say $1"; }

until_true() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    scene_at="\"$what\"" scene_text="$*"
    until "$@" >"$scene_folder/said" 2>&1; do
        ((SECONDS < limit)) || wrong "waited in vain until $what"
        sleep 0.1
    done
}

finish() {
    local name number page wanted line
    scene_at='the end' scene_text=''
    for name in "${!scene_names[@]}"; do
        grep -qxF -- "$name" "$scene_folder/used" || wrong "nothing holds $name any more"
    done
    while IFS=$'\t' read -r number page wanted; do
        line=$(cd "$scene_root" && find_block "$page" "$wanted") || wrong "$line"
        grep -qxF "$page:$line" "$scene_folder/ran" || wrong "line $number names a block that has not run"
    done < <(assignments "$scene_file")
    printf '%4s s  %s: %s blocks\n' "$SECONDS" "${scene_file##*/}" "$(sort -u "$scene_folder/ran" | wc -l)"
}
