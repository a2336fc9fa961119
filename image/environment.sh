# Sourced in the root of the project: environment.sh TARGET makes `cargo zigbuild` ready to build for a static TARGET, as
# the binary of the image is built.
# shellcheck shell=bash

# Zig brings musl and a C compiler for both architectures.
zig=target/tools/zig
if ! cmp --silent image/requirements.txt "$zig/requirements.txt"; then
    python3 -m venv --clear "$zig"
    "$zig/bin/pip" install --quiet --disable-pip-version-check --requirement image/requirements.txt
    cp image/requirements.txt "$zig/"
fi
export PATH="$PWD/$zig/bin:$PATH"
# With huge pages a heap of 2 MiB takes 14: docs/performance.md.
export "CFLAGS_${1//-/_}=-DMI_DEFAULT_ALLOW_THP=0"
rustup target add "$1"
