# shellcheck shell=bash
# What scripts/run and scripts/test share: everything that may be missing on a fresh
# Debian machine is installed here, and what cannot be is named. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=image/common.sh
. "$root/image/common.sh"

arch=$(uname -m)
target=$arch-unknown-linux-musl
standin=$root/tests/standin

# rustup installs there without telling the shell that is running.
[ -z "${HOME:-}" ] || PATH=$PATH:$HOME/.cargo/bin
PATH=$PATH:/usr/sbin

started=$SECONDS
heading() { printf '\n== %s (at %d s)\n' "$*" "$((SECONDS - started))"; }

# Run as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        fail "cannot install packages: not root, and there is no sudo
hint: run as root: $*"
    fi
}

# install_packages FILE:PACKAGE...: install each package whose file (a command, or a path)
# is missing.
install_packages() {
    local entry missing=()
    for entry in "$@"; do
        case $entry in
        /*) [ -e "${entry%%:*}" ] || missing+=("${entry##*:}") ;;
        *) command -v "${entry%%:*}" >/dev/null 2>&1 || missing+=("${entry##*:}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    command -v apt-get >/dev/null 2>&1 ||
        fail "cannot install ${missing[*]}: there is no apt-get
hint: install what your system calls these packages"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq ||
        say "cannot refresh the package lists: trying with the old ones"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
        fail "cannot install ${missing[*]}: apt-get failed, see above"
}

# Whether this Debian can install a package of that name; some are known and cannot.
has_package() { apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [^(]'; }

# What building the bundle and booting it takes.
install_bundle_packages() {
    local qemu="qemu-system-x86_64:qemu-system-x86"
    [ "$arch" = x86_64 ] || qemu="qemu-system-aarch64:qemu-system-arm"
    install_packages gcc:gcc /usr/include/stdlib.h:libc6-dev musl-gcc:musl-tools ld:binutils \
        python3:python3 mkfs.erofs:erofs-utils mkfs.ext4:e2fsprogs \
        setpriv:util-linux "$qemu" /usr/share/ca-certificates/mozilla:ca-certificates
    python3 -m pip --version >/dev/null 2>&1 || install_packages /nonexistent:python3-pip
    if [ ! -x /usr/libexec/virtiofsd ] && [ ! -x /usr/lib/qemu/virtiofsd ]; then
        # A package of its own since Debian 13, a part of another before.
        if has_package virtiofsd; then
            install_packages /usr/libexec/virtiofsd:virtiofsd
        else
            install_packages /usr/lib/qemu/virtiofsd:qemu-system-common
        fi
    fi
}

RUSTUP_VERSION=1.29.0

rustup_sha256() {
    case $1 in
    x86_64) echo 4acc9acc76d5079515b46346a485974457b5a79893cfb01112423c89aeb5aa10 ;;
    aarch64) echo 9732d6c5e2a098d3521fca8145d826ae0aaa067ef2385ead08e6feac88fa5792 ;;
    *) fail "cannot install Rust: no installer is pinned for $1" ;;
    esac
}

# Rust's own installer, pinned: Debian has a package of it since 13 only.
install_rustup() {
    local sum installer
    sum=$(rustup_sha256 "$arch")
    install_packages curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates
    installer=$(mktemp -d)/rustup-init
    say "installing rustup $RUSTUP_VERSION"
    curl --fail --silent --show-error --location --output "$installer" \
        "https://static.rust-lang.org/rustup/archive/$RUSTUP_VERSION/$arch-unknown-linux-gnu/rustup-init" ||
        fail "cannot install Rust: its installer cannot be downloaded, see above
hint: install rustup from https://rustup.rs and start this again"
    echo "$sum  $installer" | sha256sum --check --quiet >&2 ||
        fail "cannot install Rust: its installer is not the pinned one"
    chmod +x "$installer"
    "$installer" -y --quiet --no-modify-path --default-toolchain none --profile minimal >&2 ||
        fail "cannot install Rust: its installer failed, see above"
    rm -r "$(dirname "$installer")"
}

# The toolchain that rust-toolchain.toml names, with the musl target.
install_rust() {
    local channel
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    if ! command -v cargo >/dev/null 2>&1; then
        if has_package rustup; then
            install_packages rustup:rustup
        else
            install_rustup
        fi
    fi
    if command -v rustup >/dev/null 2>&1; then
        rustup run "$channel" cargo --version >/dev/null 2>&1 ||
            rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt >&2 ||
            fail "cannot install Rust $channel: rustup failed, see above"
        rustup target list --installed --toolchain "$channel" | grep -qx "$target" ||
            rustup target add --toolchain "$channel" "$target" >&2 ||
            fail "cannot install the Rust target $target: rustup failed, see above"
        return
    fi
    command -v cargo >/dev/null 2>&1 ||
        fail "cannot build: there is no cargo, and this Debian has no package rustup (13 and later have)
hint: install Rust $channel from https://rustup.rs and start this again"
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
        fail "cannot build: $(rustc --version) has no target $target, and there is no rustup to add it
hint: install Rust $channel from https://rustup.rs and start this again"
}

build_init() {
    (cd "$root" && cargo build --release --locked --target "$target" --package sidecar-init)
}

# The stand-in is not needed where another pipelock is named.
build_standin() {
    if [ -n "${PIPELOCK_BIN:-}" ] || ! grep -qx 'digest=unknown' "$root/image/pipelock.lock"; then
        say "the stand-in is not needed: another pipelock is named"
        return
    fi
    (cd "$standin" && cargo build --release --locked --target "$target")
}
