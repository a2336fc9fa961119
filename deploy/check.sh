#!/usr/bin/env bash
# Runs the steps of a release that need no credentials: lints the workflows, creates the files of a release with the
# program of this machine in the place of every platform's, checks their sums, unpacks them and runs the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actionlint=target/tools/bin/actionlint
[[ -x $actionlint ]] || GOBIN=$PWD/target/tools/bin go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
"$actionlint"

cargo build --quiet --locked --bin nicplug
program=${CARGO_TARGET_DIR:-target}/debug/nicplug
folder=$PWD/target/release-check
rm --recursive --force "$folder"
for platform in darwin-amd64 darwin-arm64 linux-amd64 linux-arm64 windows-amd64; do
    name=nicplug
    [[ $platform == windows-* ]] && name=nicplug.exe
    install -D "$program" "$folder/$platform/$name"
done
python3 deploy/release.py "$folder"
cd "$folder/files"
sha256sum --quiet --check SHA256SUMS
if grep --fixed-strings "SUM OF" nicplug.yaml nicplug.rb; then
    echo "check.sh: a checksum is missing" >&2
    exit 1
fi

version=$(sed -n 's/^  version: v//p' nicplug.yaml)
for archive in nicplug-*-*.tar.gz nicplug-*-*.zip; do
    mkdir "$folder/unpacked"
    python3 -c 'import shutil, sys; shutil.unpack_archive(*sys.argv[1:])' "$archive" "$folder/unpacked"
    programs=("$folder"/unpacked/nicplug*)
    chmod +x "${programs[0]}"
    [[ $("${programs[0]}" --version) == "nicplug $version" ]]
    cmp "$folder/unpacked/LICENSE" ../../../LICENSE
    rm --recursive "$folder/unpacked"
done
echo "The files of release $version are complete: $folder/files"
