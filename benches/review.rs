//! Benchmarks a review without the server: from the body of a recorded request to the body of the response.

use std::{fs, hint::black_box, path::Path, sync::Arc};

use anyhow::Context;
use criterion::{Criterion, Throughput};
use nicplug::{
    admission::{Decision, Endpoint, Reviewer},
    api::vmi::VirtualMachineInstance,
    change::Change,
    facts::{Fact, FactSource, Facts, KubeVirt, Vmi},
    settings::Settings,
};

/// The guest that runs.
const VMI: &str = r#"{"spec": {"networks": [{"name": "defaultnetwork", "pod": {}}], "domain": {"devices": {
    "interfaces": [{"name": "defaultnetwork", "masquerade": {}}]}}}, "status": {"phase": "Running"}}"#;

/// A cluster that runs the VM, with a KubeVirt version with or without NIC hotplug.
struct Cluster(Facts);

impl Cluster {
    fn of_version(version: &str) -> anyhow::Result<Self> {
        let kubevirt = KubeVirt { version: version.parse().ok(), ..KubeVirt::default() };
        let vmi: VirtualMachineInstance = serde_json::from_str(VMI)?;
        let vmi = Vmi::of(&vmi, &vmi, &kubevirt);
        let (kubevirt, vmi) = (Fact::Known(Arc::new(kubevirt)), Fact::Known(Arc::new(vmi)));
        Ok(Self(Facts { kubevirt, vmi, ..Facts::default() }))
    }
}

impl FactSource for Cluster {
    fn facts_for(&self, _change: &Change) -> Facts {
        self.0.clone()
    }
}

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion, "heartbeat", "vmi-update-status-heartbeat", "v1.9.0", Decision::Allowed)?;
    bench(&mut criterion, "nic-change", "vm-update-merge-patch-add-nic", "v1.9.0", Decision::Allowed)?;
    bench(&mut criterion, "denial", "vm-update-merge-patch-add-nic", "v1.3.1", Decision::Denied)?;
    criterion.final_summary();
    Ok(())
}

/// Benchmarks one review, after a check that its outcome is the expected one.
fn bench(criterion: &mut Criterion, name: &str, review: &str, version: &str, expected: Decision) -> anyhow::Result<()> {
    let body = body(review)?;
    let reviewer = Reviewer::new(Arc::new(Cluster::of_version(version)?), Settings::default());
    let decision = reviewer.review(Endpoint::Validate, &body).decision;
    anyhow::ensure!(decision == expected, "{name}: the answer is {decision:?}, not {expected:?}");

    let mut group = criterion.benchmark_group("review");
    group.throughput(Throughput::Bytes(u64::try_from(body.len())?));
    group.bench_function(name, |bencher| {
        bencher.iter(|| reviewer.review(Endpoint::Validate, black_box(&body)));
    });
    group.finish();
    Ok(())
}

/// Returns a recorded review as the API server sends it, without whitespace.
fn body(review: &str) -> anyhow::Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews").join(review).with_extension("json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::to_vec(&serde_json::from_slice::<serde_json::Value>(&text)?)?)
}
