//! The reconciliation of one object: reads it, writes what is missing, and reports the result on the object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Reconciler;
use crate::{
    annotations::persist::{self, PersistPlan, Step, status_requests},
    api::cluster::KubeVirt as Resource,
    cluster::persist_queue::ObjectRef,
    facts::KubeVirt,
    k8s::{
        api_error::ApiError,
        events::{EventReason, NamedEvent, name_of_event, reference},
        kind::Kind,
        request::ObjectPath,
    },
};

/// How often one reconciliation reads an object again before other objects get their turn.
const ATTEMPTS: usize = 4;

/// Why a reconciliation must be retried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconcileError {
    /// The API server cannot be reached, or cannot answer now.
    Unavailable,
    /// Other clients changed the object at each attempt.
    Conflict,
    /// The object asks for NICs that cannot be persisted.
    Impossible,
    /// A webhook, a policy, the schema or a missing permission rejects the requests.
    Refused,
}

impl ReconcileError {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Unavailable, Self::Conflict, Self::Impossible, Self::Refused];

    /// Returns the label value of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Impossible => "impossible",
            Self::Refused => "refused",
        }
    }
}

/// One reconciliation. A failure is reported when it begins, and not again while it lasts.
pub(crate) struct Reconcile<'v> {
    reconciler: &'v Reconciler,
    /// What earlier reconciliations of the object have reported.
    reported: &'v mut BTreeSet<String>,
    /// What failed in this one.
    failures: BTreeSet<String>,
}

impl<'v> Reconcile<'v> {
    pub(crate) fn new(reconciler: &'v Reconciler, reported: &'v mut BTreeSet<String>) -> Self {
        Self { reconciler, reported, failures: BTreeSet::new() }
    }

    pub(crate) async fn run(mut self, object: &ObjectRef) -> Result<(), ReconcileError> {
        for _ in 0..ATTEMPTS {
            let has_written = match object {
                ObjectRef::Vmi { namespace, name } => self.vmi(namespace, name).await,
                ObjectRef::Vm { namespace, name } => self.vm(namespace, name).await,
            };
            match has_written {
                // There may be a further step.
                Ok(true) => {}
                Err(error) if error.is_conflict() => {}
                Ok(false) => {
                    let has_failed = !self.failures.is_empty();
                    // A failure that is over is reported again when it comes back.
                    *self.reported = self.failures;
                    return if has_failed { Err(ReconcileError::Impossible) } else { Ok(()) };
                }
                Err(error) if is_refusal(&error) => {
                    // A refused write is a failure, reported on the object. A refused read leaves no object for an
                    // Event.
                    if self.failures.is_empty() && self.reported.insert(error.to_string()) {
                        tracing::warn!(%object, %error, "NICs not persisted: cannot read the object");
                    }
                    return Err(ReconcileError::Refused);
                }
                Err(error) => {
                    tracing::warn!(%object, %error, "NICs not persisted yet: retrying");
                    return Err(ReconcileError::Unavailable);
                }
            }
        }
        Err(ReconcileError::Conflict)
    }

    /// Performs the next step for a VMI. Returns whether there may be a further one.
    async fn vmi(&mut self, namespace: &str, name: &str) -> Result<bool, ApiError> {
        self.failures.clear();
        let client = &self.reconciler.client;
        let Some(vmi) = client.get(&ObjectPath::one(Kind::Vmi, namespace, name)).await? else { return Ok(false) };
        if persist::annotation(&vmi).is_none() {
            return Ok(false);
        }
        let vm = match persist::owner(&vmi) {
            Some(owner) => client.get(&ObjectPath::one(Kind::Vm, namespace, &owner.name)).await?,
            None => None,
        };
        match persist::step(&vmi, vm.as_ref()) {
            Ok(Step::Nothing) => Ok(false),
            Ok(Step::Resolve { names, operations }) => {
                tracing::debug!(namespace, name, ?names, "replacing \"*\" by these NICs");
                self.annotate(&vmi, vm.as_ref().unwrap_or(&vmi), operations).await?;
                Ok(true)
            }
            Ok(Step::Persist(plan)) => match &vm {
                Some(vm) => self.apply(&vmi, vm, plan).await,
                None => Ok(false),
            },
            Err(why) => {
                let subject = vm.as_ref().filter(|_| why != persist::PersistError::NoVm).unwrap_or(&vmi);
                self.report(subject, Some(&vmi), &why.to_string()).await;
                Ok(false)
            }
        }
    }

    /// Writes the missing NICs into the template, then removes the completed names from the annotation.
    async fn apply(&mut self, vmi: &Value, vm: &Value, plan: PersistPlan) -> Result<bool, ApiError> {
        for (_, why) in &plan.rejected {
            self.report(vm, Some(vmi), &why.to_string()).await;
        }
        let mut done: Vec<&str> = plan.done().collect();
        done.sort_unstable();
        if !plan.operations.is_empty() {
            self.write(vm, vmi, None, plan.operations.clone(), &names_of(&plan.missing)).await?;
            self.reconciler.stats.count_persisted(plan.missing.len());
            let (namespace, name) = (text(vm, "namespace"), text(vm, "name"));
            tracing::info!(vm = name, namespace, nics = ?plan.missing, "NICs persisted");
        }
        let settled = persist::remove_names(vmi, &done);
        if settled.is_empty() {
            return Ok(false);
        }
        // The Event comes before the annotation changes: if this replica is killed in between, the next one finds the
        // annotation and writes the Event, or finds it.
        let note = format!("{} is in the VM's template, and stays after a restart", names_of(&done));
        self.emit_persisted(vm, Some(vmi), !plan.operations.is_empty(), &note).await?;
        self.annotate(vmi, vm, settled).await?;
        self.reported.remove(&note);
        Ok(true)
    }

    /// Performs the next step for a VM with requests in its status, in versions of KubeVirt that do not fulfil them.
    async fn vm(&mut self, namespace: &str, name: &str) -> Result<bool, ApiError> {
        self.failures.clear();
        let client = &self.reconciler.client;
        let Some(vm) = client.get(&ObjectPath::one(Kind::Vm, namespace, name)).await? else { return Ok(false) };
        if !status_requests::has_requests(&vm) {
            return Ok(false);
        }
        let kubevirt = client.list(Kind::KubeVirt).await?.into_iter().next();
        let kubevirt = kubevirt.and_then(|resource| serde_json::from_value::<Resource>(resource).ok());
        let Some(kubevirt) =
            kubevirt.map(KubeVirt::from).filter(|kubevirt| status_requests::is_handled_by_nicplug(kubevirt.version))
        else {
            return Ok(false);
        };
        let vmi = client.get(&ObjectPath::one(Kind::Vmi, namespace, name)).await?;
        let plan = status_requests::plan(&vm, vmi.as_ref(), kubevirt.default_binding.as_str());
        for why in &plan.rejected {
            self.report(&vm, vmi.as_ref(), &why.to_string()).await;
        }
        let was_written = !plan.operations.is_empty();
        if was_written {
            let related = vmi.as_ref().unwrap_or(&vm);
            self.write(&vm, related, None, plan.operations, &names_of(&plan.done)).await?;
            self.reconciler.stats.count_persisted(plan.done.len());
        }
        if plan.status_operations.is_empty() {
            return Ok(false);
        }
        let note = format!("the VM's template has {} as asked in status.interfaceRequests", names_of(&plan.done));
        self.emit_persisted(&vm, vmi.as_ref(), was_written, &note).await?;
        self.write(&vm, &vm, Some("status"), plan.status_operations, "the requests").await?;
        self.reported.remove(&note);
        Ok(true)
    }

    /// Patches the annotation of a VMI; reports a refusal on `subject`.
    async fn annotate(
        &mut self,
        vmi: &Value,
        subject: &Value,
        operations: Vec<json_patch::PatchOperation>,
    ) -> Result<(), ApiError> {
        let path = ObjectPath::one(Kind::Vmi, text(vmi, "namespace"), text(vmi, "name"));
        let patched = self.reconciler.client.patch(&path, None, operations).await;
        if let Some(error) = patched.as_ref().err().filter(|error| is_refusal(error)) {
            let refused = "the annotation of the VMI cannot be changed";
            self.report_as(refused, subject, Some(vmi), &format!("{refused}: {error}")).await;
        }
        patched
    }

    /// Patches a VM; reports a refusal on it.
    async fn write(
        &mut self,
        vm: &Value,
        related: &Value,
        subresource: Option<&str>,
        operations: Vec<json_patch::PatchOperation>,
        what: &str,
    ) -> Result<(), ApiError> {
        let path = ObjectPath::one(Kind::Vm, text(vm, "namespace"), text(vm, "name"));
        let patched = self.reconciler.client.patch(&path, subresource, operations).await;
        if let Some(error) = patched.as_ref().err().filter(|error| is_refusal(error)) {
            let refused = format!("{what} cannot be written into the VM");
            // The message of a webhook may differ each time, so it does not identify the failure.
            self.report_as(&refused, vm, Some(related), &format!("{refused}: {error}")).await;
        }
        patched
    }

    /// Writes the Event of persisted NICs, once: its name identifies the NICs and the generation of the template that
    /// has them, so that it is the same for the next leader if this one is killed before the next step.
    ///
    /// # Errors
    /// The API server did not answer. The next try writes the Event, before the next step.
    async fn emit_persisted(
        &mut self,
        vm: &Value,
        vmi: Option<&Value>,
        was_written: bool,
        note: &str,
    ) -> Result<(), ApiError> {
        if self.reported.contains(note) {
            return Ok(());
        }
        let read = vm.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let generation = read.saturating_add(i64::from(was_written));
        let (uid, guest) = (text(vm, "uid"), vmi.map(|vmi| text(vmi, "uid")).unwrap_or_default());
        let event = NamedEvent {
            name: name_of_event(text(vm, "name"), &format!("{uid} {guest} persisted {generation} {note}")),
            reason: EventReason::InterfacePersisted,
            annotations: BTreeMap::new(),
            related: vmi.map(reference),
            note: note.to_owned(),
        };
        let written = self.reconciler.events.try_emit_once(event, &reference(vm)).await;
        if let Err(error @ (ApiError::Unavailable(_) | ApiError::TimedOut(_))) = written {
            return Err(error);
        }
        self.reported.insert(note.to_owned());
        Ok(())
    }

    async fn emit(&self, reason: EventReason, object: &Value, related: Option<&Value>, note: &str) {
        self.reconciler.events.emit(reason, &reference(object), related.map(reference), note).await;
    }

    /// Reports a failure, unless the same one was reported before.
    async fn report(&mut self, object: &Value, related: Option<&Value>, note: &str) {
        self.report_as(note, object, related, note).await;
    }

    /// As [`report`](Self::report), for a failure whose note may differ each time.
    async fn report_as(&mut self, failure: &str, object: &Value, related: Option<&Value>, note: &str) {
        self.failures.insert(failure.to_owned());
        if self.reported.insert(failure.to_owned()) {
            self.emit(EventReason::PersistFailed, object, related, note).await;
            self.reconciler.stats.count_reported_failure();
            let (namespace, name) = (text(object, "namespace"), text(object, "name"));
            tracing::warn!(kind = %object["kind"], namespace, name, reason = note, "NICs not persisted");
        }
    }
}

/// Whether a retry has to wait until the user, a webhook or an administrator changes something.
fn is_refusal(error: &ApiError) -> bool {
    matches!(error, ApiError::Forbidden(_) | ApiError::Refused(_))
}

/// Returns `"a", "b"`.
fn names_of(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Returns a field of an object's metadata.
fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.pointer("/metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}
