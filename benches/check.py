"""Compares `nicplug check` with other offline checks on the same manifests: check.py NICPLUG KUBECONFORM CONFTEST CRDS

All judge 10,000 VirtualMachines, in one file, in 100 files and in 10,000 files. kubeconform validates them with the schema
of KubeVirt's definition in CRDS, conftest judges them with the one rule NP003, written in Rego, and nicplug judges them
with all of its rules. The programs take turns. The recipe `just bench-check` fails if conftest, which judges content as
nicplug does, does not take ten times as long in each of the three cases, or if the memory of nicplug grows with the
number of files. Both use all processors, so run it on a machine without other work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

DOCUMENTS = 10_000
ROUNDS = 3
# How many times as long as nicplug conftest must take, and how much more memory 10,000 files may take than 100.
FACTOR = 10
GROWTH = 1.5

POLICY = """\
package main

import rego.v1

deny contains message if {
    input.kind == "VirtualMachine"
    some interface in input.spec.template.spec.domain.devices.interfaces
    not interface.name in {network.name | some network in input.spec.template.spec.networks}
    message := sprintf("interface %q has no network with the same name", [interface.name])
}
"""

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


class Run(NamedTuple):
    """A run of a program."""

    clock: float
    processor: float
    mebibytes: float


# Runs a program and prints its exit status, and what it needed. A process of its own, because the memory of a program
# that Linux counts includes that of the process that started it, and this one is larger than nicplug.
LAUNCHER = """\
import json, os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
outputs = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
start = time.monotonic()
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=outputs)
_, status, usage = os.wait4(process, 0)
clock = time.monotonic() - start
print(json.dumps([os.waitstatus_to_exitcode(status), clock, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def run(command: list[str], log: Path) -> Run:
    launch = [sys.executable, "-S", "-E", "-c", LAUNCHER, str(log), *command]
    status, *needed = json.loads(subprocess.run(launch, stdout=subprocess.PIPE, check=True).stdout)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed ({status}):\n{log.read_text()[:2000]}")
    return Run(*needed)


def main(nicplug: str, kubeconform: str, conftest: str, crds: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_schema(crds, folder)
        (folder / "policy").mkdir()
        (folder / "policy/main.rego").write_text(POLICY)
        schema = str(folder / "{{.ResourceKind}}.json")
        slowest, memory = float("inf"), {}
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {DOCUMENTS} VMs, best of {ROUNDS} rounds")
        print(f"{'files':>6}  {'program':12} {'clock s':>8} {'processor s':>12} {'MiB':>7}")
        for count in (1, 100, 10_000):
            files = folder / f"files-{count}"
            write_files(files, count)
            commands = {
                "nicplug": [nicplug, "check", "--output", "json", "--file", str(files)],
                "kubeconform": [kubeconform, "-summary", "-schema-location", schema, str(files)],
                "conftest": [conftest, "test", "--policy", str(folder / "policy"), "--output", "json", str(files)],
            }
            runs: dict[str, list[Run]] = {program: [] for program in commands}
            for _ in range(ROUNDS):
                for program, command in commands.items():
                    runs[program].append(run(command, folder / f"{program}.log"))
            prove(folder)
            best = {
                program: Run(min(r.clock for r in all), min(r.processor for r in all), max(r.mebibytes for r in all))
                for program, all in runs.items()
            }
            own = best["nicplug"]
            for program, (clock, processor, mebibytes) in best.items():
                factors = f"{clock / own.clock:5.1f} x clock, {processor / own.processor:5.1f} x processor"
                print(f"{count:6}  {program:12} {clock:8.2f} {processor:12.2f} {mebibytes:7.1f}  {factors}")
            slowest = min(slowest, best["conftest"].clock / own.clock)
            memory[count] = own.mebibytes
    growth = memory[10_000] / memory[100]
    print(f"memory of nicplug with 10,000 files is {growth:.2f} of that with 100 files")
    if slowest < FACTOR or growth > GROWTH:
        sys.exit(f"conftest must take {FACTOR} times as long as nicplug, whose memory may grow to {GROWTH} times")


def prove(folder: Path) -> None:
    """Checks that all have judged every document."""
    summary = json.loads((folder / "nicplug.log").read_text())["summary"]
    if (summary["objects"], summary["errors"]) != (DOCUMENTS, 0):
        sys.exit(f"nicplug judged {summary}")
    text = (folder / "kubeconform.log").read_text()
    if f"{DOCUMENTS} resources found" not in text or f"Valid: {DOCUMENTS}" not in text:
        sys.exit(f"kubeconform judged: {text[-500:]}")
    results = json.loads((folder / "conftest.log").read_text())
    if sum(result["successes"] for result in results) != DOCUMENTS:
        sys.exit(f"conftest judged: {results[:5]}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:4], Path(sys.argv[4]))
