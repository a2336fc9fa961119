//! Reads the VMs and VMIs of a large cluster twice, page by page, so that only one page of them is in memory: first for
//! the facts, and then to evaluate each one.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
};

use anyhow::{anyhow, ensure};
use futures_util::future::join_all;
use kube::core::params::ListParams;
use serde_json::Value;

use super::{
    Cluster, Fact, FoundGuests, Guest, Kind, MAX_REVISIONS, PAGE, Unread, add_all, add_guest, is_expanded, is_of_vm,
    key, list, networks, read_around, read_expanders, read_objects, value,
};
use crate::{
    cli::namespace,
    k8s::{
        api_error::ApiError,
        request::{ApiClient, Fields, ObjectPath, Pages, is_valid_name},
    },
};

/// The longest time for a page.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// The VMs of a namespace or of the cluster.
pub(in crate::cli) struct Scope<'c> {
    cluster: &'c Cluster,
    client: ApiClient,
    /// Empty for the cluster.
    namespace: String,
    labels: Option<String>,
}

impl<'c> Scope<'c> {
    /// Selects the VMs of the namespace, or of all namespaces, with these labels.
    pub(in crate::cli) fn new(
        cluster: &'c Cluster,
        has_all_namespaces: bool,
        labels: Option<&str>,
    ) -> anyhow::Result<Self> {
        let namespace = if has_all_namespaces { String::new() } else { cluster.namespace.clone() };
        ensure!(has_all_namespaces || is_valid_name(&namespace), "{namespace:?} is not a valid name of a namespace");
        let client = ApiClient::new(cluster.client.clone(), cluster.timeout(TIMEOUT));
        Ok(Self { cluster, client, namespace, labels: labels.map(str::to_owned) })
    }

    /// Reads the facts about the guests, and what is around them; keeps no VM and no VMI.
    pub(in crate::cli) async fn facts(&self) -> anyhow::Result<FoundGuests> {
        let mut found = FoundGuests::default();
        // A cluster has fewer networks than VMs, so its networks are listed, and not looked up one by one.
        let listed = if self.namespace.is_empty() { self.list_networks().await } else { None };
        let mut all_networks = BTreeSet::new();
        if listed.is_none() {
            let mut count = 0;
            let add = |guest| {
                all_networks.extend(networks(&guest));
                count += 1;
            };
            self.each(&mut Unread::default(), add).await?;
            if count == 0 && !self.namespace.is_empty() {
                namespace::ensure_exists(&self.client, &self.namespace).await?;
            }
        }
        read_around(self.cluster, &self.client, &self.namespace, &all_networks, &mut found).await;
        for (kind, objects) in listed.into_iter().flatten() {
            add_all(&mut found.store, kind, &objects);
        }
        let FoundGuests { store, unread, .. } = &mut found;
        let (mut revisions, mut is_any_expanded) = (Vec::new(), false);
        let add = |guest: Guest| {
            revisions.extend(add_guest(store, &guest).filter(|_| revisions.len() < MAX_REVISIONS));
            is_any_expanded |= guest.vm.as_ref().is_some_and(is_expanded);
        };
        let has_vmis = self.each(unread, add).await?;
        if self.namespace.is_empty() && self.labels.is_none() {
            store.finish_sync(Kind::Vm);
            if has_vmis {
                store.finish_sync(Kind::Vmi);
            }
        }
        if is_any_expanded {
            read_expanders(&self.client, &self.namespace, &mut found).await;
        }
        read_objects(&self.client, revisions, &mut found).await;
        Ok(found)
    }

    /// Lists the networks of the cluster, and the configurations of webhooks, one of which is the injector's. Returns
    /// none without permission.
    async fn list_networks(&self) -> Option<Vec<(Kind, Vec<String>)>> {
        let kinds = [Kind::Nad, Kind::MutatingWebhooks].map(|kind| ObjectPath::all(kind, ""));
        let lists = join_all(kinds.map(|path| list(&self.client, path))).await;
        let mut all = Vec::new();
        for (path, listed) in lists {
            match listed {
                Ok(objects) => all.push((path.kind, objects)),
                Err(_) if path.kind == Kind::Nad => return None,
                // Without them the injector is only not known to be missing.
                Err(_) => {}
            }
        }
        Some(all)
    }

    /// Reads the VMs and VMIs, in the order of namespace and name, and calls `take` with each. Returns whether all VMIs
    /// could be read.
    pub(in crate::cli) async fn each(&self, unread: &mut Unread, mut take: impl FnMut(Guest)) -> anyhow::Result<bool> {
        let [vms, vmis] = [Kind::Vm, Kind::Vmi].map(|kind| ObjectPath::all(kind, &self.namespace));
        let all = ListParams::default().limit(PAGE);
        let selected = match &self.labels {
            Some(labels) => all.clone().labels(labels),
            None => all.clone(),
        };
        let mut vm_list = Stream::of(self.client.list(&vms, selected, Fields::All));
        // The VMI of a selected VM need not have its labels.
        let mut vmi_list = Stream::of(self.client.list(&vmis, all, Fields::All));
        let unlisted = |error| anyhow!("{vms} cannot be listed: {error}");
        let mut has_vmis = match vmi_list.fill().await {
            Ok(()) => true,
            Err(error) => {
                unread.add(&vmis, &error);
                false
            }
        };
        let alone = |vmi: Value| (self.labels.is_none() && !is_of_vm(&vmi)).then(|| without_vm(vmi));
        while let Some(vm) = vm_list.next().await.map_err(unlisted)? {
            let (namespace, name) = key(&vm);
            let path = path_of(&vm);
            let mut found = None;
            while has_vmis {
                match vmi_list.peek().await {
                    Ok(Some(vmi)) => match path_of(vmi).cmp(&path) {
                        Ordering::Greater => break,
                        Ordering::Equal => found = vmi_list.take(),
                        Ordering::Less => vmi_list.take().and_then(alone).into_iter().for_each(&mut take),
                    },
                    Ok(None) => break,
                    Err(error) => {
                        unread.add(&vmis, &error);
                        has_vmis = false;
                    }
                }
            }
            let vmi = match found {
                Some(vmi) => Fact::Known(vmi),
                None if has_vmis => Fact::Absent,
                None => Fact::Unknown,
            };
            take(Guest { namespace, name, vm: Some(vm), vmi });
        }
        while has_vmis {
            match vmi_list.next().await {
                Ok(Some(vmi)) => alone(vmi).into_iter().for_each(&mut take),
                Ok(None) => break,
                Err(error) => {
                    unread.add(&vmis, &error);
                    has_vmis = false;
                }
            }
        }
        Ok(has_vmis)
    }
}

/// Returns a guest that is a VMI only.
fn without_vm(vmi: Value) -> Guest {
    let (namespace, name) = key(&vmi);
    Guest { namespace, name, vm: None, vmi: Fact::Known(vmi) }
}

/// Returns the end of the key by which the API server sorts a list.
fn path_of(object: &Value) -> String {
    let (namespace, name) = key(object);
    format!("{namespace}/{name}")
}

/// The objects of a list, of which one page is in memory.
struct Stream<'c> {
    pages: Pages<'c>,
    page: VecDeque<String>,
    next: Option<Value>,
}

impl<'c> Stream<'c> {
    fn of(pages: Pages<'c>) -> Self {
        Self { pages, page: VecDeque::new(), next: None }
    }

    /// Reads until there is a next object, or the list ends.
    async fn fill(&mut self) -> Result<(), ApiError> {
        while self.next.is_none() {
            if let Some(text) = self.page.pop_front() {
                self.next = Some(value(&text));
            } else if let Some(page) = self.pages.next().await? {
                self.page = page.into();
            } else {
                break;
            }
        }
        Ok(())
    }

    async fn peek(&mut self) -> Result<Option<&Value>, ApiError> {
        self.fill().await?;
        Ok(self.next.as_ref())
    }

    fn take(&mut self) -> Option<Value> {
        self.next.take()
    }

    async fn next(&mut self) -> Result<Option<Value>, ApiError> {
        self.fill().await?;
        Ok(self.take())
    }
}
