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

# Builds a program twice for profile-guided optimization, with the profile `dist`: by_counts TARGET NAME TRAIN BUILD…
# runs the command BUILD…, first to get an instrumented program, with which it calls TRAIN, and then with the counts of
# that run, which it leaves in target/training/NAME.profdata.
by_counts() {
    local target=$1 name=$2 train=$3
    shift 3
    local training=$PWD/target/training
    local profiles=$training/$name.profiles
    rustup component add llvm-tools
    rm --recursive --force "$profiles"
    # Zig's linker has no option for an initial symbol, so rust-lld links the instrumented program.
    RUSTFLAGS="-Cprofile-generate=$profiles -Clinker=rust-lld -Clinker-flavor=ld.lld" \
        "$@" --profile dist --target "$target" --target-dir "$training"
    LLVM_PROFILE_FILE="$profiles/%p.profraw" "$train" "$training/$target/dist"
    "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata merge --output "$training/$name.profdata" \
        "$profiles"/*.profraw
    RUSTFLAGS="$(without_paths) -Cprofile-use=$training/$name.profdata" "$@" --profile dist --target "$target"
}

# Prints the flags without which the bytes would depend on the folder: panic messages contain paths (`just reproduce`).
without_paths() {
    echo "--remap-path-prefix=$PWD=/nicplug --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
}
