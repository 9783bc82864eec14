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

# Whether this Debian can install a package of that name; some are known and cannot. Not a pipe
# into grep -q: that leaves early, and apt-cache fails for it.
has_package() { [[ $(apt-cache policy "$1" 2>/dev/null) == *"  Candidate: "[!\(]* ]]; }

# emulator ARCH: the file and the package of the QEMU that boots it.
emulator() {
    case $1 in
    x86_64) echo qemu-system-x86_64:qemu-system-x86 ;;
    *) echo qemu-system-aarch64:qemu-system-arm ;;
    esac
}

# install_bundle_packages [ARCH]: what building the bundle and booting it takes. The
# x86_64 kernel is wrapped by a compiler for x86_64.
install_bundle_packages() {
    local for_arch=${1:-$arch} qemu
    qemu=$(emulator "$for_arch")
    if [ "$for_arch" != "$arch" ]; then
        install_packages "$(cross_compiler "$for_arch"):gcc-${for_arch//_/-}-linux-gnu" \
            "/usr/$for_arch-linux-gnu/include/stdlib.h:libc6-dev-$(debian_arch "$for_arch")-cross"
    fi
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

# What the image is run with, as its operators run it, and what smolmachines' guest's root
# is packed with.
install_container_packages() {
    install_packages podman:podman runc:runc /usr/lib/podman/netavark:netavark \
        /usr/lib/podman/aardvark-dns:aardvark-dns catatonit:catatonit \
        podman-compose:podman-compose ip:iproute2 iptables:iptables zstd:zstd dockerd:docker.io
    # A package of its own since Debian 13, a part of the other before.
    ! has_package docker-cli || install_packages docker:docker-cli
}

# What the container image is built with, and without a daemon: buildah.
install_image_packages() {
    install_packages buildah:buildah skopeo:skopeo python3:python3 git:git \
        /usr/share/ca-certificates/mozilla:ca-certificates
}

# cross_compiler ARCH: the C compiler for it. Only the stand-in needs one.
cross_compiler() { echo "$1-linux-gnu-gcc"; }

debian_arch() {
    case $1 in
    x86_64) echo amd64 ;;
    *) echo arm64 ;;
    esac
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

# install_rust [ARCH]: the toolchain that rust-toolchain.toml names, with the musl target.
install_rust() {
    local channel target=${1:-$arch}-unknown-linux-musl
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
            rustup toolchain install "$channel" --no-self-update --profile minimal \
                --component clippy --component rustfmt >&2 ||
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

# Where cargo's own tools are kept, each pinned.
tools=$root/target/tools

# install_tool CRATE VERSION: build a tool from crates.io unless it is there. Not optimised:
# each is built on every fresh machine, and runs for seconds.
install_tool() {
    if ! cargo install --list --root "$tools" 2>/dev/null | grep -qx "$1 v$2:"; then
        say "building $1 $2: a minute or two, once"
        cargo install "$1" --debug --locked --quiet --version "$2" --root "$tools" >&2 ||
            fail "cannot build $1 $2, see above"
    fi
}

# build_init [ARCH]. The names of this machine's directories are taken out: they would make
# other bytes of the same commit elsewhere.
build_init() {
    local target=${1:-$arch}-unknown-linux-musl sysroot commit from flags=
    sysroot=$(cd "$root" && rustc --print sysroot)
    commit=$(cd "$root" && rustc --version --verbose | sed -n 's/^commit-hash: //p')
    for from in "$sysroot/lib/rustlib/src/rust=/rustc/$commit" \
        "${CARGO_HOME:-${HOME:-/root}/.cargo}=/cargo" "$root=/sidecar-init"; do
        flags+="'--remap-path-prefix=$from',"
    done
    (cd "$root" && cargo build --release --locked --target "$target" --package sidecar-init \
        --config "target.$target.rustflags=[$flags]")
}

# build_standin [ARCH]: not needed where another pipelock is named.
build_standin() {
    local for_arch=${1:-$arch} named
    named=PIPELOCK_BIN_${for_arch^^}
    if [ -n "${!named:-}${PIPELOCK_BIN:-}" ] || [ "$(pipelock_lock digest)" != unknown ]; then
        say "the stand-in is not needed: another pipelock is named"
        return
    fi
    build_standin_anyway "$for_arch"
}

# build_standin_anyway ARCH. Its TLS library is written in C, and compiled against glibc's
# headers for another architecture than this: there is no musl-gcc for that. What it is
# linked with is musl.
build_standin_anyway() {
    local target=$1-unknown-linux-musl compiler=()
    [ "$1" = "$arch" ] || compiler=("CC_${target//-/_}=$(cross_compiler "$1")")
    (cd "$standin" && env ${compiler[@]+"${compiler[@]}"} cargo build --release --locked --target "$target")
}
