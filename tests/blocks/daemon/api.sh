#!/usr/bin/env bash
# What the pages about the API, uptime, history, exports, maintenance and jobs show, on one database with a daemon beside it.
#
# In a folder of its own, which is HOME, with a monitor `shop` of TARGET and a heartbeat `backup`. ADDRESS is where the pages are.
# shellcheck disable=SC2016 # a block is named by its own text
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

database=$(lamplighter db url)
query() { psql -qAtX -v ON_ERROR_STOP=1 "$database" -c "$1"; }
is() { [[ $(query "$1") == "$2" ]]; }
refused() { [[ $(curl -sS -o answer -w '%{http_code}' -H "Authorization: Bearer $1" "http://$ADDRESS/api/v1/monitors") == 401 ]]; }
exported() { [[ $(head -1 checks.csv) == id,monitor_id,monitor,checked_at,* && $(wc -l <checks.csv) -gt 3 ]] || wrong 'checks.csv has no checks'; }
# sql PAGE TEXT: the block, as one who pastes it into psql.
sql() {
    take "$1" "$2"
    psql -X -v ON_ERROR_STOP=1 "$database" <<<"$scene_text" >"$scene_folder/said" 2>&1
    printf '%4s s  %s\n' "$SECONDS" "$scene_at"
}

until_true 30 'shop has checks' is "SELECT count(*) > 3 FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id WHERE key = 'shop'" t
shop=$(query "SELECT id FROM monitors WHERE key = 'shop'")
other=$(lamplighter token create --name other --scope read)
id=$(lamplighter token list | sed -n 's/^\([0-9a-f-]\{36\}\) .*/\1/p')
stands 127.0.0.1:8780 "$ADDRESS"
stands 0a96f0e1-5d7f-42ce-875e-0fd5b4ea3b56 "$id"
stands 0f6e... "$shop"
stands 0f6e… "$shop"
stands 5f0c… "$(query "SELECT user_id FROM monitors WHERE key = 'shop'")"

# --- docs/api.md
block docs/api.md 'lamplighter token revoke'
shows '"key":"shop"'
shows '^[0-9a-f-]{36} +read .* laptop$'
until_true 15 'the revoked token is refused' refused "$other"
block docs/api.md 'admin-token)'
shows '"unchanged"|"applied"|"outcome"'
block docs/api.md 'admin.sock'
shows '"monitor":"shop"'
block docs/api.md '/latency?days=7&step=day'
shows '"verdict":"up"'
shows '"time_weighted"'
shows '"series"'
shows_no urn:lamplighter:problem

# The answer to a mistake, as it is shown: keys and values.
text docs/api.md 'unknown_parameter' >wanted.json
curl -sS -H "$A" "$U/monitors?limt=1" >found.json
python3 - <<'PYTHON'
import json
wanted, found = (json.load(open(name)) for name in ("wanted.json", "found.json"))
assert {**found, **wanted} == found, f"documented: {wanted}, answered: {found}"
PYTHON

# --- docs/uptime.md
block docs/uptime.md 'lamplighter uptime shop '
shows '"spans"'
shows_no urn:lamplighter:problem

# --- docs/history.md
sql docs/history.md 'calculate_uptime_percentage'
shows ' p95_ms '
shows '^ +100\.?0*$'

# --- docs/export.md
block docs/export.md 'export checks --from 30d'
exported
gzip -t november.ndjson.gz
rm checks.csv
block docs/export.md 'api/v1/export/checks'
exported
block docs/export.md 'lamplighter export --source database'
LAMPLIGHTER_BACKUP__TOKEN=u0Jm3oYt9Qe4Kx7w lamplighter check-config monitors.toml >"$scene_folder/said" 2>&1

# --- docs/maintenance.md
sql docs/maintenance.md 'INSERT INTO maintenances'
is "SELECT string_agg(name || (archived_at IS NULL), ' ' ORDER BY name) FROM maintenances" 'Backuptrue Hot fixfalse' || wrong 'the windows are others'

# --- docs/checks.md
mkdir bin
printf '#!/bin/sh\necho "all is saved"\n' >bin/backup
chmod +x bin/backup
stands /usr/local/bin/backup "$PWD/bin/backup"
block docs/checks.md '/ping/$TOKEN/start'
until_true 20 'the job is up' is "SELECT status FROM monitors WHERE key = 'backup'" up
printf '#!/bin/sh\necho "no space"\nexit 3\n' >bin/backup
block docs/checks.md '/ping/$TOKEN/start'
until_true 20 'the job is down' is "SELECT status FROM monitors WHERE key = 'backup'" down

# --- docs/postgres.md
block docs/postgres.md 'rolconnlimit'
shows '^ +-1 \| [0-9]+'
block docs/postgres.md 'pg_stat_user_tables'
shows '^ monitor_state +\|'
shows 'active|idle'
query "CREATE ROLE shop_$$"
stands 'TO shop;' "TO shop_$$;"
sql docs/postgres.md 'GRANT SELECT'
is "SELECT has_table_privilege('shop_$$', 'monitors', 'INSERT')" t || wrong 'the role may not write monitors'
query "DROP OWNED BY shop_$$; DROP ROLE shop_$$"

finish
