#!/usr/bin/env bash
# Shows that a binary needs nothing but itself: proof.sh FILE [EMULATOR]. It is put alone into an empty root without a
# shell, a library, a /dev or a /proc, and plays `nicplug demo` there as a user who is nobody; so no Docker is needed to
# know that the image works. EMULATOR is a static qemu-user for a binary of another architecture.
set -euo pipefail
file=$1 emulator=${2:-}
limit=$((20 << 20))

size=$(stat --format %s "$file")
printf '%s: %d.%d MiB\n' "$file" $((size >> 20)) $(((size & 0xfffff) * 10 >> 20))
if ((size >= limit)); then
    echo "proof.sh: the image has to be smaller than 20 MiB" >&2
    exit 1
fi
if readelf --program-headers --dynamic "$file" | grep --extended-regexp 'INTERP|NEEDED'; then
    echo "proof.sh: it is not static" >&2
    exit 1
fi

root=$(mktemp --directory)
trap 'rm --recursive --force "$root"' EXIT
install --mode 555 "$file" "$root/nicplug"
command=(/nicplug)
if [[ $emulator ]]; then
    install --mode 555 "$emulator" "$root/emulator"
    command=(/emulator /nicplug)
fi
chmod 555 "$root"

# Root can become nobody; anybody else is root of a user namespace of his own, and nobody outside of it.
if ((EUID == 0)); then
    inside=(chroot --userspec 65532:65532 "$root")
else
    inside=(unshare --map-root-user chroot "$root")
fi
env --ignore-environment "$(command -v "${inside[0]}")" "${inside[@]:1}" "${command[@]}" --version
env --ignore-environment "$(command -v "${inside[0]}")" "${inside[@]:1}" "${command[@]}" demo --once
printf '\nAlone in an empty root it plays the whole story: %s\n' "$file"
