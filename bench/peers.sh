# shellcheck shell=bash
# Peers that are not Debian packages. One that cannot be had is named in the table. Sourced
# by scripts/bench, never run.

# The sourcing script's.
: "${root:?}" "${tools:?}"

export HORUST_VERSION=0.1.14

# Horust does not compile without its HTTP client: a function then returns nothing for a bool.
install_horust() {
    [ ! -x "$tools/bin/horust" ] || return 0
    say "building horust $HORUST_VERSION"
    # Hardly optimised: what it is measured at waits for its own timers, and its build is a
    # fifth of the whole run.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        cargo install horust --locked --quiet --version "$HORUST_VERSION" --root "$tools" ||
        say "NOT MEASURED: horust: it cannot be built, see above"
}

# Canonical's service manager; the Debian package of that name is a test server for ACME.
install_pebble() {
    [ ! -x "$tools/bin/pebble" ] || return 0
    if ! command -v go >/dev/null 2>&1; then
        say "NOT MEASURED: pebble: it takes Go 1.22 or later to build, and there is no go"
        return 0
    fi
    say "building pebble"
    mkdir -p "$tools/bin"
    (cd "$root/bench/pebble" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$tools/bin/pebble" \
        github.com/canonical/pebble/cmd/pebble) ||
        say "NOT MEASURED: pebble: it cannot be built, see above"
}

# Not in every Debian; one that is on PATH is measured as well.
install_s6_rc() {
    ! command -v s6-rc >/dev/null 2>&1 || return 0
    if has_package s6-rc; then
        install_packages s6-rc:s6-rc
    else
        say "NOT MEASURED: s6-rc: this Debian has no package of it"
    fi
}
