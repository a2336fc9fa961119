#!/usr/bin/env bash
# Checks that a build is reproducible: reproduce.sh ARCH [PROFDATA] builds the static binary of the committed sources in
# two folders of different names and compares the bytes. Both builds are optimised with one recorded profile, because
# two recordings differ: PROFDATA, such as nicplug-linux-ARCH.profdata of a release, or that of the last build here.
set -euo pipefail
arch=$1 data=${2:+$(realpath "$2")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case $arch in
    amd64) target=x86_64-unknown-linux-musl ;;
    arm64) target=aarch64-unknown-linux-musl ;;
    *)
        echo "reproduce.sh: \"$arch\" is not an architecture of the image; use amd64 or arm64" >&2
        exit 1
        ;;
esac
data=${data:-$PWD/target/training/$target.profdata}
if [[ ! -f $data ]]; then
    echo "reproduce.sh: $data is missing: run \`just image-proof $arch\`, or name the profile of a release" >&2
    exit 1
fi
source image/environment.sh "$target"

folder=$(mktemp --directory)
trap 'rm --recursive --force "$folder"' EXIT
for name in one another-name; do
    mkdir "$folder/$name"
    git archive HEAD | tar --extract --directory "$folder/$name"
    cp "$data" "$folder/$name.profdata"
    (
        cd "$folder/$name"
        RUSTFLAGS="$(without_paths) -Cprofile-use=$folder/$name.profdata" env --unset=CARGO_TARGET_DIR \
            cargo zigbuild --quiet --locked --profile dist --target "$target" --bin nicplug
    )
    mv "$folder/$name/target/$target/dist/nicplug" "$folder/$name.binary"
    rm --recursive "${folder:?}/$name"
done
sha256sum "$folder"/*.binary
cmp "$folder"/*.binary
echo "Two builds in two folders give the same bytes."
