#!/usr/bin/env bash
# Builds the floor of the benchmark (examples/floor.rs) as the image's binary is built: static, with the same allocator,
# the profile `dist`, and optimised by its own counts. floor.sh TARGET NICPLUG FILE writes it to FILE; NICPLUG is a binary
# that makes the certificate for the recording.
set -euo pipefail
target=$1 nicplug=$(realpath "$2") file=$(realpath --canonicalize-missing "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source image/environment.sh "$target"

train() {
    python3 image/train.py "$nicplug" --floor "$1/examples/floor"
}

by_counts "$target" "floor-$target" train cargo zigbuild --locked --example floor
install -D --mode 755 "${CARGO_TARGET_DIR:-target}/$target/dist/examples/floor" "$file"
