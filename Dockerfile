# syntax=docker/dockerfile:1

# The image of nicplug: one static binary and its SBOM, without a shell, libraries or a package manager. Builds for both
# architectures, from either one:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# `just image-proof` builds the same binary with the same script without Docker, and runs it in an empty root.

# The compiler runs natively and cross-compiles. Emulation is only used to run the training workload for
# profile-guided optimization.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-bookworm AS build
# CRYPTOGRAPHY=fips builds with the FIPS module of AWS-LC instead of ring, for the architecture of this machine only.
ARG CRYPTOGRAPHY=ring
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv qemu-user-static \
        $([ "$CRYPTOGRAPHY" = ring ] || echo cmake golang-go musl-tools) \
    && rm --recursive /var/lib/apt/lists
WORKDIR /nicplug
COPY . .
ARG TARGETARCH SOURCE_DATE_EPOCH
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/nicplug/target \
    CRYPTOGRAPHY=$CRYPTOGRAPHY bash image/build.sh "$TARGETARCH" /out

FROM scratch
ARG REVISION=""
LABEL org.opencontainers.image.title="nicplug" \
      org.opencontainers.image.description="An admission webhook for KubeVirt that makes network-interface hotplug fail early and clearly" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="https://github.com/nicplug/nicplug" \
      org.opencontainers.image.url="https://github.com/nicplug/nicplug" \
      org.opencontainers.image.documentation="https://github.com/nicplug/nicplug/blob/main/docs/install.md" \
      org.opencontainers.image.vendor="nicplug maintainers" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/nicplug /nicplug
# Scanners recognize an SBOM by this file name.
COPY --from=build /out/nicplug.cdx.json /nicplug.cdx.json
COPY LICENSE /LICENSE
# mimalloc returns free memory after 10 ms instead of a second: docs/reliability.md ("Hostile clients").
ENV MIMALLOC_PURGE_DELAY=10
# A non-root user; the pods of the chart run as this user by default.
USER 65532:65532
EXPOSE 8443 8444
ENTRYPOINT ["/nicplug"]
CMD ["help"]
