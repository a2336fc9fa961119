# Sourced in the root of the repository: environment.sh TARGET prepares `cargo zigbuild` to build for a static TARGET
# with the settings of the image's binary.
# shellcheck shell=bash

# Zig provides musl and a C compiler for both architectures.
zig=target/tools/zig
if ! cmp --silent image/requirements.txt "$zig/requirements.txt"; then
    python3 -m venv --clear "$zig"
    "$zig/bin/pip" install --quiet --disable-pip-version-check --requirement image/requirements.txt
    cp image/requirements.txt "$zig/"
fi
export PATH="$PWD/$zig/bin:$PATH"
# With huge pages a heap of 2 MiB occupies 14 MiB: docs/performance.md.
export "CFLAGS_${1//-/_}=-DMI_DEFAULT_ALLOW_THP=0"
rustup target add "$1"
