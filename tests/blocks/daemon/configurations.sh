#!/usr/bin/env bash
# Every configuration that a page shows is accepted, and the one for Prometheus by Prometheus.
#
# In a folder of its own, without a daemon.
# shellcheck disable=SC2016 # a block is named by its own text
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

# accepted PAGE TEXT: the block and, before it, what it names.
accepted() {
    { cat; text "$1" "$2"; } >config.toml
    lamplighter check-config config.toml >"$scene_folder/said" 2>&1
    shows_no warning
}
shop='[[monitor]]
id = "shop"
url = "https://shop.example/"
tags = ["prod"]
[[monitor]]
id = "shop-db"
url = "tcp://db.example.com:5432"
'
export DATABASE_PASSWORD=secret

accepted README.md '${DATABASE_PASSWORD}' <<<"$shop"
accepted README.md 'id = "patch-night"' <<<"$shop"
accepted docs/history.md '[plans.free]' <<<"$shop"
accepted docs/maintenance.md 'id = "patch-night"' <<<"$shop"
accepted docs/maintenance.md 'id = "move-to-rack-7"' <<<"$shop"
accepted docs/postgres.md 'sslmode=verify-full' <<<"$shop"
accepted docs/tuning.md 'resolvers =' <<<"$shop"
accepted docs/tuning.md 'backlog =' <<<"$shop"
accepted docs/uptime.md 'id = "shop-month"' <<<"$shop"

# Of these rules each is another window's.
text docs/maintenance.md 'FREQ=MONTHLY;BYDAY=2TU' >rules
while IFS= read -r rule; do
    printf '%s\n' "$shop" '[[maintenance]]' 'id = "w"' 'monitors = ["shop"]' 'starts_at = 2026-11-29T02:00:00' \
        'timezone = "Europe/Berlin"' 'duration = "2h"' "$rule" >config.toml
    lamplighter check-config config.toml >"$scene_folder/said" 2>&1
done <rules

text docs/metrics.md 'job_name: lamplighter' >prometheus.yml
promtool check config --syntax-only prometheus.yml >"$scene_folder/said" 2>&1

finish
