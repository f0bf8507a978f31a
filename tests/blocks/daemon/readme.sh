#!/usr/bin/env bash
# The first five minutes, in the second terminal: beside a daemon on its private database, with the quick start's file.
#
# In a folder of its own. PROGRAM is the program, ADDRESS where its pages are, TARGET a web server, NOBODY a port that is free.
# shellcheck disable=SC2016 # a block is named by its own text
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

mkdir -p target/release
ln -s "$PROGRAM" target/release/lamplighter
stands 127.0.0.1:8780 "$ADDRESS"
stands 127.0.0.1:8000 "$NOBODY"
# Nobody is asked over the internet.
stands https://example.com/ "$TARGET/by-sql"

shown() { { lamplighter status || true; } | grep -qE "$1"; }
counted() { [[ $(psql -qAtX "$(lamplighter db url)" -c "$1") == "$2" ]]; }

block README.md 'export PATH='
shows '^MONITOR +STATUS'
shows '^lamplighter +(up|pending)'
shows '^my-site +(up|pending)'

# CHANGE ME
sed -i --follow-symlinks "s|https://example.com/|$TARGET/mine|" lamplighter.toml
block README.md 'lamplighter check-config'
shows 'valid: 2 monitors in 1 file'
until_true 20 'the changed address is watched' shown '^my-site +up'

exits 1 README.md 'cat >>lamplighter.toml'
shows '^port-8000 +down .*connect_refused'
exits 124 README.md 'timeout 10 perl'
# It is down again by now; the incident of before is over.
block README.md 'ORDER BY i.started_at DESC LIMIT 5'
shows '^ port-8000 .* \| +[0-9]+$'
block README.md 'lamplighter uptime port-8000 --days 1 --explain'
shows 'incident'

until_true 20 'port-8000 is down again' shown '^port-8000 +down'
exits 1 README.md 'INSERT INTO monitors (user_id, name, url)'
shows '^Added by SQL +up'
block README.md 'ORDER BY c.checked_at DESC LIMIT 10'
shows '^ Added by SQL .* \| t +\| +200 \| +[0-9]+ \| *$'
shows '^ port-8000 .* \| f .*connect_refused'
block README.md 'AS checked_at'
shows '^ Lamplighter itself +\| [0-9-]+ '

block README.md 'TOKEN=$(lamplighter token create'
shows '"items":\[\{.*"next":null'
shows_no urn:lamplighter:problem
block README.md 'lamplighter probe http://'
shows '^UP http://'

finish
