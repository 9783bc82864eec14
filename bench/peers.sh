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

# install_by_go NAME PACKAGE: what `bench/NAME` pins, built by Go.
install_by_go() {
    [ ! -x "$tools/bin/$1" ] || return 0
    if ! command -v go >/dev/null 2>&1; then
        say "NOT MEASURED: $1: it takes Go to build ($(sed -n 's/^go //p' "$root/bench/$1/go.mod") or later), and there is no go"
        return 0
    fi
    say "building $1"
    mkdir -p "$tools/bin"
    (cd "$root/bench/$1" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$tools/bin/$1" "$2") ||
        say "NOT MEASURED: $1: it cannot be built, see above"
}

# Canonical's service manager; the Debian package of that name is a test server for ACME.
install_pebble() { install_by_go pebble github.com/canonical/pebble/cmd/pebble; }

# Stripe's proxy for what goes out.
install_smokescreen() { install_by_go smokescreen github.com/stripe/smokescreen; }

# Not in every Debian; one that is on PATH is measured as well.
install_s6_rc() {
    ! command -v s6-rc >/dev/null 2>&1 || return 0
    if has_package s6-rc; then
        install_packages s6-rc:s6-rc
    else
        say "NOT MEASURED: s6-rc: this Debian has no package of it"
    fi
}
