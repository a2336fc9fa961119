"""Reviews whose cost once grew with a product of NICs, names and facts, with the facts: for instructions.py."""

from __future__ import annotations

import json
from typing import Any

Object = dict[str, Any]

# With the one that the VM has, one less than nicplug accepts.
NAMES = [f"nic{number}" for number in range(253)]
OLD = "old"
MAC = "02:00:00:00:00:01"


def hostile_reviews() -> dict[str, tuple[Object, list[Object]]]:
    """Returns the reviews and their facts by a description."""
    return {
        "NICs with a MAC address of 1,000 VMs": shared_address(),
        "NICs on one OVN network of 1,000 definitions": one_ovn_network(),
        "NICs with names of 1,000 letters": long_names(),
        "NICs that need a migration, with a long affinity": long_affinity(),
        "disks with a preferred bus": preferred_disks(),
        "annotations with escapes, and a fault": escaped_annotations(),
    }


def shared_address() -> tuple[Object, list[Object]]:
    others = [vm(guest([f"nic{number}"], f"net{number}", macAddress=MAC), f"other{number}") for number in range(1000)]
    new = guest([OLD, *NAMES], "net", macAddress=MAC)
    return edit(guest([OLD], "net"), new), [KUBEVIRT, vmi(guest([OLD], "net")), *others]


def one_ovn_network() -> tuple[Object, list[Object]]:
    definitions = [ovn(f"ovn{number}", number) for number in range(1000)]
    return edit(guest([OLD], "net"), guest([OLD, *NAMES], "ovn0")), [KUBEVIRT, vmi(guest([OLD], "net")), *definitions]


def long_names() -> tuple[Object, list[Object]]:
    names = ["n" * 1000 + name for name in NAMES]
    old = guest(names[:100], "ovn0")
    return edit(old, guest(names, "ovn0")), [KUBEVIRT, vmi(old), ovn("ovn0", 0)]


def long_affinity() -> tuple[Object, list[Object]]:
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node{number}"}} for number in range(300)]
    expressions = [{"key": f"key{number}", "operator": "DoesNotExist"} for number in range(200)]
    many = {"key": "key", "operator": "NotIn", "values": NAMES}
    required = {"nodeSelectorTerms": [{"matchExpressions": [many, *expressions]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    old = guest([OLD], "net")
    facts = [KUBEVIRT, *nodes, ovn("net", 0), vmi({**old, "affinity": affinity})]
    return edit(old, guest([OLD, *NAMES], "net")), facts


def preferred_disks() -> tuple[Object, list[Object]]:
    preference = {"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterPreference"}
    preference |= {"metadata": {"name": "preference"}, "spec": {"devices": {"preferredDiskBus": "virtio"}}}
    review = edit(guest([OLD], "net"), guest([OLD, *NAMES], "net"))
    for side in ("object", "oldObject"):
        spec = review["request"][side]["spec"]
        spec["preference"] = {"name": "preference"}
        disks = [{"name": f"disk{number}", "disk": {"other": "x" * 400}} for number in range(250)]
        spec["template"]["spec"]["domain"]["devices"]["disks"] = disks
    return review, [KUBEVIRT, vmi(guest([OLD], "net")), preference]


def escaped_annotations() -> tuple[Object, list[Object]]:
    review = edit(guest([OLD], "net"), guest([OLD], "net"))
    created = review["request"]["object"]
    # json.dumps writes each as an escape.
    created["metadata"]["annotations"] = {f"\u0001{number}": "" for number in range(150_000)}
    created["spec"] = 5
    return review, [KUBEVIRT]


KUBEVIRT = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "KubeVirt",
    "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
    "status": {"observedKubeVirtVersion": "v1.9.0"},
}


def edit(old: Object, new: Object) -> Object:
    """Returns the review of an update of a VM from one guest to another."""
    request = {"uid": "u", "operation": "UPDATE", "namespace": "demo", "name": "vm"}
    request |= {"kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"}}
    request |= {"userInfo": {"username": "alice"}, "object": vm(new, "vm"), "oldObject": vm(old, "vm")}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def vm(of: Object, name: str) -> Object:
    spec = {"runStrategy": "Always", "template": {"spec": of}}
    return {**named("kubevirt.io/v1", "VirtualMachine", name), "spec": spec}


def vmi(of: Object) -> Object:
    """Returns a running guest that can migrate."""
    status = {"phase": "Running", "nodeName": "node0", "conditions": [{"type": "LiveMigratable", "status": "True"}]}
    return {**named("kubevirt.io/v1", "VirtualMachineInstance", "vm"), "spec": of, "status": status}


def guest(names: list[str], network: str, **fields: str) -> Object:
    """Returns the spec of a guest with NICs of these names on one network."""
    interfaces = [{"name": name, "bridge": {}, **fields} for name in names]
    networks = [{"name": name, "multus": {"networkName": network}} for name in names]
    return {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}


def ovn(name: str, mtu: int) -> Object:
    """Returns a definition of the one OVN network."""
    config = {"type": "ovn-k8s-cni-overlay", "name": "n" * 200, "topology": "layer2", "mtu": mtu}
    spec = {"config": json.dumps({**config, "netAttachDefName": f"demo/{name}"})}
    return {**named("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition", name), "spec": spec}


def named(version: str, kind: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"namespace": "demo", "name": name}}
