#!/usr/bin/env bash
# Sets the version everywhere: version.sh X.Y.Z. `version` in Cargo.toml is the source; the program, its metrics and the
# table of the image's labels read it, and a test holds the other files equal to it. CHANGELOG.md gets a heading for the
# release below "Unreleased".
set -euo pipefail
version=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
    echo "version.sh: \"$version\" is not a version; use X.Y.Z or X.Y.Z-rc.1" >&2
    exit 1
fi
old=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
if [[ $version == "$old" ]]; then
    echo "version.sh: the version is already $version" >&2
    exit 1
fi

prerelease=false
[[ $version == *-* ]] && prerelease=true
escaped=${old//./\\.}
sed -i "s/^version = \"$escaped\"$/version = \"$version\"/" Cargo.toml
for lock in Cargo.lock fuzz/Cargo.lock; do
    sed -i "/^name = \"nicplug\"$/{n;s/^version = \"$escaped\"$/version = \"$version\"/}" "$lock"
done
sed -i "s/\(image.version=\"\)$escaped\"/\1$version\"/" Dockerfile
sed -i -e "s/^\(version\|appVersion\): $escaped$/\1: $version/" \
    -e "s|\(nicplug/nicplug:\)$escaped$|\1$version|" \
    -e "s/\(prerelease: \)\"[a-z]*\"/\1\"$prerelease\"/" charts/nicplug/Chart.yaml
sed -i -e "s/\(app.kubernetes.io\/version: \)\"$escaped\"/\1\"$version\"/" \
    -e "s|\(nicplug/nicplug:\)$escaped$|\1$version|" deploy/install.yaml
sed -i -e "s/^\(  version: v\)$escaped$/\1$version/" -e "s|/download/v$escaped/|/download/v$version/|" deploy/krew.yaml
sed -i -e "s/^\(  version \)\"$escaped\"$/\1\"$version\"/" -e "s|/download/v$escaped/|/download/v$version/|" \
    deploy/homebrew.rb
sed -i "s/^## \[Unreleased\]$/&\n\n## [$version] - $(date --utc +%F)/" CHANGELOG.md
echo "The version is $version (was $old). Check CHANGELOG.md, run \`just chart\`, commit, and push the tag v$version."
