#!/usr/bin/env bash
# The upgrade of a database with integer keys, and both ways on from there.
#
# The configuration names such a database.
# shellcheck disable=SC2016 # a block is named by its own text
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

database=$(lamplighter db url)
query() { psql -qAtX -v ON_ERROR_STOP=1 "$database" -c "$1"; }

block docs/upgrading-legacy.md 'lamplighter migrate legacy --dry-run'
shows 'nothing was changed'
block docs/upgrading-legacy.md 'lamplighter migrate legacy'
[[ $(query 'SELECT count(*) FROM monitors') == "$(query 'SELECT count(*) FROM legacy.monitors')" ]] || wrong 'not all monitors were moved'

if query "UPDATE legacy.users SET name = 'x'" 2>"$scene_folder/said"; then wrong 'the old application still writes'; fi
psql -qX -v ON_ERROR_STOP=1 "$database" < <(text docs/upgrading-legacy.md 'DROP TRIGGER lamplighter_kept') >"$scene_folder/said" 2>&1
query "UPDATE legacy.users SET name = 'x'"

block docs/upgrading-legacy.md '--drop-legacy'
[[ $(query "SELECT count(*) FROM pg_namespace WHERE nspname = 'legacy'") == 0 ]] || wrong 'the old tables are there'

finish
