//! Where each NIC of a VM is (template, VMI, pod or guest), why it is not further, and what to do about it.
//!
//! It is a pure evaluation of the objects around one guest, for `nicplug status` and `nicplug why`, and for a server
//! that watches NICs. [`progress`](super::progress) finds the stage; the rules that judge a new NIC find what prevents
//! the next one, as if the NIC were added now; Events add what other programs reported.

mod events;
mod judgement;
mod nic;
mod since;

use std::collections::BTreeMap;

use serde_json::Value;

use self::{
    judgement::{Judgement, boot_nics},
    nic::Observed,
};
use super::progress::{
    self, Direction, MigrationNeed, Progress, Snapshot, Stage, State, Target,
    objects::{end_of, has_nic, is_in_domain, list, name_is, name_of, text},
};
use crate::{
    facts::{Fact, FactSource, nic::HotplugMethod},
    rules::FreePorts,
    settings::Settings,
};

/// The label of a guest's pods that holds the uid of the VMI.
pub const CREATED_BY: &str = "kubevirt.io/created-by";

/// The objects around one guest, as the API returns them, and the facts about its cluster.
#[derive(Clone, Copy)]
pub struct Surroundings<'s> {
    /// The VirtualMachine; `None` for a VMI without one.
    pub vm: Option<&'s Value>,
    /// The VirtualMachineInstance.
    pub vmi: Fact<&'s Value>,
    /// Pods of the namespace; `None` without permission to read them.
    pub pods: Option<&'s [Value]>,
    /// Migrations of the namespace; `None` without permission to read them.
    pub migrations: Option<&'s [Value]>,
    /// Events of type Warning in the namespace; `None` without permission to read them.
    pub events: Option<&'s [Value]>,
    /// The facts by which the rules judge.
    pub facts: &'s dyn FactSource,
    /// The settings of the rules.
    pub settings: &'s Settings,
}

/// The NICs of a guest.
#[derive(Clone, Debug)]
pub struct GuestReport {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Whether there is a VM, and not only a VMI.
    pub has_vm: bool,
    /// Whether the guest runs; unknown if the VMI cannot be read.
    pub runs: Fact<()>,
    /// Its NICs: in the order of the template, then those of the guest only.
    pub nics: Vec<NicReport>,
    /// Its free PCI ports.
    pub ports: FreePorts,
}

/// One NIC of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NicReport {
    /// Its name.
    pub name: String,
    /// `multus.networkName`, or `pod` for the pod network.
    pub network: String,
    /// The name of its binding; empty if KubeVirt or nicplug chooses it.
    pub binding: String,
    /// Its model; `virtio` by default.
    pub model: String,
    /// Its MAC address, if it is known.
    pub mac: Option<String>,
    /// How far it is.
    pub place: Place,
    /// Whether it is attached or detached.
    pub direction: Direction,
    /// A time at which it was there already, in RFC 3339.
    pub since: Option<String>,
    /// Whether the guest booted with it; `None` if that is not known.
    pub is_of_boot: Option<bool>,
    /// What it needs to get further.
    pub need: Need,
    /// Why it is not further, as the end of a sentence that begins with its name; empty if it is where it belongs.
    pub why: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
    /// Whether a user must start a live migration.
    pub needs_migration: bool,
    /// What could not be read and might say more.
    pub unread: Vec<&'static str>,
}

/// How far a NIC is on its way to the guest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// Only the template of the VM has it.
    Template,
    /// The VMI has it.
    Vmi,
    /// The pod has it.
    Pod,
    /// The guest has it.
    Guest,
}

impl Place {
    /// Every place, in order.
    pub const ALL: [Self; 4] = [Self::Template, Self::Vmi, Self::Pod, Self::Guest];

    /// Returns the name in tables and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Vmi => "vmi",
            Self::Pod => "pod",
            Self::Guest => "guest",
        }
    }
}

/// What a NIC needs to get further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Nothing: it is where it belongs.
    Nothing,
    /// Time: the next step is made by a program.
    Time,
    /// A user must do something.
    Action,
}

impl Need {
    /// Returns the name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Time => "time",
            Self::Action => "action",
        }
    }
}

/// Reports where each NIC of a guest is.
#[must_use]
pub fn report(around: &Surroundings) -> GuestReport {
    let vmi = around.vmi.known().copied();
    let guest = around.vm.or(vmi).unwrap_or(&Value::Null);
    let judgement = Judgement::of(around);
    let pods = around.pods.map(|pods| pods_of(pods, vmi));
    let observed = Observed {
        around,
        judgement: &judgement,
        snapshot: Snapshot {
            vm: around.vm,
            vmi,
            pods: pods.as_deref(),
            migrations: around.migrations,
            started_migration: None,
        },
        boot_nics: boot_nics(vmi),
        plugs: judgement::plugs(vmi),
    };
    GuestReport {
        namespace: text(guest, "/metadata/namespace").to_owned(),
        name: name_of(guest).to_owned(),
        has_vm: around.vm.is_some(),
        runs: runs(around),
        nics: observed.nics(),
        ports: judgement.ports,
    }
}

/// Returns the pods of a guest.
fn pods_of(pods: &[Value], vmi: Option<&Value>) -> Vec<Value> {
    let uid = vmi.map(|vmi| text(vmi, "/metadata/uid")).unwrap_or_default();
    let label = |pod: &Value| {
        let labels = pod.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(CREATED_BY)).and_then(Value::as_str).map(str::to_owned)
    };
    pods.iter().filter(|pod| !uid.is_empty() && label(pod).as_deref() == Some(uid)).cloned().collect()
}

/// Whether the guest runs. If the VMI cannot be read, the status of the VM shows it.
fn runs(around: &Surroundings) -> Fact<()> {
    match around.vmi {
        Fact::Known(vmi) if end_of(vmi).is_none() => Fact::Known(()),
        Fact::Known(_) | Fact::Absent => Fact::Absent,
        Fact::Unknown => match around.vm.and_then(|vm| vm.pointer("/status/created")).and_then(Value::as_bool) {
            Some(true) => Fact::Known(()),
            Some(false) => Fact::Absent,
            None => Fact::Unknown,
        },
    }
}

/// Returns the interfaces and networks of a guest's spec by name, in the order of the interfaces.
fn entries(spec: Option<&Value>) -> Vec<(&str, &Value, Option<&Value>)> {
    let Some(spec) = spec else { return Vec::new() };
    let networks: BTreeMap<&str, &Value> =
        list(spec, "/networks").iter().map(|network| (text(network, "/name"), network)).collect();
    let interfaces = list(spec, "/domain/devices/interfaces").iter();
    interfaces
        .map(|interface| {
            let name = text(interface, "/name");
            (name, interface, networks.get(name).copied())
        })
        .collect()
}

#[cfg(test)]
mod tests;
