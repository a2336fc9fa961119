#!/usr/bin/env bash
# Publishes the image with binaries that are built already: publish.sh FOLDER IMAGE VERSION, where FOLDER/linux-amd64
# and FOLDER/linux-arm64 contain the output of image/build.sh. It prints the digest of the image, and writes it into
# GITHUB_OUTPUT. It needs Docker with buildx, and a login to the registry.
set -euo pipefail
folder=$(realpath "$1") image=$2 version=$3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stage=$(mktemp --directory)
trap 'rm --recursive "$stage"' EXIT

sources=()
for arch in amd64 arm64; do
    # The folder takes the place of the Dockerfile's stage `build`, so nothing is compiled again.
    mkdir --parents "$stage/$arch"
    cp --recursive "$folder/linux-$arch" "$stage/$arch/out"
    # Artifacts of a workflow lose the mode of a file.
    chmod 755 "$stage/$arch/out/nicplug"
    docker buildx build --platform "linux/$arch" --build-context "build=$stage/$arch" \
        --build-arg REVISION="$(git rev-parse HEAD)" --provenance=false --metadata-file "$stage/$arch.json" \
        --output "type=image,name=$image,push-by-digest=true,name-canonical=true,push=true" .
    sources+=("$image@$(jq --raw-output '."containerimage.digest"' "$stage/$arch.json")")
done

tags=(--tag "$image:$version")
# A prerelease is not the newest version.
[[ $version == *-* ]] || tags+=(--tag "$image:latest")
docker buildx imagetools create "${tags[@]}" "${sources[@]}"
digest=$(docker buildx imagetools inspect "$image:$version" --format '{{json .Manifest}}' | jq --raw-output .digest)
echo "$image:$version@$digest"
echo "digest=$digest" >>"${GITHUB_OUTPUT:-/dev/null}"
