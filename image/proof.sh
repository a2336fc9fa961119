#!/usr/bin/env bash
# Checks that a binary needs no other file: proof.sh FILE [EMULATOR]. It runs `nicplug demo` as an unprivileged user in
# an empty root without a shell, libraries, /dev or /proc, so the image can be tested without Docker. EMULATOR is a
# static qemu-user for a binary of another architecture.
set -euo pipefail
file=$1 emulator=${2:-}
limit=$((20 << 20))

size=$(stat --format %s "$file")
printf '%s: %d.%d MiB\n' "$file" $((size >> 20)) $(((size & 0xfffff) * 10 >> 20))
if ((size >= limit)); then
    echo "proof.sh: the binary must be smaller than 20 MiB" >&2
    exit 1
fi
if readelf --program-headers --dynamic "$file" | grep --extended-regexp 'INTERP|NEEDED'; then
    echo "proof.sh: the binary is not static" >&2
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

# Root switches to an unprivileged user. Other users need a user namespace for chroot; outside of it they gain nothing.
if ((EUID == 0)); then
    inside=(chroot --userspec 65532:65532 "$root")
else
    inside=(unshare --map-root-user chroot "$root")
fi
env --ignore-environment "$(command -v "${inside[0]}")" "${inside[@]:1}" "${command[@]}" --version
env --ignore-environment "$(command -v "${inside[0]}")" "${inside[@]:1}" "${command[@]}" demo --all
printf '\nThe whole demo runs in an empty root: %s\n' "$file"
