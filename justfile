# The recipes of the house. CI calls the same ones: see .ci/run.

# This machine's architecture, as images name it.
image_arch := if arch() == "aarch64" { "arm64" } else { "amd64" }

# Lists the recipes.
default:
    @just --list --unsorted

# Formats the code; `just fmt --check` only says what it would change.
fmt *flags:
    cargo fmt {{ flags }}
    cargo fmt --manifest-path fuzz/Cargo.toml {{ flags }}

# Lints everything; a warning is an error.
lint:
    cargo clippy --locked --all-targets -- --deny warnings

# Runs the tests.
test *flags:
    cargo test --locked {{ flags }}

# Builds the API server that some tests run on (needs Go, and minutes the first time): tests/apiserver/README.md.
apiserver:
    @test -z "$(gofmt -l tests/apiserver | tee /dev/stderr)"
    bash tests/apiserver/build.sh target/apiserver/apiserver

# Builds the documentation; a warning, such as a dead link, is an error.
docs:
    RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps

# Checks what is in the dependency tree: bans, licences, sources (needs cargo-deny).
deny:
    cargo deny --locked check --hide-inclusion-graph bans licenses sources

# Checks that `rust-version` is the toolchain that the house builds with, and that it builds.
msrv:
    #!/usr/bin/env bash
    set -euo pipefail
    minimum=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    toolchain=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    compiler=$(rustc --version | cut -d ' ' -f 2)
    if [[ $toolchain != "$minimum" && $toolchain != "$minimum.0" ]]; then
        echo "Cargo.toml says rust-version = \"$minimum\", rust-toolchain.toml has \"$toolchain\"" >&2
        exit 1
    fi
    if [[ $compiler != "$toolchain" ]]; then
        echo "rust-toolchain.toml has \"$toolchain\", the compiler that runs is $compiler" >&2
        exit 1
    fi
    cargo check --locked

# Fuzzes the way from a body to an answer (needs cargo-fuzz); a body that breaks it is kept in fuzz/artifacts.
fuzz seconds="60":
    cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml
    @mkdir -p target/fuzz-corpus
    @# Stable Rust has no sanitizers, and code without `unsafe` needs none.
    cargo fuzz run --sanitizer none --codegen-units 16 review target/fuzz-corpus fuzz/corpus/review -- -max_total_time={{ seconds }} -verbosity=0 -print_final_stats=1

# Without promtool (`just promtool`) no alert is tried.
# Holds the chart to Helm's own engine, to its schema and to the code, and renders it into target/chart (needs Python).
chart: chart-tools
    target/tools/chart/bin/python -m unittest discover --start-directory tests/chart
    target/tools/chart/bin/python tests/chart/chart.py render

# Writes what is made from the chart or for it: the table of its values, its rules, its dashboard, deploy/install.yaml.
chart-write: chart-tools
    target/tools/chart/bin/python tests/chart/chart.py write

# Installs what the chart is tested with into target/tools/chart, once.
chart-tools:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! cmp --silent tests/chart/requirements.txt target/tools/chart/requirements.txt; then
        python3 -m venv --clear target/tools/chart
        target/tools/chart/bin/pip install --quiet --disable-pip-version-check --requirement tests/chart/requirements.txt
        cp tests/chart/requirements.txt target/tools/chart/
    fi

# It is Debian's, without the service that its package would start.
# Brings promtool, which the alerts are tested with, into target/tools/bin where there is none.
promtool:
    #!/usr/bin/env bash
    set -euo pipefail
    if PATH="target/tools/bin:$PATH" command -v promtool; then
        exit
    fi
    sudo=()
    ((EUID == 0)) || sudo=(sudo)
    "${sudo[@]}" apt-get update --quiet
    folder=$(mktemp --directory)
    trap 'rm --recursive "$folder"' EXIT
    (cd "$folder" && apt-get download prometheus)
    dpkg-deb --extract "$folder"/prometheus_*.deb "$folder"
    install -D "$folder/usr/bin/promtool" target/tools/bin/promtool

# Measures the pure path: one body in, one answer out.
bench *flags:
    cargo bench --locked --bench review -- {{ flags }}

# Measures what is shipped, the image's binary, beside a service that does nothing (needs h2load): docs/performance.md.
bench-server *flags:
    bash image/build.sh {{ image_arch }} target/image/{{ image_arch }}
    cargo build --release --locked --example floor --example bench_server
    target/release/examples/bench_server --nicplug target/image/{{ image_arch }}/nicplug {{ flags }}

# The same with what cargo builds.
bench-server-cargo *flags:
    cargo build --release --locked --bin nicplug --example floor --example bench_server
    target/release/examples/bench_server {{ flags }}

# Measures what the facts of a large cluster cost in memory, and its heartbeats in time: docs/performance.md.
bench-facts *flags:
    cargo build --release --locked --example bench_facts
    target/release/examples/bench_facts {{ flags }}

# The same, built as the image's binary is, by the counts that building it left.
bench-facts-image *flags:
    #!/usr/bin/env bash
    set -euo pipefail
    target={{ arch() }}-unknown-linux-musl
    source image/environment.sh "$target"
    RUSTFLAGS="-Cprofile-use=$PWD/target/training/$target.profdata" \
        cargo zigbuild --release --locked --target "$target" --example bench_facts
    "target/$target/release/examples/bench_facts" {{ flags }}

# For another architecture than this machine's, EMULATOR is a static qemu-user.
# Builds the binary of the image into target/image/ARCH, and proves that it needs nothing else (half an hour, and no Docker).
image-proof arch=image_arch emulator="":
    bash image/build.sh {{ arch }} target/image/{{ arch }}
    bash image/proof.sh target/image/{{ arch }}/nicplug {{ emulator }}

# Builds the image for both architectures (needs Docker with buildx).
image:
    docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION="$(git rev-parse HEAD)" --tag nicplug .

# Prints the manifest for krew, and writes the archives that it names (needs both binaries of `just image-proof`).
krew folder="target/image":
    @bash deploy/krew.sh {{ folder }}

# All that CI does.
ci:
    bash .ci/run
