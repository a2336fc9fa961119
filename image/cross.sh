#!/usr/bin/env bash
# Compiles the program for another platform with Zig: cross.sh COMMAND TARGET, where COMMAND is `check` (fast, no
# linking) or `build` (profile `dist`). Apple's targets can only be checked: linking needs Apple's SDK.
set -euo pipefail
command=$1 target=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source image/environment.sh "$target"
case $command in
    check) cargo-zigbuild check --locked --target "$target" --bin nicplug ;;
    build) cargo zigbuild --locked --profile dist --target "$target" --bin nicplug ;;
    *)
        echo "cross.sh: \"$command\" is not a command; use check or build" >&2
        exit 1
        ;;
esac
