#!/usr/bin/env bash
# Builds what the image holds: build.sh ARCH FOLDER [PROFILE] puts the static binary `nicplug` and the list of what it is
# made of, `nicplug.cdx.json`, into FOLDER. ARCH is amd64 or arm64, as Docker names them. It needs Rust, a C compiler,
# Python, crates.io and PyPI, and for another architecture than this machine's a static qemu-user; the Dockerfile and
# `just image-proof` call it.
#
# It is built twice: first to count, by train.py, how often each part of it runs, and then laid out by that. A binary
# for the PROFILE of another name than release is built once.
set -euo pipefail
arch=$1 folder=$(realpath --canonicalize-missing "$2") profile=${3:-release}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case $arch in
    amd64) target=x86_64-unknown-linux-musl cpu=x86_64 ;;
    arm64) target=aarch64-unknown-linux-musl cpu=aarch64 ;;
    *)
        echo "build.sh: \"$arch\" is no architecture of the image: amd64 or arm64" >&2
        exit 1
        ;;
esac

source image/environment.sh "$target"
build() {
    cargo zigbuild --locked --profile "$profile" --target "$target" --bin nicplug "$@"
}

if [[ $profile == release ]]; then
    training=$PWD/target/training
    emulator=()
    if [[ $(uname --machine) != "$cpu" ]]; then
        if ! qemu=$(command -v "qemu-$cpu-static"); then
            echo "build.sh: a binary for $arch has to run here to be counted: install qemu-user-static" >&2
            exit 1
        fi
        # An emulator needs twenty times as long for each request, and fewer make the same proportions.
        emulator=(--emulator "$qemu" --requests 100)
    fi
    rustup component add llvm-tools
    counts=$training/$target.counts
    rm --recursive --force "$counts"
    # Zig's linker cannot be told which symbol to begin with, so Rust's own links what counts.
    RUSTFLAGS="-Cprofile-generate=$counts -Clinker=rust-lld -Clinker-flavor=ld.lld" build --target-dir "$training"
    LLVM_PROFILE_FILE="$counts/%p.profraw" \
        python3 image/train.py "$training/$target/$profile/nicplug" "${emulator[@]}"
    "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata merge --output "$training/$target.profdata" \
        "$counts"/*.profraw
    export RUSTFLAGS="-Cprofile-use=$training/$target.profdata"
fi
build
install -D --mode 755 "${CARGO_TARGET_DIR:-target}/$target/$profile/nicplug" "$folder/nicplug"
unset RUSTFLAGS

cyclonedx=target/tools/bin/cargo-cyclonedx version=0.5.9
if [[ $("$cyclonedx" cyclonedx --version 2>/dev/null) != *" $version" ]]; then
    # Unoptimised: that builds three times faster, and it has little to do.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root target/tools --version "$version" cargo-cyclonedx
fi
# It writes beside Cargo.toml, and no other place can be chosen. With the time of the commit one tree gives one list.
name=nicplug-$arch
trap 'rm --force "$name.json"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)} \
    "$cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --no-build-deps \
    --override-filename "$name"
install -D --mode 644 "$name.json" "$folder/nicplug.cdx.json"
