#!/usr/bin/env bash
# Checks manifests in a job of GitHub Actions. action.yml passes its inputs in the variables NICPLUG_…; the program is
# that of the release with the version of this action, and its sum is checked.
set -euo pipefail

fail() {
    echo "::error title=nicplug::$1"
    exit 2
}

# download FILE: downloads a file of the release into the working folder.
download() {
    curl --fail --silent --show-error --location --retry 3 --output "$1" "$releases/v$version/$1" ||
        fail "$releases/v$version/$1 cannot be downloaded; set the input version to one of the releases"
}

# install FOLDER: unpacks the program of the release into a folder.
install() {
    local system machine archive sums
    case $(uname -s) in
        Linux) system=linux ;;
        Darwin) system=darwin ;;
        *) fail "this action has no program for $(uname -s); run it on ubuntu or macos" ;;
    esac
    case $(uname -m) in
        x86_64 | amd64) machine=amd64 ;;
        aarch64 | arm64) machine=arm64 ;;
        *) fail "this action has no program for $(uname -m); run it on amd64 or arm64" ;;
    esac
    archive=nicplug-$system-$machine.tar.gz
    sums=(sha256sum)
    command -v sha256sum >/dev/null || sums=(shasum -a 256)
    cd "$1"
    download "$archive"
    download SHA256SUMS
    grep "  $archive\$" SHA256SUMS | "${sums[@]}" --check --status ||
        fail "$archive does not have the sum of SHA256SUMS; run the job again, and report it if it stays so"
    tar --extract --gzip --file "$archive" nicplug
    cd "$OLDPWD"
}

releases=${NICPLUG_RELEASES:-https://github.com/nicplug/nicplug/releases/download}
version=${NICPLUG_VERSION:-}
if [[ -z $version ]]; then
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
fi
version=${version#v}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
install "$folder"

arguments=()
while IFS= read -r file; do
    [[ -z $file ]] || arguments+=(--file "$file")
done <<<"${NICPLUG_FILES:-.}"
[[ -z ${NICPLUG_GIT:-} ]] || arguments+=(--git "$NICPLUG_GIT")
[[ -z ${NICPLUG_FACTS_INPUT:-} ]] || arguments+=(--facts "$NICPLUG_FACTS_INPUT")
[[ ${NICPLUG_WARNINGS_AS_ERRORS:-false} != true ]] || arguments+=(--warnings-as-errors)
sarif=${NICPLUG_SARIF:-nicplug.sarif}
echo "sarif=$sarif" >>"$GITHUB_OUTPUT"
"$folder/nicplug" check --recursive "${arguments[@]}" --output github --output-file "sarif=$sarif"
