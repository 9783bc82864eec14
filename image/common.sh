# shellcheck shell=bash
# What image/* and scripts/* share. Sourced, never run.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# need COMMAND PACKAGE: stop unless COMMAND can be run.
need() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] ||
        fail "cannot run $1: not found (Debian package $2)"
}

# holds FILE SHA256: whether FILE is there and has that hash.
holds() {
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

# Print the directory for downloads, made if need be. HOME may be unset or empty in a
# bare container; then the checkout's own target/ keeps them.
cache_directory() {
    local root directory
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -n "${XDG_CACHE_HOME:-}" ]; then
        directory=$XDG_CACHE_HOME/sidecar-init
    elif [ -n "${HOME:-}" ] && [ -d "$HOME" ]; then
        directory=$HOME/.cache/sidecar-init
    else
        directory=$root/target/cache
    fi
    if ! { mkdir -p "$directory" && [ -w "$directory" ]; } 2>/dev/null; then
        directory=$root/target/cache
        mkdir -p "$directory"
    fi
    printf '%s\n' "$directory"
}

# The file that pins pipelock's image: PIPELOCK_LOCK, or the checkout's own.
pipelock_lock_file() {
    printf '%s\n' "${PIPELOCK_LOCK:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pipelock.lock}"
}

# pipelock_lock KEY: print the value of its line KEY=VALUE.
pipelock_lock() { sed -n "s/^$1=//p" "$(pipelock_lock_file)"; }

# container_arch ARCH: print what container images call an architecture.
container_arch() {
    case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) fail "cannot build for \"$1\" (accepted: x86_64, aarch64)" ;;
    esac
}

# What every file of an image is dated with: 1980, as what is older is no time to some programs
# (mitmproxy never loads an add-on of 1970, and says nothing; no ZIP archive holds it).
# shellcheck disable=SC2034 # of those who read this
readonly FILES_EPOCH=315532800

# The seconds since 1970 that a build is dated with, the same wherever it is built:
# SOURCE_DATE_EPOCH, or the time of the commit, or else what src/boot/clock.rs falls back to.
build_epoch() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
        printf '%s\n' "$SOURCE_DATE_EPOCH"
    else
        git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1793491200
    fi
}

# The commit that is being built, or "unknown"; with "-modified" if that is not all.
build_commit() {
    local root commit
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    commit=$(git -C "$root" rev-parse HEAD 2>/dev/null) || {
        echo unknown
        return
    }
    [ -z "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ] || commit+=-modified
    printf '%s\n' "$commit"
}

# cargo_field NAME: print a field of the init's Cargo.toml; nothing where it has none.
cargo_field() {
    sed -n "/^\[package\]/,/^\[/s/^$1 = \"\(.*\)\"\$/\1/p" "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml"
}
