//! The way of a NIC into the guest, as `nicplug addinterface --wait` shows it. The demo simulates KubeVirt, Multus and
//! the guest: it changes their objects. The evaluation of these objects is that of the command.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};

use super::steps::{GUEST, Step};
use crate::{
    cli::interface::head,
    facts::{Fact, attachment::InPlace},
    hotplug::progress::{self, ClusterInfo, Direction, Snapshot, State, Target, pod_interface},
};

/// The annotation of the pod by which KubeVirt requests networks from Multus.
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// What is printed after a change of the objects.
pub(super) struct Moment {
    /// The time since the moment before.
    pub(super) pause: Duration,
    pub(super) lines: Vec<ArrivalLine>,
}

/// A line, and whether it reports a stage that is reached.
pub(super) struct ArrivalLine {
    pub(super) is_reached: bool,
    pub(super) head: String,
    pub(super) note: String,
}

/// The objects around a guest.
struct Objects {
    vm: Value,
    vmi: Value,
    pod: Value,
}

/// What KubeVirt, Multus or the guest does.
type Act = fn(&mut Objects, &str) -> anyhow::Result<()>;

/// Each act, and how long it takes in the demo, in milliseconds. At first only the VM has the NIC.
const ACTS: [(u64, Option<Act>); 5] = [
    (100, None),
    (300, Some(copy_to_vmi)),
    (300, Some(request_from_multus)),
    (900, Some(attach_to_pod)),
    (400, Some(plug_into_guest)),
];

/// Returns what is printed until the guest has the NIC.
pub(super) fn moments(step: &Step) -> anyhow::Result<Vec<Moment>> {
    let (vm, vmi) = step.vm_and_vmi()?;
    let pod = json!({"metadata": {"name": "virt-launcher-vmi-fedora-x7k2p", "annotations": {}},
        "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}});
    let mut objects = Objects { vm, vmi, pod };
    let nic = step.arrives.as_str();
    let target = Target { vm: "vmi-fedora".to_owned(), nic: nic.to_owned(), direction: Direction::Attach };
    let kubevirt = step.cluster()?.kubevirt().known().map(Arc::clone);
    let cluster_info = ClusterInfo { in_place: Fact::Known(InPlace::Yes), kubevirt };

    let mut elapsed = Duration::ZERO;
    let mut printed = 0;
    let mut moments = Vec::new();
    for (milliseconds, act) in ACTS {
        let pause = Duration::from_millis(milliseconds);
        elapsed += pause;
        if let Some(act) = act {
            act(&mut objects, nic)?;
        }
        let snapshot = Snapshot {
            vm: Some(&objects.vm),
            vmi: Some(&objects.vmi),
            pods: Some(std::slice::from_ref(&objects.pod)),
            migrations: Some(&[]),
            started_migration: None,
        };
        let progress = progress::observe(&target, &snapshot, &cluster_info);
        let reached = progress.reached.iter().skip(printed);
        let mut lines: Vec<ArrivalLine> = reached
            .map(|(stage, note)| ArrivalLine {
                is_reached: true,
                head: head(elapsed, "✓", stage.as_str()),
                note: note.clone(),
            })
            .collect();
        printed = progress.reached.len();
        lines.push(match progress.state {
            State::Waiting { stage, reason } => ArrivalLine {
                is_reached: false,
                head: head(elapsed, "…", stage.as_str()),
                note: format!("waits for {reason}"),
            },
            State::Done => {
                ArrivalLine { is_reached: true, head: "   ".to_owned(), note: format!("{nic:?} is plugged") }
            }
            State::Stopped(because) => anyhow::bail!("the NIC does not arrive: {because}"),
        });
        moments.push(Moment { pause, lines });
    }
    Ok(moments)
}

fn copy_to_vmi(objects: &mut Objects, _: &str) -> anyhow::Result<()> {
    let guest = objects.vm.pointer(GUEST).context("the VM has no template")?;
    *part(&mut objects.vmi, "/spec")? = guest.clone();
    Ok(())
}

fn request_from_multus(objects: &mut Objects, nic: &str) -> anyhow::Result<()> {
    let request = json!([{"name": "new-fancy-net", "interface": pod_interface(nic)}]).to_string();
    *part(&mut objects.pod, "/metadata/annotations")? = json!({ NETWORKS: request });
    Ok(())
}

fn attach_to_pod(objects: &mut Objects, nic: &str) -> anyhow::Result<()> {
    let entry = json!({"name": nic, "podInterfaceName": pod_interface(nic), "infoSource": "multus-status"});
    let interfaces = part(&mut objects.vmi, "/status/interfaces")?.as_array_mut();
    interfaces.context("the status has no list of interfaces")?.push(entry);
    Ok(())
}

fn plug_into_guest(objects: &mut Objects, _: &str) -> anyhow::Result<()> {
    let interfaces = part(&mut objects.vmi, "/status/interfaces")?.as_array_mut();
    let last = interfaces.and_then(|list| list.last_mut()).context("the status has no interface")?;
    *part(last, "/infoSource")? = json!("domain, guest-agent, multus-status");
    last.as_object_mut().context("the interface is not an object")?.insert("interfaceName".to_owned(), json!("eth1"));
    let conditions = part(&mut objects.vmi, "/status/conditions")?.as_array_mut();
    conditions.context("the status has no conditions")?.push(json!({"type": "AgentConnected", "status": "True"}));
    Ok(())
}

fn part<'v>(object: &'v mut Value, pointer: &str) -> anyhow::Result<&'v mut Value> {
    object.pointer_mut(pointer).with_context(|| format!("the object has no {pointer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::steps;

    #[test]
    fn the_nic_reaches_every_stage() {
        let steps = steps::beats().unwrap();
        let step = steps.iter().find(|step| !step.arrives.is_empty()).unwrap();
        let lines: Vec<String> = moments(step)
            .unwrap()
            .into_iter()
            .flat_map(|moment| moment.lines)
            .map(|line| line.head + &line.note)
            .collect();
        let text = lines.join("\n");
        for stage in ["template", "VMI spec", "pod annotation", "multus-status", "domain", "guest-agent"] {
            assert!(text.contains(&format!("✓ {stage}")), "{text}");
        }
        assert!(text.ends_with("\"dyniface1\" is plugged"), "{text}");
    }
}
