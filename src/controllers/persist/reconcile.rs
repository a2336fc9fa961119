//! One look at one object that asks: read what is stored, do what is to be done, tell what came of it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Reconciler, client::Trouble};
use crate::{
    annotations::persist::{self, PersistPlan, Step, status_requests},
    api::cluster::KubeVirt as Resource,
    cluster::persist_queue::ObjectRef,
    facts::KubeVirt,
    k8s::{
        events::{EventReason, reference},
        kind::Kind,
    },
};

/// How often one visit reads an object again before it makes room for others.
const LOOKS: usize = 4;

/// What came of a visit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// All is done that can be: nothing changes before the object does.
    Settled,
    /// Something cannot be mirrored as the objects are.
    Failed,
    /// Others write to the object all the time.
    Busy,
    /// The API server cannot be reached.
    Away(String),
    /// Somebody refuses what is to be written.
    Refused,
}

/// One look, with what was told of the object before: each failure is told when it begins, and not again while it lasts.
pub(crate) struct Reconcile<'v> {
    reconciler: &'v Reconciler,
    told: &'v mut BTreeSet<String>,
    /// What failed this time.
    failures: BTreeSet<String>,
}

impl<'v> Reconcile<'v> {
    pub(crate) fn new(reconciler: &'v Reconciler, told: &'v mut BTreeSet<String>) -> Self {
        Self { reconciler, told, failures: BTreeSet::new() }
    }

    pub(crate) async fn pay(mut self, object_ref: &ObjectRef) -> Outcome {
        for _ in 0..LOOKS {
            let looked = match object_ref {
                ObjectRef::Vmi { namespace, name } => self.vmi(namespace, name).await,
                ObjectRef::Vm { namespace, name } => self.vm(namespace, name).await,
            };
            match looked {
                // Something was written, so there may be more to do.
                Ok(true) | Err(Trouble::Conflict) => {}
                Ok(false) => {
                    let has_failed = !self.failures.is_empty();
                    // What was told and is over may be told again when it comes back.
                    *self.told = self.failures;
                    return if has_failed { Outcome::Failed } else { Outcome::Settled };
                }
                Err(Trouble::Away(why)) => return Outcome::Away(why),
                Err(Trouble::Refused(why)) => {
                    // What cannot be written was told on the object; of what cannot be read there is none to tell it on.
                    if self.failures.is_empty() && self.told.insert(why.clone()) {
                        tracing::warn!(?object_ref, why, "not mirrored: it cannot be read");
                    }
                    return Outcome::Refused;
                }
            }
        }
        Outcome::Busy
    }

    /// One step for a VMI; tells whether there may be another.
    async fn vmi(&mut self, namespace: &str, name: &str) -> Result<bool, Trouble> {
        self.failures.clear();
        let objects = &self.reconciler.objects;
        let Some(vmi) = objects.get(Kind::Vmi, namespace, name).await? else { return Ok(false) };
        if persist::annotation(&vmi).is_none() {
            return Ok(false);
        }
        let vm = match persist::owner(&vmi) {
            Some(owner) => objects.get(Kind::Vm, namespace, &owner.name).await?,
            None => None,
        };
        match persist::step(&vmi, vm.as_ref()) {
            Ok(Step::Nothing) => Ok(false),
            Ok(Step::Resolve { names, operations }) => {
                tracing::debug!(namespace, name, ?names, "\"*\" stands for these NICs");
                self.annotate(&vmi, vm.as_ref().unwrap_or(&vmi), operations).await?;
                Ok(true)
            }
            Ok(Step::Persist(plan)) => match &vm {
                Some(vm) => self.carry_out(&vmi, vm, plan).await,
                None => Ok(false),
            },
            Err(why) => {
                let teller = vm.as_ref().filter(|_| why != persist::PersistError::NoVm).unwrap_or(&vmi);
                self.fail(teller, Some(&vmi), &why.to_string()).await;
                Ok(false)
            }
        }
    }

    /// Writes what is missing into the template, then takes what is done out of the annotation.
    async fn carry_out(&mut self, vmi: &Value, vm: &Value, plan: PersistPlan) -> Result<bool, Trouble> {
        for (_, why) in &plan.rejected {
            self.fail(vm, Some(vmi), &why.to_string()).await;
        }
        let mut done: Vec<&str> = plan.done().collect();
        done.sort_unstable();
        if !plan.operations.is_empty() {
            self.write(vm, vmi, None, plan.operations.clone(), &names_of(&plan.missing)).await?;
            self.reconciler.progress.add_mirrored(plan.missing.len());
            tracing::info!(vm = text(vm, "name"), namespace = text(vm, "namespace"), nics = ?plan.missing, "mirrored");
        }
        let settled = persist::remove_names(vmi, &done);
        if settled.is_empty() {
            return Ok(false);
        }
        // LogOnce before the annotation goes: whoever finds it there tells it, so that it is told at least once.
        let note = format!("{} is in the VM's template, and stays after a restart", names_of(&done));
        if self.told.insert(note.clone()) {
            self.tell(EventReason::InterfacePersisted, vm, Some(vmi), &note).await;
        }
        self.annotate(vmi, vm, settled).await?;
        self.told.remove(&note);
        Ok(true)
    }

    /// One step for a VM with requests in its status, where KubeVirt does not carry them out itself.
    async fn vm(&mut self, namespace: &str, name: &str) -> Result<bool, Trouble> {
        self.failures.clear();
        let objects = &self.reconciler.objects;
        let Some(vm) = objects.get(Kind::Vm, namespace, name).await? else { return Ok(false) };
        if !status_requests::has_requests(&vm) {
            return Ok(false);
        }
        let kubevirt = objects.list(Kind::KubeVirt).await?.into_iter().next();
        let kubevirt = kubevirt.and_then(|resource| serde_json::from_value::<Resource>(resource).ok());
        let Some(kubevirt) =
            kubevirt.map(KubeVirt::from).filter(|kubevirt| status_requests::is_handled_by_nicplug(kubevirt.version))
        else {
            return Ok(false);
        };
        let vmi = objects.get(Kind::Vmi, namespace, name).await?;
        let plan = status_requests::plan(&vm, vmi.as_ref(), kubevirt.default_binding.as_str());
        for why in &plan.rejected {
            self.fail(&vm, vmi.as_ref(), &why.to_string()).await;
        }
        if !plan.operations.is_empty() {
            let related = vmi.as_ref().unwrap_or(&vm);
            self.write(&vm, related, None, plan.operations, &names_of(&plan.done)).await?;
            self.reconciler.progress.add_mirrored(plan.done.len());
        }
        if plan.status_operations.is_empty() {
            return Ok(false);
        }
        let note = format!("the VM's template has {} as asked in status.interfaceRequests", names_of(&plan.done));
        if self.told.insert(note.clone()) {
            self.tell(EventReason::InterfacePersisted, &vm, vmi.as_ref(), &note).await;
        }
        self.write(&vm, &vm, Some("status"), plan.status_operations, "the requests").await?;
        self.told.remove(&note);
        Ok(true)
    }

    /// Patches the annotation of a VMI; a refusal is told on `teller`.
    async fn annotate(
        &mut self,
        vmi: &Value,
        teller: &Value,
        operations: Vec<json_patch::PatchOperation>,
    ) -> Result<(), Trouble> {
        let (namespace, name) = (text(vmi, "namespace"), text(vmi, "name"));
        let patched = self.reconciler.objects.patch(Kind::Vmi, namespace, name, None, operations).await;
        if let Err(Trouble::Refused(why)) = &patched {
            let refused = "the annotation of the VMI cannot be changed";
            self.fail_as(refused, teller, Some(vmi), &format!("{refused}: {why}")).await;
        }
        patched
    }

    /// Patches a VM; a refusal is told on it.
    async fn write(
        &mut self,
        vm: &Value,
        related: &Value,
        subresource: Option<&str>,
        operations: Vec<json_patch::PatchOperation>,
        what: &str,
    ) -> Result<(), Trouble> {
        let (namespace, name) = (text(vm, "namespace"), text(vm, "name"));
        let patched = self.reconciler.objects.patch(Kind::Vm, namespace, name, subresource, operations).await;
        if let Err(Trouble::Refused(why)) = &patched {
            let refused = format!("{what} cannot be written into the VM");
            // The words of others may differ each time.
            self.fail_as(&refused, vm, Some(related), &format!("{refused}: {why}")).await;
        }
        patched
    }

    async fn tell(&self, tale: EventReason, object: &Value, related: Option<&Value>, note: &str) {
        self.reconciler.events.tell(tale, &reference(object), related.map(reference), note).await;
    }

    async fn fail(&mut self, object: &Value, related: Option<&Value>, note: &str) {
        self.fail_as(note, object, related, note).await;
    }

    /// Tells a failure, unless the same one was told before, whatever was told of it.
    async fn fail_as(&mut self, failure: &str, object: &Value, related: Option<&Value>, note: &str) {
        self.failures.insert(failure.to_owned());
        if self.told.insert(failure.to_owned()) {
            self.tell(EventReason::PersistFailed, object, related, note).await;
            self.reconciler.progress.add_failed();
            let (namespace, name) = (text(object, "namespace"), text(object, "name"));
            tracing::warn!(kind = %object["kind"], namespace, name, why = note, "not mirrored");
        }
    }
}

/// `"a", "b"`.
fn names_of(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A field of an object's metadata.
fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.pointer("/metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}
