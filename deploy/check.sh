#!/usr/bin/env bash
# Runs the steps of a release that need no credentials: lints the workflows, creates the files of a release, checks
# their sums, unpacks them and runs the program: check.sh [PROGRAM]. Without PROGRAM the program is built. Only the
# program of this machine is real; a text stands in for the others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actionlint=target/tools/bin/actionlint
[[ -x $actionlint ]] || GOBIN=$PWD/target/tools/bin go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
"$actionlint"

program=${1:-}
if [[ -z $program ]]; then
    cargo build --quiet --locked --bin nicplug
    program=${CARGO_TARGET_DIR:-target}/debug/nicplug
fi
folder=$PWD/target/release-check
rm --recursive --force "$folder"
for platform in darwin-amd64 darwin-arm64 linux-amd64 linux-arm64 windows-amd64; do
    mkdir --parents "$folder/$platform"
    name=nicplug
    [[ $platform == windows-* ]] && name=nicplug.exe
    echo "the program for $platform" >"$folder/$platform/$name"
done
arch=amd64
[[ $(uname --machine) == aarch64 ]] && arch=arm64
strip -o "$folder/linux-$arch/nicplug" "$program"
python3 deploy/release.py "$folder"
cd "$folder/files"
sha256sum --quiet --check SHA256SUMS
if grep --fixed-strings "SUM OF" nicplug.yaml nicplug.rb; then
    echo "check.sh: a checksum is missing" >&2
    exit 1
fi

version=$("$folder/linux-$arch/nicplug" --version)
for archive in nicplug-*-*.tar.gz nicplug-*-*.zip; do
    mkdir "$folder/unpacked"
    python3 -c 'import shutil, sys; shutil.unpack_archive(*sys.argv[1:])' "$archive" "$folder/unpacked"
    platform=${archive#nicplug-}
    cmp "$folder"/unpacked/nicplug* "$folder/${platform%%.*}"/nicplug*
    cmp "$folder/unpacked/LICENSE" ../../../LICENSE
    bash -n "$folder/unpacked/completions/nicplug.bash"
    for page in nicplug nicplug-addinterface nicplug-serve; do
        grep --quiet "^\.TH $page 1 " "$folder/unpacked/man/$page.1"
    done
    if [[ $platform == linux-$arch.* ]]; then
        [[ $("$folder/unpacked/nicplug" --version) == "$version" ]]
        "$folder/unpacked/nicplug" rules NP103 >/dev/null
        "$folder/unpacked/nicplug" demo --once >/dev/null
        # The program names the same completions and pages that the archive contains.
        "$folder/unpacked/nicplug" completion bash | cmp - "$folder/unpacked/completions/nicplug.bash"
    fi
    rm --recursive "$folder/unpacked"
done
echo "The files of the release are complete ($version): $folder/files"
