# shellcheck shell=bash
# Sourced: finds the fenced blocks of the documentation.

# fences FILE: the line and the language of every block of a page.
# fences FILE TEXT: of those that hold the text; of those that have it as a whole line, if there are any.
# fences FILE '' LINE: the text of the block that begins there.
fences() {
    needle=${2-} line=${3-} awk '
        !open && /^ *(```|~~~)/ {
            open = NR; text = ""; language = $0
            sub(/^ */, "", language); indent = length($0) - length(language)
            fence = substr(language, 1, 3); language = substr(language, 4)
            next
        }
        open {
            inside = substr($0, indent + 1)
            if (inside != fence) { text = text inside "\n"; next }
            if (ENVIRON["line"] == open) printf "%s", text
            if (index("\n" text, "\n" ENVIRON["needle"] "\n")) whole = whole open " " language "\n"
            if (index(text, ENVIRON["needle"])) part = part open " " language "\n"
            open = 0
        }
        END {
            if (open) { print open, "a block that does not end"; exit 1 }
            if (ENVIRON["line"] == "") printf "%s", whole != "" && ENVIRON["needle"] != "" ? whole : part
        }' "$1"
}

# find_block FILE TEXT: the line of the one block of a page that holds a text, or else what is wrong.
find_block() {
    local found
    [[ -f $1 ]] || { echo "there is no page $1"; return 1; }
    found=$(fences "$1" "$2") || { echo "$1:$found"; return 1; }
    case $found in
    '') echo "no block of $1 holds: $2"; return 1 ;;
    *$'\n'*) echo "more than one block of $1 holds: $2"; return 1 ;;
    *) echo "${found%% *}" ;;
    esac
}

# assignments FILE: the blocks that a scene, or the list of those that are not run, names: line, page and text, parted by tabs.
assignments() {
    local number=0 written
    while IFS= read -r written; do
        ((number += 1))
        [[ ! $written =~ ^\ *# && $written =~ (^|[ \(])([^ \']+\.md)\ \'([^\']+)\' ]] || continue
        printf '%s\t%s\t%s\n' "$number" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
    done <"$1"
}
