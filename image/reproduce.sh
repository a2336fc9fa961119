#!/usr/bin/env bash
# Checks that a build is reproducible: reproduce.sh ARCH [PROFILE] builds the static binary of the committed sources in
# two folders of different names and compares the bytes. With the profile `dist` both builds use one recorded profile,
# target/training/TARGET.profdata of image/build.sh: two recordings differ.
set -euo pipefail
arch=$1 profile=${2:-dist}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case $arch in
    amd64) target=x86_64-unknown-linux-musl ;;
    arm64) target=aarch64-unknown-linux-musl ;;
    *)
        echo "reproduce.sh: \"$arch\" is not an architecture of the image; use amd64 or arm64" >&2
        exit 1
        ;;
esac
source image/environment.sh "$target"

folder=$(mktemp --directory)
trap 'rm --recursive --force "$folder"' EXIT
for name in one another-name; do
    mkdir "$folder/$name"
    git archive HEAD | tar --extract --directory "$folder/$name"
    # The paths of the sources and of cargo's registry are in panic messages and symbols.
    export RUSTFLAGS="--remap-path-prefix=$folder/$name=/nicplug --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    if [[ $profile == dist ]]; then
        data=$PWD/target/training/$target.profdata
        if [[ ! -f $data ]]; then
            echo "reproduce.sh: $data is missing: run \`just image-proof $arch\`" >&2
            exit 1
        fi
        RUSTFLAGS+=" -Cprofile-use=$data"
    fi
    (cd "$folder/$name" && env --unset=CARGO_TARGET_DIR \
        cargo zigbuild --quiet --locked --profile "$profile" --target "$target" --bin nicplug)
    mv "$folder/$name/target/$target/${profile/dev/debug}/nicplug" "$folder/$name.binary"
    rm --recursive "${folder:?}/$name"
done
sha256sum "$folder"/*.binary
cmp "$folder"/*.binary
echo "Two builds in two folders give the same bytes."
