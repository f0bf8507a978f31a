# shellcheck shell=bash
# Sourced by packaging/build-deb and packaging/build-rpm: builds the program and lays out what every package holds.

package=lamplighter

# Options that both have.
# shellcheck disable=SC2034 # quick is read by who sources this
read_options() {
    # shellcheck disable=SC2154 # root is set by who sources this
    program='' output=$root/target/package version='' quick=''
    while (($#)); do
        case $1 in
        --program) program=${2:?--program needs a file} && shift ;;
        --output) output=${2:?--output needs a folder} && shift ;;
        # For tests: not compressed.
        --quick) quick=yes ;;
        --version) version=${2:?--version needs a version} && shift ;;
        *) stop "usage: ${0##*/} [--program FILE] [--version VERSION] [--output FOLDER] [--quick]" 64 ;;
        esac
        shift
    done
    # In cargo's form, such as 0.2.0-rc.1; each kind of package writes it in its own.
    [[ -n $version ]] || version=$(sed -n '0,/^version = "\(.*\)"/s//\1/p' "$root/Cargo.toml")
    mkdir -p "$output"
    output=$(cd "$output" && pwd)
}

# The time of everything inside, so that a second build gives the same bytes.
source_date() {
    [[ -n ${SOURCE_DATE_EPOCH-} ]] || SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/Cargo.toml")
    export SOURCE_DATE_EPOCH
}

# A program without a trace of where it was built, unless one was given.
build_program() {
    [[ -z $program ]] || return 0
    find_rust "$root"
    heading "Building (the first time takes some minutes)"
    local flags="--remap-path-prefix=$root=/lamplighter --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    # Apart from other builds, which these flags would make stale.
    (cd "$root" && RUSTFLAGS=$flags cargo build --release --locked --target-dir target/packaged)
    program=$root/target/packaged/release/lamplighter
}

# stage FOLDER: the tree of files, as a package of any kind has it. Unit, sysusers and tmpfiles are each kind's own matter.
stage() {
    local tree=$1 doc=$1/usr/share/doc/$package folder page name
    install -D -m 755 "$program" "$tree/usr/bin/lamplighter"
    strip --strip-unneeded --remove-section=.comment "$tree/usr/bin/lamplighter"
    install -D -m 640 "$root/packaging/config.toml" "$tree/etc/lamplighter/config.toml"
    install -d -m 750 "$tree/etc/lamplighter/config.d"

    folder=$(mktemp -d)
    "$program" __manual "$folder"
    for page in "$folder"/*; do
        install -D -m 644 "$page" "$tree/usr/share/man/man${page##*.}/${page##*/}"
    done
    rm -rf "$folder"
    find "$tree/usr/share/man" -type f -exec gzip -9n {} +

    folder=$tree/usr/share
    mkdir -p "$folder/bash-completion/completions" "$folder/zsh/vendor-completions" "$folder/fish/vendor_completions.d"
    "$program" completions bash >"$folder/bash-completion/completions/lamplighter"
    "$program" completions zsh >"$folder/zsh/vendor-completions/_lamplighter"
    "$program" completions fish >"$folder/fish/vendor_completions.d/lamplighter.fish"

    mkdir -p "$doc/examples"
    install -m 644 "$root/README.md" "$root/CHANGELOG.md" "$root/config.example.toml" "$doc/"
    # Their index is a README as well: it has another name beside that of the whole.
    for page in "$root"/docs/*.md; do
        name=${page##*/}
        [[ $name != README.md ]] || name=index.md
        install -m 644 "$page" "$doc/$name"
    done
    install -m 644 "$root"/packaging/examples/* "$root/docs/alerts.yml" "$doc/examples/"
}
