#!/usr/bin/env bash
# Builds the API server for the tests: bash tests/apiserver/build.sh OUT
# It needs Go and the Go module proxy, and takes minutes the first time.
set -euo pipefail
mkdir -p "$(dirname "$1")"
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"

# The default JSON engine of Go 1.27 breaks the OpenAPI of this version of Kubernetes.
minor=$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*$/\1/')
if ((minor >= 27)); then
    export GOEXPERIMENT=nojsonv2
fi
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
CGO_ENABLED=0 go build -trimpath -o "$out.new" \
    -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" .
# Replace the binary atomically: another process may be running the old one.
mv "$out.new" "$out"
