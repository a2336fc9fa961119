#!/usr/bin/env bash
# Prints the krew manifest: krew.sh FOLDER, where FOLDER/amd64 and FOLDER/arm64 contain the output of image/build.sh. It
# writes the archives of the manifest into FOLDER. The same binaries give the same archives.
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
# The comments above the first key are about the file in the repository.
printf '%s\n' "$manifest" | sed '/^#/d'
