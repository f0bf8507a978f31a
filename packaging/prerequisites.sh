# shellcheck shell=bash
# Sourced by packaging/quickstart and tests/run: finds what the machine lacks and installs only that.

heading() { printf '\n==> %s\n' "$*"; }

# Messages name the place and the way out; 69 is sysexits' EX_UNAVAILABLE, as in the program itself.
stop() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-69}"
}

# The same places in the same order as the daemon looks in.
find_postgres() {
    local folder
    for folder in "${PG_BINDIR-}" "$(dirname -- "$(command -v postgres || echo /nowhere/x)")" \
        "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin; do
        if [[ -n $folder && -x $folder/postgres && -x $folder/initdb ]]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

# Links for real: gcc without the C library's start files is a usual trap of minimal images.
can_link() {
    local folder result=0
    command -v cc >/dev/null || return 1
    folder=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$folder/x.c"
    cc "$folder/x.c" -o "$folder/x" 2>/dev/null || result=1
    rm -rf "$folder"
    return "$result"
}

has_certificates() {
    [[ -s ${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt} || -s /etc/pki/tls/certs/ca-bundle.crt ]]
}

# Debian's cargo is too old for edition 2024, so rustup's folder is tried as well.
find_rust() {
    local root=$1 wanted found
    command -v cargo >/dev/null || PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        stop "no Rust found: install Rust $wanted or newer (https://rustup.rs), then run this again"
    fi
    found=$(rustc --version | cut -d' ' -f2) || stop "rustc does not run: see the message above"
    [[ $(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n1) == "$wanted" ]] ||
        stop "Rust $found is too old: $wanted or newer is needed (rustup update stable)"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

# Packages of servers set up and start a server of the system, which nobody asked for here. For the time of the
# installation, a drop-in keeps Postgres from making its cluster "main" and a policy keeps the others from starting. The
# user's createcluster.conf is never touched, and a policy of his own stands.
no_main_cluster=/etc/postgresql-common/createcluster.d/zz-lamplighter.conf
start_policy=/usr/sbin/policy-rc.d
own_policy=

hold_servers() {
    trap release_servers EXIT
    as_root mkdir -p "${no_main_cluster%/*}"
    echo 'create_main_cluster = false' | as_root tee "$no_main_cluster" >/dev/null
    [[ ! -e $start_policy ]] || return 0
    own_policy=yes
    # 101: forbidden by policy, which the packages' scripts accept.
    # shellcheck disable=SC2016 # $1 belongs to the policy
    printf '#!/bin/sh\ncase $1 in nginx* | prometheus* | monit* | redis* | mariadb* | mysql*) exit 101 ;; esac\nexit 0\n' | as_root tee "$start_policy" >/dev/null
    as_root chmod 755 "$start_policy"
}

release_servers() {
    trap - EXIT
    as_root rm -f "$no_main_cluster"
    as_root rmdir -p --ignore-fail-on-non-empty "${no_main_cluster%/*}"
    [[ -z $own_policy ]] || as_root rm -f "$start_policy"
    own_policy=
}

# Else those among the new packages would start with the machine.
disable_servers() {
    local package
    for package; do
        case $package in
        nginx*) as_root update-rc.d nginx disable ;;
        mariadb-server) as_root update-rc.d mariadb disable ;;
        redis-server | prometheus | prometheus-*-exporter | monit) as_root update-rc.d "$package" disable ;;
        esac
    done
}

# install_missing PACKAGE...: on anything but Debian and its kin it says what to install, and stops.
install_missing() {
    (($#)) || return 0
    command -v apt-get >/dev/null || stop "this machine lacks what Debian calls: $*
  Fedora:  dnf install gcc postgresql-server
  Alpine:  apk add gcc musl-dev postgresql
Install that, then run this again."
    if [[ $(id -u) != 0 ]] && ! command -v sudo >/dev/null; then
        stop "packages are missing and there is no sudo; run as root:
  apt-get update && apt-get install --no-install-recommends $*"
    fi
    heading "Installing $*"
    # A language that is asked for and not installed, as by ssh, would be complained of by every script of a package.
    local apt=(env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -o DPkg::Lock::Timeout=300 -o APT::Acquire::Retries=3) failed=0
    # A broken third-party source must not stop what Debian's own can serve.
    as_root "${apt[@]}" update -q || echo "apt-get update had errors; trying with what it has" >&2
    hold_servers
    as_root "${apt[@]}" install -q -y --no-install-recommends "$@" || failed=$?
    ((failed)) || disable_servers "$@"
    release_servers
    ((failed == 0)) || stop "apt-get could not install: $*"
}

# The packages that building and running need and this machine lacks, one a line.
missing_for_build() {
    # ring compiles C and assembler; cargo links with cc.
    can_link || printf '%s\n' gcc libc6-dev
    # cargo downloads crates, and the daemon trusts what the system trusts.
    has_certificates || echo ca-certificates
    find_postgres >/dev/null || echo postgresql
}
