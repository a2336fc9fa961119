#!/usr/bin/env bash
# Prints the manifest for krew: krew.sh FOLDER, where FOLDER has what image/build.sh made, in amd64 and arm64. The archives
# that the manifest names are written beside them. The same binaries give the same archives.
set -euo pipefail
folder=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

manifest=$(<deploy/krew.yaml)
for arch in amd64 arm64; do
    archive=nicplug-linux-$arch.tar.gz
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --directory "$folder/$arch" nicplug --directory "$PWD" LICENSE | gzip --no-name --best >"$folder/$archive"
    sum=$(sha256sum "$folder/$archive")
    manifest=${manifest//"SUM OF $archive"/${sum%% *}}
done
# What stands above the first key tells of the file in the repository.
printf '%s\n' "$manifest" | sed '/^#/d'
