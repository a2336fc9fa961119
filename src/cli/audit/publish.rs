//! Writes the reports of an audit into the cluster, and removes those that no longer apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use anyhow::{anyhow, bail};
use futures_util::future::join_all;
use jiff::Timestamp;
use kube::core::params::ListParams;
use serde_json::Value;

use super::{
    AuditReport,
    reports::{KINDS, OWNED, StoredReport, reports_of},
};
use crate::{
    cli::{guests, kubeconfig::Cluster},
    k8s::{api_error::ApiError, kind::Kind, request::ApiClient, resource::Resource},
};

/// The writer in `metadata.managedFields`.
const FIELD_MANAGER: &str = "nicplug-audit";

/// The longest time for a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The size of a page of reports.
const PAGE: u32 = 500;

/// How many requests run at the same time.
const AT_ONCE: usize = 16;

/// After how many failed writes no further one is tried.
const MAX_FAILURES: usize = 20;

/// Where the reports are written.
pub(super) struct Publisher {
    client: ApiClient,
    kind: Resource,
    /// The other kind, if the cluster serves both: an earlier audit may have written it.
    other: Option<Resource>,
    /// The group in which the cluster serves VMs.
    group: String,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// As in `reports.openreports.io`.
    pub(super) resource: String,
    pub(super) created: usize,
    pub(super) changed: usize,
    pub(super) unchanged: usize,
    pub(super) removed: usize,
    /// What could not be written or removed.
    pub(super) failures: Vec<String>,
}

/// Namespace and name.
type Key = (String, String);

/// A request that changes a report.
enum Change {
    Apply { key: Key, object: Value, is_new: bool },
    Remove { kind: Resource, key: Key, uid: String },
}

impl Publisher {
    /// Asks the cluster which kind of reports it serves.
    pub(super) async fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let client = ApiClient::new(cluster.client.clone(), cluster.timeout(TIMEOUT));
        let mut served = Vec::new();
        for kind in KINDS {
            let unknown = |error| anyhow!("whether the cluster has {} is unknown: {error}", kind.api_version());
            if client.serves(&kind).await.map_err(unknown)? {
                served.push(kind);
            }
        }
        let mut served = served.into_iter();
        let Some(kind) = served.next() else {
            let [new, old] = KINDS.map(|kind| kind.api_version());
            bail!(
                "the cluster has neither {new} nor {old}, so no report can be written: install the CRDs of \
                 https://github.com/openreports/reports-api"
            );
        };
        Ok(Self { client, kind, other: served.next(), group: cluster.groups.of(Kind::Vm.group()).to_owned() })
    }

    /// Makes the reports of a namespace, or of all if it is empty, those of the audit. With a selector, reports about
    /// guests that were not audited stay.
    pub(super) async fn publish(
        &self,
        report: &AuditReport,
        namespace: &str,
        has_selector: bool,
    ) -> anyhow::Result<Published> {
        let mut published =
            Published { resource: format!("{}.{}", self.kind.plural, self.kind.group), ..Published::default() };
        let mut stored = self.stored(&self.kind, namespace).await?;
        let mut changes = Vec::new();
        let now = Timestamp::now().as_second();
        for guest in &report.guests {
            for new in reports_of(guest, &self.group, &report.version) {
                let key = (guest.namespace.clone(), new.name.clone());
                let known = stored.remove(&key);
                if known.as_ref().is_some_and(|known| new.is_stored_as(known)) {
                    published.unchanged += 1;
                    continue;
                }
                let object = new.object(&self.kind, known.as_ref(), now);
                changes.push(Change::Apply { key, object, is_new: known.is_none() });
            }
            // Reports are built when they are written, so that those of a large cluster need little memory.
            if changes.len() >= AT_ONCE {
                self.send(mem::take(&mut changes), &mut published).await;
            }
            if published.failures.len() >= MAX_FAILURES {
                published.failures.push("further reports were not written".to_owned());
                return Ok(published);
            }
        }
        let audited: BTreeSet<&str> = report.guests.iter().map(|guest| guest.uid.as_str()).collect();
        let is_stale = |name: &str| !has_selector || subject(name).is_some_and(|uid| audited.contains(uid));
        let mut remove = |kind: Resource, stored: BTreeMap<Key, StoredReport>| {
            let stale = stored.into_iter().filter(|((_, name), _)| is_stale(name));
            changes.extend(stale.map(|(key, stored)| Change::Remove { kind, key, uid: stored.uid }));
        };
        remove(self.kind, stored);
        if let Some(other) = self.other {
            match self.stored(&other, namespace).await {
                Ok(stored) => remove(other, stored),
                Err(error) => published.failures.push(error.to_string()),
            }
        }
        while !changes.is_empty() {
            let next = changes.split_off(changes.len().saturating_sub(AT_ONCE));
            self.send(next, &mut published).await;
        }
        Ok(published)
    }

    /// Reads the reports that nicplug owns.
    async fn stored(&self, kind: &Resource, namespace: &str) -> anyhow::Result<BTreeMap<Key, StoredReport>> {
        let params = ListParams::default().limit(PAGE).labels(&format!("{}={}", OWNED.0, OWNED.1));
        let unlisted = |error| anyhow!("{}.{} cannot be listed: {error}", kind.plural, kind.group);
        let mut pages = self.client.list_resource(kind, namespace, params);
        let mut all = BTreeMap::new();
        let mut add = |text: &str| {
            let mut object: Value = serde_json::from_str(text).unwrap_or_default();
            all.insert(guests::key(&object), StoredReport::of(&mut object));
        };
        while pages.read_next(&mut add).await.map_err(unlisted)? {}
        Ok(all)
    }

    /// Sends requests at the same time, and counts them.
    async fn send(&self, changes: Vec<Change>, published: &mut Published) {
        let send = async |change: &Change| match change {
            Change::Apply { key: (namespace, name), object, .. } => {
                self.client.apply(&self.kind, [namespace, name], FIELD_MANAGER, object).await
            }
            Change::Remove { kind, key: (namespace, name), uid } => {
                self.client.delete(kind, [namespace, name], uid).await
            }
        };
        let results = join_all(changes.iter().map(send)).await;
        for (change, result) in changes.iter().zip(results) {
            match (change, result) {
                (Change::Apply { is_new: true, .. }, Ok(())) => published.created += 1,
                (Change::Apply { .. }, Ok(())) => published.changed += 1,
                (Change::Remove { .. }, Ok(())) => published.removed += 1,
                // Another client, or the garbage collector, was faster.
                (Change::Remove { .. }, Err(ApiError::NotFound(_) | ApiError::Conflict)) => {}
                // With the namespace its guests are deleted too.
                (Change::Apply { .. }, Err(error)) if error.to_string().contains("because it is being terminated") => {}
                (Change::Apply { key: (namespace, name), .. }, Err(error)) => {
                    let kind = self.kind.kind;
                    published.failures.push(format!("{kind} \"{namespace}/{name}\" was not written: {error}"));
                }
                (Change::Remove { kind, key: (namespace, name), .. }, Err(error)) => {
                    let kind = kind.kind;
                    published.failures.push(format!("{kind} \"{namespace}/{name}\" was not removed: {error}"));
                }
            }
        }
    }
}

/// Returns the uid of the guest in the name of a report; the number of a further part may follow it.
fn subject(name: &str) -> Option<&str> {
    const LENGTH: usize = "123e4567-e89b-12d3-a456-426614174000".len();
    name.strip_prefix("nicplug-")?.get(..LENGTH)
}
