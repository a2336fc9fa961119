#!/usr/bin/env bash
# Builds the content of the image: build.sh ARCH FOLDER [PROFILE] writes the static binary `nicplug`, its SBOM
# `nicplug.cdx.json` and the profile `nicplug.profdata` into FOLDER. ARCH is amd64 or arm64, as in Docker. It needs
# Rust, a C compiler, Python, crates.io and PyPI, and a static qemu-user for another architecture than that of this
# machine. The Dockerfile and `just image-proof` call it.
#
# The PROFILE `dist` is built twice, for profile-guided optimization: first instrumented, to record a profile with
# train.py, and then optimized with that profile. Other profiles are built once, and write no nicplug.profdata.
#
# With CRYPTOGRAPHY=fips the binary contains the FIPS module of AWS-LC instead of ring. Its build needs cmake, Go and
# musl-gcc (Debian: musl-tools), and a machine of the same architecture.
set -euo pipefail
arch=$1 folder=$(realpath --canonicalize-missing "$2") profile=${3:-dist}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case $arch in
    amd64) target=x86_64-unknown-linux-musl cpu=x86_64 ;;
    arm64) target=aarch64-unknown-linux-musl cpu=aarch64 ;;
    *)
        echo "build.sh: \"$arch\" is not an architecture of the image; use amd64 or arm64" >&2
        exit 1
        ;;
esac

case ${CRYPTOGRAPHY:-ring} in
    ring) cargo=(cargo zigbuild) features=() ;;
    fips)
        # Zig writes no file for `-S -MD -o`, with which the build of the module makes its assembler text.
        cargo=(env "CC_${target//-/_}=musl-gcc" cargo build)
        features=(--no-default-features --features fips)
        if [[ $(uname --machine) != "$cpu" ]]; then
            echo "build.sh: CRYPTOGRAPHY=fips cannot be built for another architecture; use a machine of $cpu" >&2
            exit 1
        fi
        for tool in musl-gcc cmake go; do
            if ! command -v "$tool" >/dev/null; then
                echo "build.sh: CRYPTOGRAPHY=fips needs $tool; install it (Debian: musl-tools, cmake, golang-go)" >&2
                exit 1
            fi
        done
        ;;
    *)
        echo "build.sh: CRYPTOGRAPHY=\"$CRYPTOGRAPHY\" is unknown; use ring (the default) or fips" >&2
        exit 1
        ;;
esac

source image/environment.sh "$target"
if [[ ${CRYPTOGRAPHY:-ring} == fips ]]; then
    # musl-gcc has no headers of the kernel; those of glibc come after musl's.
    export "CFLAGS_${target//-/_}=-DMI_DEFAULT_ALLOW_THP=0 -idirafter /usr/include -idirafter /usr/include/$cpu-linux-gnu"
fi
build=("${cargo[@]}" --locked --bin nicplug "${features[@]}")

# train FOLDER: runs the instrumented program in the folder through the work of nicplug.
train() {
    local emulator=()
    if [[ $(uname --machine) != "$cpu" ]]; then
        if ! qemu=$(command -v "qemu-$cpu-static"); then
            echo "build.sh: recording a profile for $arch needs an emulator: install qemu-user-static" >&2
            exit 1
        fi
        # An emulated request takes twenty times as long; fewer requests give the same proportions.
        emulator=(--emulator "$qemu" --requests 100)
    fi
    python3 image/train.py "$1/nicplug" "${emulator[@]}"
}

if [[ $profile == dist ]]; then
    by_counts "$target" "$target" train "${build[@]}"
    install -D --mode 644 "target/training/$target.profdata" "$folder/nicplug.profdata"
else
    RUSTFLAGS=$(without_paths) "${build[@]}" --profile "$profile" --target "$target"
fi
# Cargo names the folder of the profile `dev` differently.
install -D --mode 755 "${CARGO_TARGET_DIR:-target}/$target/${profile/#dev/debug}/nicplug" "$folder/nicplug"

cyclonedx=target/tools/bin/cargo-cyclonedx version=0.5.9
if [[ $("$cyclonedx" cyclonedx --version 2>/dev/null) != *" $version" ]]; then
    # A debug build takes a third of the time and is fast enough.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root target/tools --version "$version" cargo-cyclonedx
fi
# cargo-cyclonedx can only write beside Cargo.toml. The commit time makes the SBOM reproducible.
name=nicplug-$arch
trap 'rm --force "$name.json"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)} \
    "$cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --no-build-deps \
    "${features[@]}" \
    --override-filename "$name"
install -D --mode 644 "$name.json" "$folder/nicplug.cdx.json"
