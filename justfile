# The recipes of this repository. CI runs the same recipes: see .ci/run.

# The architecture of this machine, as container images name it.
image_arch := if arch() == "aarch64" { "arm64" } else { "amd64" }

# Lists the recipes.
default:
    @just --list --unsorted

# Formats the code; `just fmt --check` only reports differences.
fmt *flags:
    cargo fmt {{ flags }}
    cargo fmt --manifest-path fuzz/Cargo.toml {{ flags }}

# Lints all targets; warnings are errors.
lint:
    cargo clippy --locked --all-targets -- --deny warnings

# Builds and tests nicplug with the FIPS module of AWS-LC (needs cmake and Go): docs/security.md.
fips:
    cargo test --locked --no-default-features --features fips --lib -- crypto hash tls
    cargo test --locked --no-default-features --features fips --test tls --test first_install
    cargo build --release --locked --no-default-features --features fips
    ${CARGO_TARGET_DIR:-target}/release/nicplug version
    ${CARGO_TARGET_DIR:-target}/release/nicplug demo --once

# Runs the tests.
test *flags:
    cargo test --locked {{ flags }}

# Two replicas under load on a real API server, and one random fault after the other: docs/reliability.md.
chaos seconds="600" seed="14":
    CI=true CHAOS_SECONDS={{ seconds }} CHAOS_SEED={{ seed }} cargo test --locked --test chaos -- --nocapture

# Stops, suspends and restores a real API server with the timings of `nicplug serve` (15 minutes): docs/reliability.md.
faults:
    CI=true FAULTS=real cargo test --locked --test faults -- --nocapture --test-threads=1

# Builds the API server for the integration tests (needs Go; takes minutes the first time): tests/apiserver/README.md.
apiserver:
    @test -z "$(gofmt -l tests/apiserver | tee /dev/stderr)"
    bash tests/apiserver/build.sh target/apiserver/apiserver

# Builds the API documentation; warnings, such as dead links, are errors.
docs *flags:
    RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps {{ flags }}

# Builds the documents as a site into target/site/html, and checks its links (needs Python and npm).
site:
    #!/usr/bin/env bash
    set -euo pipefail
    tools=target/tools/site
    if ! cmp --silent docs/site/requirements.txt "$tools/requirements.txt"; then
        python3 -m venv --clear "$tools/venv"
        "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --requirement docs/site/requirements.txt
        cp docs/site/requirements.txt "$tools/"
    fi
    python3 docs/site/build.py

# Draws docs/images/demo.svg, the terminal session of the README, from a run of the demo.
session:
    cargo build --locked --bin nicplug
    python3 docs/site/session.py target/debug/nicplug

# Checks the bans, licences and sources of the dependencies, of both features of cryptography (needs cargo-deny).
deny:
    cargo deny --locked check --hide-inclusion-graph bans licenses sources
    cargo deny --locked --no-default-features --features fips check --hide-inclusion-graph bans licenses sources

# Checks the dependencies against the RustSec database, which it downloads (needs cargo-deny and access to GitHub).
advisories:
    cargo deny --locked check --hide-inclusion-graph advisories

# Checks that `rust-version` matches the pinned toolchain, and that the program builds with it.
msrv:
    #!/usr/bin/env bash
    set -euo pipefail
    minimum=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    toolchain=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    compiler=$(rustc --version | cut -d ' ' -f 2)
    if [[ $toolchain != "$minimum" && $toolchain != "$minimum.0" ]]; then
        echo "rust-version is \"$minimum\" in Cargo.toml, but channel is \"$toolchain\" in rust-toolchain.toml" >&2
        exit 1
    fi
    if [[ $compiler != "$toolchain" ]]; then
        echo "channel is \"$toolchain\" in rust-toolchain.toml, but the active compiler is $compiler" >&2
        exit 1
    fi
    cargo build --quiet --release --locked

# TARGET is one of `cargo fuzz list`; without one, the seconds are divided among all.
# Fuzzes every target for an equal part of the seconds, one on each core; fuzz/artifacts keeps what fails (cargo-fuzz).
fuzz seconds="60" target="":
    #!/usr/bin/env bash
    set -euo pipefail
    cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml
    # Stable Rust has no sanitizers, and code without `unsafe` does not need them.
    flags=(--sanitizer none --codegen-units 16)
    cargo fuzz build "${flags[@]}" {{ target }}
    mapfile -t targets < <(if [[ -n "{{ target }}" ]]; then echo "{{ target }}"; else cargo fuzz list; fi)
    share=$(({{ seconds }} / ${#targets[@]}))
    fuzz() {
        mkdir -p "target/fuzz-corpus/$1"
        echo "fuzzing for $share s"
        cargo fuzz run "${flags[@]}" "$1" "target/fuzz-corpus/$1" "fuzz/corpus/$1" -- \
            -dict=fuzz/words.dict -max_total_time="$share" \
            -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
    }
    jobs=()
    for target in "${targets[@]}"; do
        while (($(jobs -pr | wc -l) >= $(nproc))); do
            wait -n
        done
        fuzz "$target" |& sed "s/^/$target: /" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job"
    done

# How often an input passes a branch does not count: the corpus would be ten times as large.
# Reduces the corpus of a target to a few small inputs that reach the same code, with those that fuzzing has found.
fuzz-minimise target:
    #!/usr/bin/env bash
    set -euo pipefail
    folder=$(mktemp --directory)
    mkdir -p "target/fuzz-corpus/{{ target }}"
    cargo fuzz run --sanitizer none --codegen-units 16 {{ target }} -- \
        -set_cover_merge=1 -use_counters=0 "$folder" "fuzz/corpus/{{ target }}" "target/fuzz-corpus/{{ target }}"
    rm --recursive "fuzz/corpus/{{ target }}"
    mv "$folder" "fuzz/corpus/{{ target }}"

# Without promtool (`just promtool`) the tests of the alerts are skipped.
# Tests the chart with Helm's own engine, and renders it into target/chart (needs Python).
chart: chart-tools
    target/tools/chart/bin/python -m unittest discover --start-directory tests/chart
    target/tools/chart/bin/python tests/chart/chart.py render

# Generates the table of values, the rule ids in the schema, the dashboard and deploy/install.yaml.
chart-write: chart-tools
    target/tools/chart/bin/python tests/chart/chart.py write

# Installs the Python packages for the tests of the chart into target/tools/chart, once.
chart-tools:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! cmp --silent tests/chart/requirements.txt target/tools/chart/requirements.txt; then
        python3 -m venv --clear target/tools/chart
        target/tools/chart/bin/pip install --quiet --disable-pip-version-check --requirement tests/chart/requirements.txt
        cp tests/chart/requirements.txt target/tools/chart/
    fi

# PROGRAM is a nicplug that is built already.
# Without Chromium the page of the audit is not tested.
# Reads the outputs of `check` and `audit` with other programs, and tries the action and the hook (needs Python and npm).
outputs program="": outputs-tools
    #!/usr/bin/env bash
    set -euo pipefail
    program="{{ program }}"
    if [[ -z $program ]]; then
        cargo build --quiet --locked --bin nicplug
        program=${CARGO_TARGET_DIR:-target}/debug/nicplug
    fi
    NICPLUG=$program SARIF_SCHEMA=target/tools/outputs/package/lib/schemas/sarif-2.1.0-rtm.5.json \
        target/tools/outputs/bin/python -m unittest discover --start-directory tests/outputs

# The schema of SARIF is the one of OASIS, which this npm package ships.
# Installs the programs and the schema that `just outputs` and `just bench-check` use, if they are missing.
outputs-tools:
    #!/usr/bin/env bash
    set -euo pipefail
    tools=target/tools/outputs
    if ! cmp --silent tests/outputs/requirements.txt "$tools/requirements.txt" || ! "$tools/bin/check-jsonschema" --version &>/dev/null; then
        python3 -m venv --clear "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement tests/outputs/requirements.txt
        (cd "$tools" && npm pack --silent @microsoft/jest-sarif@1.0.0-beta.0 >/dev/null)
        tar --extract --directory "$tools" --file "$tools/microsoft-jest-sarif-1.0.0-beta.0.tgz"
        cp tests/outputs/requirements.txt "$tools/"
    fi
    schema=$tools/package/lib/schemas/sarif-2.1.0-rtm.5.json
    sum=2d99159ae54a3eea97f81781cff48780548657c35949f4b7f25e99a2ba4de4f8
    echo "$sum  $schema" | sha256sum --check --quiet

# The Debian package is only extracted: to install it would start its service.
# Installs promtool, which tests the alerts, into target/tools/bin if it is missing.
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

# Measures the review of one request body with the profile `dist`, without the server.
bench *flags:
    cargo bench --profile dist --locked --bench review -- {{ flags }}

# Counts the instructions of a review with valgrind, and fails above the bounds of `benches/instructions.py`.
instructions *flags:
    cargo build --quiet --release --locked --bin nicplug
    python3 benches/instructions.py target/release/nicplug --check {{ flags }}

# Compares the image's binary with a minimal service (needs h2load): docs/performance.md.
bench-server *flags:
    bash image/build.sh {{ image_arch }} target/image/{{ image_arch }}
    bash benches/floor.sh {{ arch() }}-unknown-linux-musl target/image/{{ image_arch }}/nicplug \
        target/image/{{ image_arch }}/floor
    cargo build --profile dist --locked --example bench_server
    target/dist/examples/bench_server --nicplug target/image/{{ image_arch }}/nicplug \
        --floor target/image/{{ image_arch }}/floor {{ flags }}

# Runs the same benchmark with the binary that cargo builds with the profile `dist`.
bench-server-cargo *flags:
    cargo build --profile dist --locked --bin nicplug --example floor --example bench_server
    target/dist/examples/bench_server {{ flags }}

# Compares `nicplug check` with kubeconform and conftest (needs Go, Python and npm; minutes): docs/performance.md.
bench-check: outputs-tools
    cargo build --profile dist --locked --bin nicplug
    GOBIN=$PWD/target/tools/bin go install github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
    GOBIN=$PWD/target/tools/bin go install github.com/open-policy-agent/conftest@v0.71.1
    timeout 1800 target/tools/outputs/bin/python benches/check.py target/dist/nicplug \
        target/tools/bin/kubeconform target/tools/bin/conftest tests/data/crds

# Measures the memory for the facts of a large cluster and the time for its heartbeats: docs/performance.md.
bench-facts *flags:
    cargo build --profile dist --locked --example bench_facts
    target/dist/examples/bench_facts {{ flags }}

# Runs the same benchmark, built like the image's binary with the profile of that build.
bench-facts-image *flags:
    #!/usr/bin/env bash
    set -euo pipefail
    target={{ arch() }}-unknown-linux-musl
    source image/environment.sh "$target"
    export MIMALLOC_PURGE_DELAY=10
    RUSTFLAGS="-Cprofile-use=$PWD/target/training/$target.profdata" \
        cargo zigbuild --profile dist --locked --target "$target" --example bench_facts
    "target/$target/dist/examples/bench_facts" {{ flags }}

# Compares `nicplug audit` of 10,000 VMs on a real API server with kubectl (`just apiserver` first): docs/performance.md.
bench-audit *flags:
    cargo build --profile dist --locked --bin nicplug --example bench_audit
    target/dist/examples/bench_audit {{ flags }}

# Measures what nicplug adds to a request at a real API server (`just apiserver` first; minutes): docs/performance.md.
bench-apiserver pairs="100" rounds="3": chart-tools
    cargo build --profile dist --locked --bin nicplug
    timeout 900 target/tools/chart/bin/python benches/apiserver.py target/apiserver/apiserver target/dist/nicplug \
        {{ pairs }} {{ rounds }}

# EMULATOR is a static qemu-user, for another architecture than that of this machine.
# Builds the image's binary into target/image/ARCH, and runs it in an empty root (half an hour; needs no Docker).
image-proof arch=image_arch emulator="":
    bash image/build.sh {{ arch }} target/image/{{ arch }}
    bash image/proof.sh target/image/{{ arch }}/nicplug {{ emulator }}

# Builds the image for both architectures (needs Docker with buildx).
image:
    docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION="$(git rev-parse HEAD)" --tag nicplug .

# Sets the version X.Y.Z in every file that names it.
bump version:
    bash deploy/version.sh {{ version }}

# Creates the files of a release in FOLDER/files: archives, chart, manifest for krew, formula, sums (docs/release.md).
release-files folder:
    python3 deploy/release.py {{ folder }}

# Runs the steps of a release that need no credentials, with PROGRAM or a new build (needs Go and Python).
release-check program="":
    bash deploy/check.sh {{ program }}

# Compiles the command line for Windows and macOS, without linking (needs Python; minutes the first time).
cross-check:
    bash image/cross.sh check x86_64-pc-windows-gnu
    bash image/cross.sh check x86_64-apple-darwin
    bash image/cross.sh check aarch64-apple-darwin

# PROFDATA is the profile of a release; without it, that of the last `just image-proof`.
# Builds the static binary twice, in two folders, and compares the bytes (half an hour).
reproduce arch=image_arch profdata="":
    bash image/reproduce.sh {{ arch }} {{ profdata }}

# The binary is static like the image's, with its allocator and the setting of the Dockerfile, but without its profile.
# Attacks `nicplug serve` on loopback, and measures what a well-behaved client notices (minutes): docs/reliability.md.
hostile *words:
    #!/usr/bin/env bash
    set -euo pipefail
    target={{ arch() }}-unknown-linux-musl
    source image/environment.sh "$target"
    cargo zigbuild --profile dist --locked --target "$target" --bin nicplug
    export MIMALLOC_PURGE_DELAY=10
    timeout 900 python3 benches/hostile.py "target/$target/dist/nicplug" {{ words }}

# Runs everything that CI runs.
ci:
    bash .ci/run
