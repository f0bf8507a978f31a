#!/usr/bin/env bash
# An operator's life on Debian, page by page: install, configure, look, tune, save, move to another database, remove.
#
# As root of a machine that systemd has booted, with Debian's own PostgreSQL on it and the package in /opt.
# shellcheck disable=SC2016 # a block is named by its own text
# shellcheck source=tests/blocks/scene.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../scene.sh"

cd /opt
# The operator who answers yes.
echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/90yes
serves() { curl -fsS -o /dev/null http://127.0.0.1:8780/healthz; }
ready() { curl -fsS -o /dev/null http://127.0.0.1:8780/readyz; }
status_is() { { lamplighter status || true; } | grep -qE "^$1 +$2"; }
journal_of() { [[ -n $(journalctl -q -o cat "LAMPLIGHTER_MONITOR=$1") ]]; }
# on_server DATABASE QUERY: of the operator's server.
on_server() { runuser -u postgres -- psql -qAtX "$1" -c "$2"; }
recorded() { [[ $(on_server lamplighter 'SELECT count(*) > 0 FROM monitor_checks') == t ]]; }
count() { psql -qAtX "$(lamplighter db url)" -c "SELECT count(*) FROM $1"; }
# Whether an example of the package lies where its first line says.
in_place() { [[ -e $(sed -n '1s/^# \([^ ,]*\).*/\1/p' "/usr/share/doc/lamplighter/examples/$1") ]] || wrong "$1 belongs elsewhere"; }
# drop_in NAME: takes in lines of the unit, as `systemctl edit` does, and restarts it.
drop_in() {
    mkdir -p /etc/systemd/system/lamplighter.service.d
    cat >"/etc/systemd/system/lamplighter.service.d/$1.conf"
    systemctl daemon-reload
    systemctl restart lamplighter
    until_true 30 'it is ready after a change of its unit' ready
}

# --- Installed
block docs/install.md 'create_main_cluster = false'
block docs/install.md 'apt install ./lamplighter_*.deb'
until_true 60 'it serves its pages' serves
until_true 20 'it watches itself' status_is lamplighter up
block docs/install.md 'lamplighter status'
shows 'http://127\.0\.0\.1:8780'
shows admin-token
shows '^lamplighter +up'

# --- Configured
cat >>/etc/lamplighter/config.toml <<'TOML'

[[monitor]]
id = "shop"
url = "tcp://localhost:9"
interval = "1s"
TOML
block docs/install.md 'systemctl reload lamplighter'
shows 'valid: 2 monitors in 1 file'
until_true 20 'an incident opens' status_is shop down
cp -p /etc/lamplighter/config.toml good
echo 'intervall = 3' >>/etc/lamplighter/config.toml
exits 78 docs/install.md 'systemctl reload lamplighter'
shows 'intervall.*"interval"'
cat good >/etc/lamplighter/config.toml
systemctl reload lamplighter

# --- Looked at
until_true 20 'the journal knows the monitor' journal_of shop
block docs/install.md 'journalctl LAMPLIGHTER_MONITOR=shop'
shows 'lamplighter\[[0-9]+\]: .*(shop|connection refused)'
block docs/logs.md 'journalctl -t lamplighter'
shows 'lamplighter\[[0-9]+\]: .*(shop|connection refused)'
block docs/troubleshooting.md 'lamplighter doctor'
block docs/tuning.md 'lamplighter doctor'
block docs/security.md 'systemd-analyze security lamplighter'
shows '^-rw-r----- root lamplighter /etc/lamplighter/config.toml$'
shows '^drwx------ lamplighter lamplighter /var/lib/lamplighter$'
shows '^→ Overall exposure level for lamplighter.service: 1\.1 OK'
block docs/troubleshooting.md 'lamplighter support-bundle'
block docs/troubleshooting.md 'tar -tzf'
shows 'doctor'
shows 'metrics'

# --- Tuned
block docs/tuning.md 'metrics() {'
for name in checks_in_flight checks_waiting checks_limit open_fds max_fds resident_memory_bytes; do
    shows "^(lamplighter|process)_$name "
done
block docs/tuning.md 'scheduler_silent_seconds'
for name in check_lateness_seconds task_lag_seconds_total scheduler_silent_seconds monitors_overdue; do
    shows "^lamplighter_$name"
done
block docs/tuning.md 'checks_missed_total'
shows '^lamplighter_checks_missed_total'
shows '^ reason +\| count \|'
text docs/tuning.md 'LimitNOFILE=262144' | drop_in files
block docs/tuning.md 'prlimit --nofile'
# A container may have less than its unit asks for.
limit=$(sed -n 's/^process_max_fds //p' "$scene_folder/said")
shows "^NOFILE .* $limit +$limit"
[[ $(systemctl show -P LimitNOFILE lamplighter) == 262144 ]] || wrong 'the unit did not take LimitNOFILE'
text docs/tuning.md 'MALLOC_ARENA_MAX' | drop_in memory
grep -qz '^MALLOC_ARENA_MAX=2' "/proc/$(systemctl show -P MainPID lamplighter)/environ" || wrong 'the daemon was not given it'
block docs/tuning.md 'ip_local_port_range net.ipv4.tcp_tw_reuse'
text docs/tuning.md 'ip_local_port_range = ' >/etc/sysctl.d/50-ports.conf
sysctl -q -p /etc/sysctl.d/50-ports.conf
[[ $(sysctl -n net.ipv4.ip_local_port_range) == 15000*60999 ]] || wrong 'the range is another one'
until_true 20 'names are looked up' metrics 'monitor_phase_duration_seconds.*phase="dns"'
block docs/tuning.md 'phase="dns"'
shows 'monitor="shop"'
block docs/tuning.md 'backlog_(records'
for name in backlog_records backlog_bytes backlog_limit_bytes unrecorded_age_seconds store_write_duration \
    store_write_failures recorder_delayed backlog_thinned; do
    shows "^lamplighter_$name"
done
block docs/tuning.md 'df -h'
shows '^lamplighter_history_bytes'
block docs/tuning.md 'net.ipv4.ping_group_range'
# Where the machine gives a guest no cgroup that counts them, systemd has no such line.
if [[ $(systemctl show -P TasksCurrent lamplighter) == *[!0-9]* ]]; then
    exits 1 docs/tuning.md 'grep Tasks'
else
    block docs/tuning.md 'grep Tasks'
    shows 'Tasks: [0-9]+ \(limit: 4096\)'
fi

# --- Permitted to ping
cat >>/etc/lamplighter/config.toml <<'TOML'

[[monitor]]
id = "ping"
url = "icmp:127.0.0.1"
interval = "1s"
TOML
systemctl reload lamplighter
until_true 20 'a ping is not permitted' status_is ping unknown
# Of the machine's own keys, which Debian's files set, a guest may change those of its network only.
exits 1 docs/install.md 'sysctl --system'
shows '^net.ipv4.ping_group_range = 0 2147483647$'
shows_no 'permission denied on key "net'
in_place 50-lamplighter-ping.conf
until_true 20 'pings work by the sysctl' status_is ping up
sysctl -q -w net.ipv4.ping_group_range='1 0'
until_true 20 'a ping is not permitted again' status_is ping unknown
block docs/install.md 'examples/icmp.conf'
in_place icmp.conf
until_true 30 'pings work by a capability' status_is ping up

# --- Behind a socket of systemd
block docs/install.md 'systemctl enable --now lamplighter.socket'
until_true 30 'it serves by the socket' ready
in_place lamplighter.socket
[[ $(journalctl -u lamplighter -o cat) == *'(a socket of systemd)'* ]] || wrong 'the journal says nothing of the socket'
systemctl stop lamplighter
until_true 60 'a connection starts the service' serves
systemctl restart --no-block lamplighter
# curl's 52 and 56: accepted in the old daemon's last moment and closed without an answer, which HTTP allows.
for ((try = 0; try < 10; try++)); do
    code=0
    serves || code=$?
    ((code == 0 || code == 52 || code == 56)) || wrong "a connection failed during a restart, curl's code is $code"
done
((code == 0)) || wrong 'it does not answer after a restart'
systemctl disable -q --now lamplighter.socket
systemctl restart lamplighter
until_true 30 'it serves by itself' ready

# --- Saved
block docs/backup.md 'lamplighter db verify'
shows 'whole and unchanged'
rows=$(count incidents)
block docs/backup.md 'lamplighter db restore --force'
shows 'equal to the backup'
until_true 30 'it runs on what was restored' ready
(($(count incidents) >= rows)) || wrong 'the history was not restored'
[[ -z $(find /var/lib/lamplighter ! -user lamplighter) ]] || wrong 'the service does not own what root restored'
text docs/backup.md 'Description=Backup' >/etc/systemd/system/lamplighter-backup.service
text docs/backup.md 'OnCalendar' >/etc/systemd/system/lamplighter-backup.timer
install -d -m 0700 -o lamplighter /var/backups/lamplighter
systemd-analyze verify lamplighter-backup.service lamplighter-backup.timer
systemctl daemon-reload
systemctl enable -q --now lamplighter-backup.timer
systemctl start lamplighter-backup.service
lamplighter db verify /var/backups/lamplighter/[1-7].backup
rm /var/backups/lamplighter/[1-7].backup
# As cron takes it: five fields, then a command in which \% is a %.
text docs/backup.md '15 3 * * *' >schedule
read -r _ _ _ _ _ job <schedule
runuser -u lamplighter -- env -i HOME=/nonexistent LOGNAME=lamplighter PATH=/usr/bin:/bin /bin/sh -c "${job//\\%/%}"
lamplighter db verify /var/backups/lamplighter/[1-7].backup

# --- On a server of the operator's: by its socket, with what the private database held
block docs/backup.md 'db dump /var/backups/lamplighter/move.backup'
block docs/install.md 'createdb -O lamplighter lamplighter'
text docs/install.md 'host=/run/postgresql' >>/etc/lamplighter/config.toml
block docs/backup.md 'db restore /var/backups/lamplighter/move.backup'
until_true 30 'it runs on the server' ready
[[ $(lamplighter db url 2>/dev/null) == *host=/run/postgresql ]] || wrong 'it is on another database'
moved=$(on_server lamplighter 'SELECT count(*) FROM incidents')
((moved >= rows)) || wrong 'the history was not moved'

# --- On another machine, with a password
systemctl stop lamplighter
runuser -u postgres -- psql -q -c 'DROP DATABASE lamplighter' -c 'DROP ROLE lamplighter'
stands 'choose one' canary-of-ours
stands ':PASSWORD@' ':canary-of-ours@'
text docs/postgres.md 'CREATE ROLE' | runuser -u postgres -- psql -q -v ON_ERROR_STOP=1
echo '127.0.0.1 db.example.com' >>/etc/hosts
block docs/install.md 'external-database.conf'
sed '/^\[database\]/,/^url/d' -i /etc/lamplighter/config.toml
text docs/install.md 'credential = ' >>/etc/lamplighter/config.toml
systemctl start lamplighter
until_true 30 'it logs in by the credential' ready
in_place external-database.conf
[[ $(on_server lamplighter "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'lamplighter' AND client_addr = '127.0.0.1'") == t ]] ||
    wrong 'it did not log in by its address'
until_true 30 'it records what it finds' recorded
systemctl reload lamplighter
until_true 20 'root asks it by the credential' status_is shop down
block docs/install.md 'systemd-run --pipe'
shows 'valid: 3 monitors'
[[ $(journalctl -o cat) != *canary-of-ours* ]] || wrong 'the password is in the journal'

# --- Removed
block docs/install.md 'apt purge lamplighter'
shows 'still there'
[[ ! -e /var/lib/lamplighter && ! -e /etc/lamplighter ]] || wrong 'purging left something'
# By name, since nobody has the user any more.
! pgrep -x lamplighter || wrong 'a process is left'
recorded || wrong "purging took the operator's database"

finish
