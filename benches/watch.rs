//! What one event of a watch costs, from its line to the facts: a heartbeat that changes none, and one that does.
//!
//! A hundred thousand guests that are each updated once a minute make 1,667 events a second. For all of them to take
//! less than a twentieth of a core, one may take 30 µs.

use std::hint::black_box;

use anyhow::{Context, ensure};
use criterion::{Criterion, Throughput};
use nicplug::cluster::{
    cache::{Cache, Effect},
    kind::Kind,
    store::Store,
    watch::Event,
};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let [first, heartbeat, change] = [line(1, "a"), line(2, "a"), line(3, "b")];
    let cache = Cache::new(Store::default()).0;
    take(&cache, &first)?;
    ensure!(matches!(take(&cache, &heartbeat)?, Effect::Unchanged), "a heartbeat changes a fact");
    ensure!(matches!(take(&cache, &change)?, Effect::Changed), "a new NIC changes no fact");

    let mut group = criterion.benchmark_group("watch");
    group.throughput(Throughput::Bytes(u64::try_from(heartbeat.len())?));
    take(&cache, &first)?;
    group.bench_function("heartbeat", |bencher| bencher.iter(|| take(&cache, black_box(&heartbeat))));
    let mut turn = [&change, &first].into_iter().cycle();
    group.bench_function("change", |bencher| {
        bencher.iter(|| turn.next().map(|line| take(&cache, black_box(line))));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// What a watch does with a line.
fn take(cache: &Cache, line: &str) -> anyhow::Result<Effect> {
    match Event::read(line) {
        Some(Event::Applied(object)) => Ok(cache.apply(Kind::Instance, object)),
        _ => None.context("another event"),
    }
}

/// The line of an update of a guest with two NICs, the second of which has this name.
fn line(beat: u64, nic: &str) -> String {
    format!(r#"{{"type":"MODIFIED","object":{}}}"#, guest(beat, nic))
}

/// A guest as KubeVirt's controllers leave it, in some 8 KiB.
fn guest(beat: u64, nic: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata(beat),
        "spec": spec(nic), "status": status(beat, nic)})
}

fn metadata(beat: u64) -> Value {
    let managed = |manager: &str, fields: &Value| {
        json!({"apiVersion": "kubevirt.io/v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": manager,
            "operation": "Update", "time": "2026-11-23T20:52:40Z"})
    };
    let set = |names: &[&str]| Value::Object(names.iter().map(|name| (format!("f:{name}"), json!({}))).collect());
    let conditions: Value = ["Ready", "LiveMigratable", "StorageLiveMigratable", "AgentConnected", "DataVolumesReady"]
        .iter()
        .map(|name| {
            let fields = set(&["lastProbeTime", "lastTransitionTime", "message", "reason", "status", "type"]);
            (format!(r#"k:{{"type":"{name}"}}"#), fields)
        })
        .collect();
    json!({
        "annotations": {"kubevirt.io/latest-observed-api-version": "v1", "nicplug.io/boot-slots": "v1:port=8,nics=2,disks=2",
            "kubevirt.io/storage-observed-api-version": "v1", "kubevirt.io/vm-generation": "3"},
        "creationTimestamp": "2026-11-23T20:52:40Z",
        "finalizers": ["kubevirt.io/virtualMachineControllerFinalize", "foregroundDeleteVirtualMachine"],
        "generation": 12,
        "labels": {"app": "fedora", "kubevirt.io/domain": "fedora", "kubevirt.io/nodeName": "node-01", "kubevirt.io/size": "small"},
        "managedFields": [
            managed("virt-controller", &json!({
                "f:metadata": {"f:annotations": set(&["kubevirt.io/latest-observed-api-version", "kubevirt.io/vm-generation"]),
                    "f:finalizers": {".": {}, "v:\"kubevirt.io/virtualMachineControllerFinalize\"": {}},
                    "f:labels": set(&["app", "kubevirt.io/domain", "kubevirt.io/nodeName", "kubevirt.io/size"]),
                    "f:ownerReferences": {".": {}, "k:{\"uid\":\"d963b9c0-8f26-4b3b-ad98-88994c059c8a\"}": {}}},
                "f:spec": {"f:architecture": {}, "f:domain": {"f:cpu": set(&["cores", "maxSockets", "model", "sockets", "threads"]),
                        "f:devices": set(&["disks", "interfaces", "rng"]), "f:features": {"f:acpi": set(&["enabled"])},
                        "f:firmware": set(&["serial", "uuid"]), "f:machine": set(&["type"]),
                        "f:memory": set(&["guest", "maxGuest"]), "f:resources": {"f:requests": set(&["memory"])}},
                    "f:evictionStrategy": {}, "f:networks": {}, "f:terminationGracePeriodSeconds": {}, "f:volumes": {}},
                "f:status": {"f:activePods": set(&["0c1b2d3e-4f50-6172-8394-a5b6c7d8e9f0"]), "f:conditions": conditions.clone(),
                    "f:currentCPUTopology": set(&["cores", "sockets", "threads"]), "f:launcherContainerImageVersion": {},
                    "f:phase": {}, "f:phaseTransitionTimestamps": {}, "f:runtimeUser": {}, "f:virtualMachineRevisionName": {}}})),
            managed("virt-handler", &json!({
                "f:status": {"f:conditions": conditions, "f:guestOSInfo": set(&["id", "kernelRelease", "name", "version"]),
                    "f:interfaces": {}, "f:machine": set(&["type"]), "f:memory": set(&["guestAtBoot", "guestCurrent", "guestRequested"]),
                    "f:migrationMethod": {}, "f:migrationTransport": {}, "f:selinuxContext": {}, "f:volumeStatus": {}}})),
        ],
        "name": "fedora", "namespace": "demo", "resourceVersion": (32_500 + beat).to_string(),
        "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "blockOwnerDeletion": true, "controller": true,
            "kind": "VirtualMachine", "name": "fedora", "uid": "d963b9c0-8f26-4b3b-ad98-88994c059c8a"}],
        "uid": "7d1f2a3b-4c5d-6e7f-8091-a2b3c4d5e6f7"
    })
}

fn spec(nic: &str) -> Value {
    json!({
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "node-labeller.kubevirt.io/obsolete-host-model", "operator": "DoesNotExist"}]}]}}},
        "architecture": "amd64",
        "domain": {
            "cpu": {"cores": 1, "maxSockets": 16, "model": "host-model", "sockets": 4, "threads": 1},
            "devices": {
                "disks": [{"disk": {"bus": "virtio"}, "name": "root"}, {"disk": {"bus": "virtio"}, "name": "cloudinit"}],
                "interfaces": [{"macAddress": "02:00:00:aa:bb:01", "masquerade": {}, "model": "virtio", "name": "default"},
                    {"bridge": {}, "macAddress": "02:00:00:aa:bb:02", "model": "virtio", "name": nic}],
                "rng": {}},
            "features": {"acpi": {"enabled": true}},
            "firmware": {"serial": "e2f1a0b9-c8d7-4665-9544-332211009988", "uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"},
            "machine": {"type": "pc-q35-rhel9.6.0"}, "memory": {"guest": "4Gi", "maxGuest": "16Gi"},
            "resources": {"requests": {"memory": "4Gi"}}},
        "evictionStrategy": "LiveMigrate",
        "networks": [{"name": "default", "pod": {}}, {"multus": {"networkName": "demo/blue"}, "name": nic}],
        "terminationGracePeriodSeconds": 180,
        "tolerations": [{"effect": "NoSchedule", "key": "virtualization", "operator": "Exists"}],
        "volumes": [{"dataVolume": {"name": "fedora-root"}, "name": "root"},
            {"cloudInitNoCloud": {"networkData": "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n",
                "userData": "#cloud-config\nssh_authorized_keys:\n  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExample\n"},
                "name": "cloudinit"}]
    })
}

fn status(beat: u64, nic: &str) -> Value {
    let time = format!("2026-11-24T{:02}:{:02}:00Z", beat / 60 % 24, beat % 60);
    let condition = |kind: &str, status: &str| json!({"lastProbeTime": time, "lastTransitionTime": "2026-11-23T20:53:11Z", "status": status, "type": kind});
    let phase = |phase: &str| json!({"phase": phase, "phaseTransitionTimestamp": "2026-11-23T20:53:05Z"});
    json!({
        "activePods": {"0c1b2d3e-4f50-6172-8394-a5b6c7d8e9f0": "node-01"},
        "conditions": [condition("Ready", "True"), condition("DataVolumesReady", "True"), condition("LiveMigratable", "True"),
            condition("StorageLiveMigratable", "True"), condition("AgentConnected", "True")],
        "currentCPUTopology": {"cores": 1, "sockets": 4, "threads": 1},
        "guestOSInfo": {"id": "fedora", "kernelRelease": "6.12.6-200.fc41.x86_64", "kernelVersion": "#1 SMP PREEMPT_DYNAMIC",
            "machine": "x86_64", "name": "Fedora Linux", "prettyName": "Fedora Linux 41 (Cloud Edition)", "version": "41 (Cloud Edition)",
            "versionId": "41"},
        "interfaces": [
            {"infoSource": "domain, guest-agent", "interfaceName": "eth0", "ipAddress": "10.244.1.17", "ipAddresses": ["10.244.1.17"],
                "linkState": "up", "mac": "02:00:00:aa:bb:01", "name": "default", "podInterfaceName": "eth0", "queueCount": 1},
            {"infoSource": "domain, guest-agent, multus-status", "interfaceName": "eth1", "ipAddress": "192.168.7.4",
                "ipAddresses": ["192.168.7.4", "fe80::aa:bbff:fe02:2"], "linkState": "up", "mac": "02:00:00:aa:bb:02", "name": nic,
                "podInterfaceName": "pod9a6a0c3b4d8", "queueCount": 1}],
        "launcherContainerImageVersion": "quay.io/kubevirt/virt-launcher:v1.9.0",
        "machine": {"type": "pc-q35-rhel9.6.0"},
        "memory": {"guestAtBoot": "4Gi", "guestCurrent": "4Gi", "guestRequested": "4Gi"},
        "migrationMethod": "BlockMigration", "migrationTransport": "Unix", "nodeName": "node-01", "phase": "Running",
        "phaseTransitionTimestamps": [phase("Pending"), phase("Scheduling"), phase("Scheduled"), phase("Running")],
        "qosClass": "Burstable", "runtimeUser": 107, "selinuxContext": "system_u:object_r:container_file_t:s0:c713,c905",
        "virtualMachineRevisionName": "revision-start-vm-d963b9c0-8f26-4b3b-ad98-88994c059c8a-3",
        "volumeStatus": [{"name": "cloudinit", "size": 1_048_576, "target": "vdb"},
            {"name": "root", "persistentVolumeClaimInfo": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "30Gi"},
                "claimName": "fedora-root", "filesystemOverhead": "0.06", "requests": {"storage": "30Gi"}, "volumeMode": "Block"},
                "target": "vda"}]
    })
}
