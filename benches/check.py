"""Compares `nicplug check` with kubeconform on the same manifests, in the same run: check.py NICPLUG KUBECONFORM CRDS

Both judge 10,000 VirtualMachines, in one file, in 100 files and in 10,000 files. kubeconform validates them with the
schema of KubeVirt's definition in CRDS; nicplug judges them with its rules. The tools take turns, and of each the best
and the median time of the rounds are printed. The recipe `just bench-check` fails if nicplug is not at least ten times as
fast, or if its memory grows with the number of files.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

DOCUMENTS = 10_000
ROUNDS = 3
# How much faster nicplug must be, and how much more memory 10,000 files may take than 100.
FACTOR = 10
GROWTH = 1.5

VM = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm-{number}
  namespace: shop-{team}
  labels:
    app: web
spec:
  runStrategy: Always
  template:
    metadata:
      labels:
        app: web
    spec:
      domain:
        cpu:
          cores: 2
        memory:
          guest: 4Gi
        devices:
          disks:
          - name: root
            disk:
              bus: virtio
          - name: cloudinit
            disk:
              bus: virtio
          interfaces:
          - name: default
            masquerade: {{}}
          - name: blue
            bridge: {{}}
            macAddress: 02:00:00:{bytes}
      networks:
      - name: default
        pod: {{}}
      - name: blue
        multus:
          networkName: shop/blue
      volumes:
      - name: root
        containerDisk:
          image: quay.io/containerdisks/fedora:latest
      - name: cloudinit
        cloudInitNoCloud:
          userData: |
            #cloud-config
            password: fedora
            chpasswd: {{ expire: False }}
"""


def vm(number: int) -> str:
    octets = ":".join(f"{byte:02x}" for byte in number.to_bytes(3, "big"))
    return VM.format(number=number, team=number % 50, bytes=octets)


def write_files(folder: Path, count: int) -> None:
    """Writes all documents into as many files."""
    folder.mkdir()
    each = DOCUMENTS // count
    for file in range(count):
        numbers = range(file * each, (file + 1) * each)
        (folder / f"vms-{file:05}.yaml").write_text("---\n".join(vm(number) for number in numbers))


def write_schema(crds: Path, folder: Path) -> None:
    """Writes the schema of the definition as kubeconform wants it."""
    definition = yaml.load((crds / "virtualmachines.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    (folder / "virtualmachine.json").write_text(json.dumps(version["schema"]["openAPIV3Schema"]))


def run(command: list[str], log: Path, allowed: int) -> tuple[float, float]:
    """Runs a command; returns its seconds and the most MiB of memory that it used."""
    with log.open("w") as output:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode > allowed:
        sys.exit(f"{' '.join(command)} failed ({process.returncode}):\n{log.read_text()[:2000]}")
    return seconds, usage.ru_maxrss / 1024


def main(nicplug: str, kubeconform: str, crds: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_schema(crds, folder)
        slowest, memory = float("inf"), {}
        print(f"{os.cpu_count()} CPUs, {DOCUMENTS} VirtualMachines, best and median of {ROUNDS} rounds")
        print(f"{'files':>6}  {'program':12} {'best s':>8} {'median s':>9} {'MiB':>6}  {'documents/s':>11}")
        for count in (1, 100, 10_000):
            files = folder / f"files-{count}"
            write_files(files, count)
            schema = str(folder / "{{.ResourceKind}}.json")
            commands = {
                "nicplug": [nicplug, "check", "--output", "json", "--file", str(files)],
                "kubeconform": [kubeconform, "-summary", "-schema-location", schema, str(files)],
            }
            times: dict[str, list[float]] = {program: [] for program in commands}
            most = dict.fromkeys(commands, 0.0)
            for _ in range(ROUNDS):
                for program, command in commands.items():
                    seconds, mebibytes = run(command, folder / f"{program}.log", 0)
                    times[program].append(seconds)
                    most[program] = max(most[program], mebibytes)
            prove(folder)
            for program, seconds in times.items():
                best, median = min(seconds), statistics.median(seconds)
                print(f"{count:6}  {program:12} {best:8.3f} {median:9.3f} {most[program]:6.1f}  {DOCUMENTS / best:11.0f}")
            factor = min(times["kubeconform"]) / min(times["nicplug"])
            print(f"{count:6}  nicplug is {factor:.1f} times as fast")
            slowest = min(slowest, factor)
            memory[count] = most["nicplug"]
    growth = memory[10_000] / memory[100]
    print(f"memory with 10,000 files is {growth:.2f} of that with 100 files")
    if slowest < FACTOR or growth > GROWTH:
        sys.exit(f"nicplug must be {FACTOR} times as fast, and its memory may grow to {GROWTH}")


def prove(folder: Path) -> None:
    """Checks that both have judged every document."""
    summary = json.loads((folder / "nicplug.log").read_text())["summary"]
    if (summary["objects"], summary["errors"]) != (DOCUMENTS, 0):
        sys.exit(f"nicplug judged {summary}")
    text = (folder / "kubeconform.log").read_text()
    if f"{DOCUMENTS} resources found" not in text or f"Valid: {DOCUMENTS}" not in text:
        sys.exit(f"kubeconform judged: {text[-500:]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
