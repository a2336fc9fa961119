#!/usr/bin/env bash
# Builds what the image holds: build.sh ARCH FOLDER [PROFILE] puts the static binary `nicplug` and the list of what it is
# made of, `nicplug.cdx.json`, into FOLDER. ARCH is amd64 or arm64, as Docker names them. It needs Rust, a C compiler,
# Python, crates.io and PyPI; the Dockerfile and `just image-proof` call it.
set -euo pipefail
arch=$1 folder=$(realpath --canonicalize-missing "$2") profile=${3:-release}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case $arch in
    amd64) target=x86_64-unknown-linux-musl ;;
    arm64) target=aarch64-unknown-linux-musl ;;
    *)
        echo "build.sh: \"$arch\" is no architecture of the image: amd64 or arm64" >&2
        exit 1
        ;;
esac

# Zig brings musl and a C compiler for both architectures.
zig=target/tools/zig
if ! cmp --silent image/requirements.txt "$zig/requirements.txt"; then
    python3 -m venv --clear "$zig"
    "$zig/bin/pip" install --quiet --disable-pip-version-check --requirement image/requirements.txt
    cp image/requirements.txt "$zig/"
fi
# With huge pages a heap of 2 MiB takes 14: docs/performance.md.
export "CFLAGS_${target//-/_}=-DMI_DEFAULT_ALLOW_THP=0"
rustup target add "$target"
PATH="$PWD/$zig/bin:$PATH" cargo zigbuild --locked --profile "$profile" --target "$target" --bin nicplug
install -D --mode 755 "${CARGO_TARGET_DIR:-target}/$target/$profile/nicplug" "$folder/nicplug"

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
