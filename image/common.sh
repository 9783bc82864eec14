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
