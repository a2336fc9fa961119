#!/usr/bin/env python3
"""Counts the instructions of a review, from the body of a request to the body of its answer, with callgrind.

    instructions.py BINARY [--check] [--growth] [--hostile]

The figures are of one more request: the difference of two runs of `nicplug review` with different numbers of the same
request, divided by the difference of the numbers. They are the same on every run and on every machine whose C library
chooses the same functions and whose processor has AVX2. It needs valgrind.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hostile_reviews import hostile_reviews

ROOT = Path(__file__).parents[1]
REVIEWS = ROOT / "tests/data/reviews"
FACTS = ROOT / "tests/data/facts-default.yaml"

# The function between whose call and return instructions are counted.
REVIEW = "*nicplug::admission::Reviewer::review*"

HEARTBEAT = "vmi-update-status-heartbeat"
VM_EDIT = "vm-update-merge-patch-add-nic"
# Each NIC is judged by each rule, so that a rule which compares all NICs with all others is noticed.
MANY_NICS = "VM edit that adds 250 NICs"

# The instructions with `cargo build --release` for x86_64. `--check` accepts a twentieth more.
MEASURED = {HEARTBEAT: 32_193, VM_EDIT: 83_617, MANY_NICS: 4_124_178}

COUNTS = (100, 200)

# A processor executes about three million of these in a millisecond, and each review has to end within 250 of these.
HOSTILE_AT_MOST = 250_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--check", action="store_true", help="fail if a review takes more instructions than its bound")
    parser.add_argument("--growth", action="store_true", help="count reviews of large objects too")
    parser.add_argument("--hostile", action="store_true", help="count reviews that multiply NICs, names and facts too")
    args = parser.parse_args()
    binary = args.binary.resolve()
    too_many = []
    print("| review | bytes | instructions |\n| --- | --- | --- |")
    for name, measured in MEASURED.items():
        bound = measured * 21 // 20
        review = adding_nics(250) if name == MANY_NICS else read(name)
        count = show(binary, name, review)
        if args.check and count > bound:
            too_many.append(f"{name}: {count} instructions are more than {bound}")
    if args.growth:
        for nics in (10, 100, 1_000, 10_000):
            show(binary, f"VM edit, {nics} NICs", with_nics(nics))
        for kib in (64, 256, 1024):
            show(binary, f"heartbeat, object of {kib} KiB", with_unread_fields(HEARTBEAT, kib << 10))
            show(binary, f"VM edit, object of {kib} KiB", with_unread_fields(VM_EDIT, kib << 10))
    for name, (review, facts) in (hostile_reviews() if args.hostile else {}).items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": facts}, file)
            file.flush()
            count = show(binary, name, review, Path(file.name))
        if args.check and count > HOSTILE_AT_MOST:
            too_many.append(f"{name}: {count} instructions are more than {HOSTILE_AT_MOST}")
    sys.exit("\n".join(too_many) or None)


def read(name: str) -> dict[str, Any]:
    return json.loads((REVIEWS / f"{name}.json").read_text())


def show(binary: Path, name: str, review: dict[str, Any], facts: Path = FACTS) -> int:
    """Counts the instructions of one review and prints them as a row of the table."""
    line = json.dumps(review, separators=(",", ":"))
    count = instructions(binary, line, facts)
    print(f"| {name} | {len(line):,} | {count:,} |", flush=True)
    return count


def instructions(binary: Path, line: str, facts: Path) -> int:
    """Returns the instructions of one more review."""
    # A large body costs much time under valgrind, and little of its count is noise.
    counts = COUNTS if len(line) < 1 << 14 else (2, 4)
    fewer, more = (total(binary, line, facts, count) for count in counts)
    return round((more - fewer) / (counts[1] - counts[0]))


def total(binary: Path, line: str, facts: Path, count: int) -> int:
    """Returns the instructions inside of reviews while a program answers a number of them."""
    with tempfile.TemporaryDirectory() as folder:
        reviews = Path(folder) / "reviews"
        reviews.write_text((line + "\n") * count)
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", f"--toggle-collect={REVIEW}"]
        command += [binary, "review", "--exit-zero", "--facts", facts, reviews]
        run = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or not collected:
        sys.exit(f"{' '.join(map(str, command))}: status {run.returncode}\n{run.stderr}")
    if not int(collected[1]):
        sys.exit(f"{binary} has no function {REVIEW}, or no symbols")
    return int(collected[1])


def with_nics(count: int) -> dict[str, Any]:
    """Returns a VM edit whose two objects have a number of NICs, and one of them one more."""
    review = read(VM_EDIT)
    for side, nics in (("object", count), ("oldObject", count - 1)):
        guest = review["request"][side]["spec"]["template"]["spec"]
        names = [f"nic{number}" for number in range(nics)]
        guest["domain"]["devices"]["interfaces"] = [{"name": name, "bridge": {}} for name in names]
        guest["networks"] = [{"name": name, "multus": {"networkName": "new-fancy-net"}} for name in names]
    return review


def adding_nics(count: int) -> dict[str, Any]:
    """Returns a VM edit that adds a number of NICs with addresses of their own."""
    review = read(VM_EDIT)
    guest = review["request"]["object"]["spec"]["template"]["spec"]
    for number in range(count):
        name = f"nic{number}"
        nic = {"name": name, "bridge": {}, "macAddress": f"02:00:00:00:00:{number:02x}"}
        guest["domain"]["devices"]["interfaces"].append(nic)
        guest["networks"].append({"name": name, "multus": {"networkName": "new-fancy-net"}})
    return review


def with_unread_fields(name: str, length: int) -> dict[str, Any]:
    """Returns a review whose objects have about `length` bytes, of fields that no rule reads."""
    review = read(name)
    entry = {"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:a": {}, "f:b": {}}}}}
    for side in ("object", "oldObject"):
        count = length // len(json.dumps(entry, separators=(",", ":")))
        fields = [entry | {"time": f"{number:020}"} for number in range(count)]
        review["request"][side]["metadata"]["managedFields"] = fields
    return review


if __name__ == "__main__":
    main()
