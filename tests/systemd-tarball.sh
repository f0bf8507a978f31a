# shellcheck shell=bash
# shellcheck disable=SC2154 # root, work, guest and base_work are set by who sources this
# Sourced by tests/systemd: the tarball, from its list of files to a service that an operator set up by docs/install.md.

# What somebody who unpacks it looks for.
holds_everything() {
    local name
    tar -tzf "$1" | sed 's|^[^/]*/||' | sort >"$work/members"
    for name in bin/lamplighter README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE config.toml config.example.toml \
        lamplighter.cdx.json docs/install.md docs/openapi.json examples/lamplighter.socket share/man/man1/lamplighter.1.gz \
        share/man/man5/lamplighter.toml.5.gz share/bash-completion/completions/lamplighter share/zsh/site-functions/_lamplighter \
        share/fish/vendor_completions.d/lamplighter.fish lib/systemd/system/lamplighter.service lib/sysusers.d/lamplighter.conf \
        lib/tmpfiles.d/lamplighter.conf; do
        grep -qx -- "$name" "$work/members" || fail "the tarball has no $name"
    done
    tar -tvzf "$1" | awk '$2 != "root/root" { print; found = 1 } END { exit found }' || fail "the tarball has files of somebody"
    ok "the tarball holds $(grep -vc '/$' "$work/members") files"
}

# What is linked in, once each, and nothing that only tests need; every name that it refers to is there.
lists_parts() {
    python3 - "$1" <<'PYTHON' || fail "the list of what the program is made of is wrong: see above"
import json, sys

parts = json.load(open(sys.argv[1], encoding="utf-8"))
refs = [part["bom-ref"] for part in parts["components"]] + [parts["metadata"]["component"]["bom-ref"]]
scopes = {part["name"]: part["scope"] for part in parts["components"]}
graph = {entry["ref"]: entry["dependsOn"] for entry in parts["dependencies"]}
assert len(refs) == len(set(refs)), "a crate is listed twice"
assert set(graph) == set(refs), set(graph) ^ set(refs)
assert all(ref in graph for others in graph.values() for ref in others), "somebody depends on nobody"
assert {scopes[name] for name in ("tokio", "rustls", "sqlx", "rust-std")} == {"required"}, scopes
assert {scopes[name] for name in ("serde_derive", "cc")} == {"excluded"}, scopes
assert not {"criterion", "proptest", "rcgen", "tempfile"} & set(scopes), "a dependency of tests is listed"
assert all(part["licenses"] for part in parts["components"]), "a crate has no licence"
PYTHON
    ok "the list of what the program is made of names $(grep -c '"bom-ref"' "$1") parts"
}

# One that needs a C library of after 2.34, as every program does that uses its arc4random.
refuses_newer() {
    printf '#include <stdlib.h>\nint main(void) { return (int)(arc4random() & 1); }\n' >"$work/newer.c"
    cc "$work/newer.c" -o "$work/newer" || { ok "no program can be made here that needs a newer glibc: not tried"; return; }
    ! "$root/packaging/build-tarball" --program "$work/newer" --output "$work" >"$work/log" 2>&1 ||
        fail "a tarball was made of a program that needs glibc 2.36"
    grep -q 'needs GLIBC_2.36' "$work/log" || { cat "$work/log"; fail "the refusal does not say what the program needs"; }
    ok "a program that needs a newer glibc is refused"
}

# shellcheck disable=SC2329 # called by tests/systemd by its name
try_tarball() {
    holds_everything "$base_work"/new/*.tar.gz
    tar -xzOf "$(echo "$base_work"/new/*.tar.gz)" --wildcards '*/lamplighter.cdx.json' >"$work/parts.json"
    lists_parts "$work/parts.json"
    refuses_newer
    boot "$base_work"/new/*.tar.gz
    scene tarball
    until_true 60 "by the page's commands, the service is active" is_property ActiveState active
    until_true 20 "it serves its pages" listens
    find_database
    checks_arrive
    [[ $(in_guest stat -c '%U %G %a' /etc/lamplighter/config.toml) == 'root lamplighter 640' ]] ||
        fail "the configuration is $(in_guest stat -c '%U %G %a' /etc/lamplighter/config.toml)"
    [[ $(property FragmentPath) == /usr/local/lib/* ]] || fail "the unit is $(property FragmentPath)"
    in_guest lamplighter status >"$work/status" || { cat "$work/status"; fail "status does not work"; }
    ok "status works, the configuration is the service's to read"
}
