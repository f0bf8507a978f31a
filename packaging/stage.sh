# shellcheck shell=bash
# Sourced by packaging/build-*: builds the program and lays out what every package holds.

package=lamplighter
# Not of whoever builds: the modes end up in packages.
umask 022

# Options that all of them have.
# shellcheck disable=SC2034 # quick is read by who sources this
read_options() {
    # shellcheck disable=SC2154 # root is set by who sources this
    program='' output=$root/target/package version='' quick='' machine=''
    while (($#)); do
        case $1 in
        --program) program=${2:?--program needs a file} && shift ;;
        --output) output=${2:?--output needs a folder} && shift ;;
        --arch) machine=${2:?--arch needs amd64 or arm64} && shift ;;
        # For tests: not compressed.
        --quick) quick=yes ;;
        --version) version=${2:?--version needs a version} && shift ;;
        *) stop "usage: ${0##*/} [--program FILE] [--arch amd64|arm64] [--version VERSION] [--output FOLDER] [--quick]" 64 ;;
        esac
        shift
    done
    # In cargo's form, such as 0.2.0-rc.1; each kind of package writes it in its own.
    [[ -n $version ]] || version=$(sed -n '0,/^version = "\(.*\)"/s//\1/p' "$root/Cargo.toml")
    mkdir -p "$output"
    output=$(cd "$output" && pwd)
    choose_machine
}

# --arch, else that of the program which is given, else this one's.
choose_machine() {
    local found
    if [[ -n $program ]]; then
        [[ -x $program ]] || stop "--program $program: there is no such program" 66
        # Of ELF's head: which machine it is for.
        found=$(machine_of "elf$(od -An -tx1 -j18 -N2 "$program" | tr -d ' ')" 2>/dev/null) ||
            stop "--program $program: it is no program for amd64 or arm64" 65
    else
        found=$(machine_of "$(uname -m)") || exit
    fi
    machine=$(machine_of "${machine:-$found}") || exit
    [[ -z $program || $machine == "$found" ]] || stop "--program $program is for $found, --arch says $machine" 65
}

# The kernel's name of a machine, from any name of it.
machine_of() {
    case $1 in
    amd64 | x86_64 | elf3e00) echo x86_64 ;;
    arm64 | aarch64 | elfb700) echo aarch64 ;;
    *) stop "packages are made for amd64 and arm64, not for $1" 64 ;;
    esac
}

is_foreign() { [[ $machine != "$(uname -m)" ]]; }
# Debian's name of it.
# shellcheck disable=SC2329 # called by packaging/build-deb
debian_machine() { [[ $machine == aarch64 ]] && echo arm64 || echo amd64; }

# What packing needs and this machine lacks, one a line.
missing_for_package() {
    # A Postgres is needed where the program runs, not here.
    [[ -n $program ]] || missing_for_build | grep -vx postgresql || true
    command -v strip >/dev/null || echo binutils
    # Debian's python3-minimal lacks it.
    python3 -c 'import json' 2>/dev/null || echo python3
    if is_foreign; then
        command -v "$machine-linux-gnu-gcc" >/dev/null ||
            printf '%s\n' "gcc-${machine/_/-}-linux-gnu" "libc6-dev-$(debian_machine)-cross"
        command -v "qemu-$machine-static" >/dev/null || echo qemu-user-static
    fi
}

# The time of everything inside, so that a second build gives the same bytes.
source_date() {
    [[ -n ${SOURCE_DATE_EPOCH-} ]] || SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/Cargo.toml")
    export SOURCE_DATE_EPOCH
}

# A program without a trace of where it was built, unless one was given.
build_program() {
    local flags library target=$machine-unknown-linux-gnu linker
    local build=(cargo build --release --locked --target-dir target/packaged)
    [[ -z $program ]] || return 0
    find_rust "$root"
    program=$root/target/packaged/release/lamplighter
    if is_foreign; then
        library=$(rustc --print target-libdir --target "$target")
        [[ -d $library ]] || stop "Rust's standard library for $machine is missing, there is no $library: rustup target add $target"
        linker=${target//-/_}
        export "CARGO_TARGET_${linker^^}_LINKER=$machine-linux-gnu-gcc"
        build+=(--target "$target")
        program=$root/target/packaged/$target/release/lamplighter
    fi
    heading "Building (the first time takes some minutes)"
    flags="--remap-path-prefix=$root=/lamplighter --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    # Apart from other builds, which these flags would make stale.
    (cd "$root" && RUSTFLAGS=$flags "${build[@]}")
}

# The program itself writes its manual and completions.
run_program() {
    if is_foreign; then
        "qemu-$machine-static" -L "/usr/$machine-linux-gnu" "$program" "$@"
    else
        "$program" "$@"
    fi
}

# The versions of glibc's symbols that the program asks for, the newest last. Those without a number are newer than any here.
wanted_glibc() {
    LC_ALL=C readelf --version-info --wide "$program" | sed -n 's/.*Name: \(GLIBC_[^ ]*\) .*/\1/p' | sort -Vu
}

# stage FOLDER: the tree of files, as a package of any kind has it. Unit, sysusers and tmpfiles are each kind's own matter.
stage() {
    local tree=$1 doc=$1/usr/share/doc/$package folder page name strip=strip
    ! is_foreign || strip=$machine-linux-gnu-strip
    install -D -m 755 "$program" "$tree/usr/bin/lamplighter"
    "$strip" --strip-unneeded --remove-section=.comment "$tree/usr/bin/lamplighter"
    install -D -m 640 "$root/packaging/config.toml" "$tree/etc/lamplighter/config.toml"
    install -d -m 750 "$tree/etc/lamplighter/config.d"

    folder=$(mktemp -d)
    run_program __manual "$folder"
    for page in "$folder"/*; do
        install -D -m 644 "$page" "$tree/usr/share/man/man${page##*.}/${page##*/}"
    done
    rm -rf "$folder"
    find "$tree/usr/share/man" -type f -exec gzip -9n {} +

    folder=$tree/usr/share
    mkdir -p "$folder/bash-completion/completions" "$folder/zsh/vendor-completions" "$folder/fish/vendor_completions.d"
    run_program completions bash >"$folder/bash-completion/completions/lamplighter"
    run_program completions zsh >"$folder/zsh/vendor-completions/_lamplighter"
    run_program completions fish >"$folder/fish/vendor_completions.d/lamplighter.fish"

    mkdir -p "$doc/examples"
    install -m 644 "$root/README.md" "$root/CHANGELOG.md" "$root/config.example.toml" "$doc/"
    # Their index is a README as well: it has another name beside that of the whole.
    for page in "$root"/docs/*.md; do
        name=${page##*/}
        [[ $name != README.md ]] || name=index.md
        install -m 644 "$page" "$doc/$name"
    done
    install -m 644 "$root"/packaging/examples/* "$root/docs/alerts.yml" "$doc/examples/"
    list_parts >"$doc/lamplighter.cdx.json"
}

# What the program is made of. Which Rust compiled it, the program says itself.
list_parts() {
    local rust
    rust=$(LC_ALL=C readelf -p .comment "$program" 2>/dev/null | sed -n 's/.*rustc version \([0-9][^ ]*\).*/\1/p' | head -n1)
    find_rust "$root"
    # shellcheck disable=SC2086 # no word where none is known
    "$root/packaging/sbom" "$machine-unknown-linux-gnu" $rust
}
