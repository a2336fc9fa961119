//! Reads VMs from the cluster with everything around them that shows where their NICs are.
//!
//! What the user has no permission to read is listed as unread, and the rest is evaluated without it.

mod expanders;
pub(super) mod pages;
mod unread;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{anyhow, bail, ensure};
use futures_util::{
    StreamExt,
    future::{join, join_all, join3},
    stream,
};
use kube::core::params::ListParams;
use serde_json::Value;

use self::expanders::{is_expanded, read_expanders};
pub(super) use self::unread::Unread;
use super::{kubeconfig::Cluster, namespace, progress::Progress};
use crate::{
    cluster::{
        fetch::{FetchPlan, expanding_objects, fetch_facts},
        store::Store,
    },
    facts::{Fact, nad::closest_name},
    hotplug::place::{CREATED_BY, Surroundings},
    k8s::{
        api_error::ApiError,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath, is_valid_name},
    },
    settings::Settings,
};

/// The longest time for a response of the API server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The size of a page of a list, as kubectl has it.
const PAGE: u32 = 500;

/// The maximum number of ControllerRevisions that are read one by one for guests whose ports at boot nicplug did not
/// record.
const MAX_REVISIONS: usize = 100;

/// How many objects are read at the same time.
const READ_AT_ONCE: usize = 32;

/// How the annotations of Multus on a pod begin.
const OF_MULTUS: &str = "k8s.v1.cni.cncf.io/";

/// Which VMs to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Selection {
    /// All VMs of all namespaces.
    Cluster,
    /// All VMs of the namespace.
    Namespace,
    /// The VMs with these names, each `NAME`, `vm/NAME` or `vmi/NAME`. One that cannot be read is an error.
    Names(Vec<String>),
    /// As [`Names`](Self::Names), but the others are read if one cannot be.
    Each(Vec<String>),
}

/// A VM, or a VMI without a VM.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) vm: Option<Value>,
    pub(super) vmi: Fact<Value>,
}

/// What was read.
#[derive(Default)]
pub(super) struct FoundGuests {
    /// The VMs and VMIs, by namespace and name.
    pub(super) list: Vec<Guest>,
    /// The names of [`Selection::Each`] that could not be read, and why.
    pub(super) missing: Vec<(String, String)>,
    /// The facts for the rules.
    pub(super) store: Store,
    /// What could not be read, each with its reason unless that is a missing permission.
    pub(super) unread: Unread,
    /// The pods by the uid of their VMI.
    pods: Option<BTreeMap<String, Vec<Value>>>,
    migrations: Option<ByNamespace>,
    events: Option<ByNamespace>,
}

/// Objects by their namespace.
type ByNamespace = BTreeMap<String, Vec<Value>>;

impl FoundGuests {
    /// Returns everything around a guest.
    pub(super) fn around<'g>(&'g self, guest: &'g Guest, settings: &'g Settings) -> Surroundings<'g> {
        let of = |objects: &'g Option<ByNamespace>| {
            objects.as_ref().map(|all| all.get(&guest.namespace).map(Vec::as_slice).unwrap_or_default())
        };
        let uid = guest.vmi.known().and_then(|vmi| vmi.pointer("/metadata/uid")?.as_str()).unwrap_or_default();
        let pods = self.pods.as_ref().map(|all| all.get(uid).map(Vec::as_slice).unwrap_or_default());
        Surroundings {
            vm: guest.vm.as_ref(),
            vmi: guest.vmi.as_ref(),
            pods,
            migrations: of(&self.migrations),
            events: of(&self.events),
            facts: &self.store,
            settings,
        }
    }
}

/// Reads the selected VMs, and what is around them, including further networks, each `nad` or `namespace/nad`.
pub(super) async fn read(
    cluster: &Cluster,
    selection: &Selection,
    labels: Option<&str>,
    further_networks: &[String],
) -> anyhow::Result<FoundGuests> {
    ensure!(is_valid_name(&cluster.namespace), "{:?} is not a valid name of a namespace", cluster.namespace);
    let _progress = Progress::start("Reading the VMs and the cluster");
    let client = ApiClient::new(cluster.client.clone(), cluster.timeout(TIMEOUT));
    let mut guests = FoundGuests::default();
    match selection {
        Selection::Names(names) => {
            read_named(cluster, &client, names, &mut guests).await?;
            if let Some((_, error)) = guests.missing.first() {
                bail!("{error}");
            }
        }
        Selection::Each(names) => read_named(cluster, &client, names, &mut guests).await?,
        Selection::Cluster => read_all(&client, "", labels, &mut guests).await?,
        Selection::Namespace => read_all(&client, &cluster.namespace, labels, &mut guests).await?,
    }
    let namespace = if *selection == Selection::Cluster { "" } else { cluster.namespace.as_str() };
    let mut all_networks: BTreeSet<String> = guests.list.iter().flat_map(networks).collect();
    all_networks.extend(further_networks.iter().cloned());
    read_around(cluster, &client, namespace, &all_networks, &mut guests).await;
    let mut revisions: Vec<ObjectPath> =
        guests.list.iter().filter_map(|guest| add_guest(&mut guests.store, guest)).collect();
    revisions.truncate(MAX_REVISIONS);
    let mut expanded = guests.list.iter().filter(|guest| guest.vm.as_ref().is_some_and(is_expanded));
    match selection {
        // For these the permission `get` is enough.
        Selection::Names(_) | Selection::Each(_) => {
            for guest in expanded {
                let vm = guest.vm.as_ref().map(Value::to_string).unwrap_or_default();
                revisions.extend(expanding_objects(&guest.namespace, &vm));
            }
        }
        Selection::Cluster | Selection::Namespace if expanded.next().is_none() => {}
        Selection::Cluster | Selection::Namespace => read_expanders(&client, namespace, &mut guests).await,
    }
    read_objects(&client, revisions, &mut guests).await;
    Ok(guests)
}

/// Returns the name in an argument such as `vm/NAME`.
pub(super) fn name_in(argument: &str) -> anyhow::Result<&str> {
    let name = match argument.split_once('/') {
        Some((kind, name)) => {
            let kinds = ["vm", "vms", "vmi", "vmis", "virtualmachine", "virtualmachines", "virtualmachineinstance"];
            let kind = kind.split('.').next().unwrap_or_default();
            ensure!(kinds.contains(&kind), "{argument:?} is not a VM: write NAME, vm/NAME or vmi/NAME");
            name
        }
        None => argument,
    };
    ensure!(is_valid_name(name), "{name:?} is not a valid name of a VirtualMachine");
    Ok(name)
}

/// Returns the names in arguments, each once.
pub(super) fn names_in(arguments: &[String]) -> anyhow::Result<Vec<&str>> {
    let mut names: Vec<&str> = Vec::new();
    for argument in arguments {
        let name = name_in(argument)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Reads VMs and VMIs by their names, for which the permission `get` is enough.
async fn read_named(
    cluster: &Cluster,
    client: &ApiClient,
    arguments: &[String],
    guests: &mut FoundGuests,
) -> anyhow::Result<()> {
    let namespace = &cluster.namespace;
    let names = names_in(arguments)?;
    let both = |name: &&str| {
        let [vm, vmi] = [Kind::Vm, Kind::Vmi].map(|kind| ObjectPath::one(kind, namespace, name));
        async move { join(client.get(&vm), client.get(&vmi)).await }
    };
    let results = join_all(names.iter().map(both)).await;
    for (name, (vm, vmi)) in names.into_iter().zip(results) {
        let vm = match vm {
            Ok(text) => Some(value(&text)),
            Err(ApiError::NotFound(_)) => None,
            Err(error) => {
                guests.missing.push((name.to_owned(), format!("VirtualMachine {name:?} cannot be read: {error}")));
                continue;
            }
        };
        let vmi = match vmi {
            Ok(text) => Fact::Known(value(&text)),
            Err(ApiError::NotFound(_)) => Fact::Absent,
            Err(error) => {
                let path = ObjectPath::one(Kind::Vmi, namespace, name);
                guests.unread.add(&path, &error);
                Fact::Unknown
            }
        };
        if vm.is_none() && vmi.known().is_none() {
            guests.missing.push((name.to_owned(), not_found(client, namespace, name).await.to_string()));
            continue;
        }
        guests.list.push(Guest { namespace: namespace.clone(), name: name.to_owned(), vm, vmi });
    }
    Ok(())
}

/// Returns the error for a VM that does not exist, or for its namespace, with a similar name.
pub(super) async fn not_found(client: &ApiClient, namespace: &str, name: &str) -> anyhow::Error {
    if let Err(error) = namespace::ensure_exists(client, namespace).await {
        return error;
    }
    let names = namespace::names(client, &ObjectPath::all(Kind::Vm, namespace)).await;
    let hint = match closest_name(name, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if names.is_empty() => "; pass -n for another namespace".to_owned(),
        None => String::new(),
    };
    anyhow!("VirtualMachine {name:?} not found in namespace {namespace:?}{hint}")
}

/// Lists VMs and VMIs.
async fn read_all(
    client: &ApiClient,
    namespace: &str,
    labels: Option<&str>,
    guests: &mut FoundGuests,
) -> anyhow::Result<()> {
    let selected = match labels {
        Some(labels) => ListParams::default().limit(PAGE).labels(labels),
        None => ListParams::default().limit(PAGE),
    };
    let [vms, vmis] = [Kind::Vm, Kind::Vmi].map(|kind| ObjectPath::all(kind, namespace));
    // The VMI of a selected VM need not have its labels.
    let all = ListParams::default().limit(PAGE);
    let lists =
        join(client.list(&vms, selected, Fields::All).objects(), client.list(&vmis, all, Fields::All).objects());
    let (vm_list, vmi_list) = lists.await;
    let vm_list = vm_list.map_err(|error| anyhow!("{vms} cannot be listed: {error}"))?;
    let mut running: Option<BTreeMap<(String, String), Value>> = match vmi_list {
        Ok(vmis) => Some(vmis.iter().map(|text| value(text)).map(|vmi| (key(&vmi), vmi)).collect()),
        Err(error) => {
            guests.unread.add(&vmis, &error);
            None
        }
    };
    for vm in vm_list.iter().map(|text| value(text)) {
        let (namespace, name) = key(&vm);
        let vmi = match &mut running {
            None => Fact::Unknown,
            Some(running) => running.remove(&(namespace.clone(), name.clone())).map_or(Fact::Absent, Fact::Known),
        };
        guests.list.push(Guest { namespace, name, vm: Some(vm), vmi });
    }
    if labels.is_none() {
        let alone = running.into_iter().flatten().filter(|(_, vmi)| !is_of_vm(vmi));
        guests.list.extend(alone.map(|((namespace, name), vmi)| Guest {
            namespace,
            name,
            vm: None,
            vmi: Fact::Known(vmi),
        }));
    }
    if guests.list.is_empty() && !namespace.is_empty() {
        namespace::ensure_exists(client, namespace).await?;
    }
    guests.list.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(())
}

/// Reads what is around the guests, and the facts for the rules.
async fn read_around(
    cluster: &Cluster,
    client: &ApiClient,
    namespace: &str,
    networks: &BTreeSet<String>,
    guests: &mut FoundGuests,
) {
    let plan = networks.iter().fold(FetchPlan::about(namespace, ""), |plan, network| plan.with_network(network));
    let kinds: &[Kind] = if namespace.is_empty() {
        &[Kind::Migration, Kind::ResourceQuota, Kind::Namespace]
    } else {
        &[Kind::Migration, Kind::ResourceQuota]
    };
    let (fetched, lists, (pods, events)) = join3(
        fetch_facts(&cluster.client, &plan, cluster.timeout(TIMEOUT)),
        join_all(kinds.iter().map(|&kind| list(client, ObjectPath::all(kind, namespace)))),
        join(
            list_core(client, "pods", namespace, ListParams::default().labels(CREATED_BY)),
            list_core(client, "events", namespace, ListParams::default().fields("type=Warning")),
        ),
    )
    .await;
    guests.store = fetched.store;
    for error in &fetched.errors {
        guests.unread.add(&error.path, &error.reason);
    }
    let place = if namespace.is_empty() { String::new() } else { format!(" of namespace {namespace:?}") };
    guests.pods = keep(pods, &format!("Pods{place}"), creator, &mut guests.unread);
    guests.events = keep(events, &format!("Events{place}"), namespace_of, &mut guests.unread);
    for (path, listed) in lists {
        match listed {
            Ok(objects) => {
                add_all(&mut guests.store, path.kind, &objects);
                if path.kind == Kind::Migration {
                    guests.migrations = Some(grouped(objects.iter().map(|text| value(text)).collect(), namespace_of));
                }
            }
            // Most users may not read quotas; without them a migration is only not known to be refused.
            Err(_) if path.kind == Kind::ResourceQuota => {}
            Err(error) => guests.unread.add(&path, &error),
        }
    }
}

/// Adds all objects of a kind. One that cannot be read stays unknown, as on the server.
fn add_all(store: &mut Store, kind: Kind, objects: &[String]) {
    for text in objects {
        drop(store.apply(kind, text));
    }
    store.finish_sync(kind);
}

/// Adds a guest to the facts. Returns its ControllerRevision, if its ports at boot are not recorded.
fn add_guest(store: &mut Store, guest: &Guest) -> Option<ObjectPath> {
    let (namespace, name) = (guest.namespace.as_str(), guest.name.as_str());
    let objects = [(Kind::Vm, guest.vm.as_ref().map_or(Fact::Absent, Fact::Known)), (Kind::Vmi, guest.vmi.as_ref())];
    for (kind, object) in objects {
        match object {
            Fact::Known(object) => drop(store.apply(kind, &object.to_string())),
            Fact::Absent => store.mark_absent(kind, namespace, name),
            Fact::Unknown => {}
        }
    }
    let vmi = guest.vmi.known().filter(|vmi| !has_boot_record(vmi));
    let revision = vmi.and_then(|vmi| vmi.pointer("/status/virtualMachineRevisionName")?.as_str());
    revision.map(|name| ObjectPath::one(Kind::Revision, namespace, name))
}

/// Whether nicplug recorded the ports of a VMI at boot.
pub(super) fn has_boot_record(vmi: &Value) -> bool {
    vmi.pointer("/metadata/annotations/nicplug.io~1boot-slots").is_some()
}

/// Adds objects to the facts, each once.
async fn read_objects(client: &ApiClient, paths: Vec<ObjectPath>, guests: &mut FoundGuests) {
    let get = |path: ObjectPath| async move {
        let object = client.get(&path).await;
        (path, object)
    };
    let mut seen = BTreeSet::new();
    let paths = paths.into_iter().filter(|path| path.is_valid() && seen.insert(path.to_string()));
    let mut objects = stream::iter(paths).map(get).buffer_unordered(READ_AT_ONCE);
    while let Some((path, object)) = objects.next().await {
        match object {
            Ok(text) => drop(guests.store.apply(path.kind, &text)),
            Err(ApiError::NotFound(_)) => guests.store.mark_absent(path.kind, &path.namespace, path.name()),
            Err(error) => guests.unread.add(&path, &error),
        }
    }
}

/// Returns the networks of a guest, as `namespace/name`.
fn networks(guest: &Guest) -> Vec<String> {
    let specs = [
        guest.vm.as_ref().and_then(|vm| vm.pointer("/spec/template/spec/networks")),
        guest.vmi.known().and_then(|vmi| vmi.pointer("/spec/networks")),
    ];
    let entries = specs.into_iter().flatten().filter_map(Value::as_array).flatten();
    let names = entries.filter_map(|network| network.pointer("/multus/networkName")?.as_str());
    let full = |name: &str| if name.contains('/') { name.to_owned() } else { format!("{}/{name}", guest.namespace) };
    names.map(full).collect()
}

async fn list(client: &ApiClient, path: ObjectPath) -> (ObjectPath, Result<Vec<String>, ApiError>) {
    let objects = client.list(&path, ListParams::default().limit(PAGE), Fields::All).objects().await;
    (path, objects)
}

/// Lists objects of the core group, page by page.
async fn list_core(
    client: &ApiClient,
    plural: &str,
    namespace: &str,
    params: ListParams,
) -> Result<Vec<Value>, ApiError> {
    let mut pages = client.list_core(plural, namespace, params.limit(PAGE));
    let mut all = Vec::new();
    while pages.read_next(|text| all.push(trimmed(value(text)))).await? {}
    Ok(all)
}

/// Drops what no evaluation reads of a Pod or an Event, so that those of a large cluster fit into memory.
fn trimmed(mut object: Value) -> Value {
    let kept = ["annotations", "creationTimestamp", "deletionTimestamp", "labels", "name", "namespace"];
    for (part, is_kept) in [
        ("/metadata", &(|name: &str| kept.contains(&name)) as &dyn Fn(&str) -> bool),
        ("/metadata/annotations", &|name| name.starts_with(OF_MULTUS)),
        ("/metadata/labels", &|name| name == CREATED_BY),
        ("/spec", &|name| name == "nodeName"),
        ("/status", &|name| name == "phase"),
    ] {
        if let Some(fields) = object.pointer_mut(part).and_then(Value::as_object_mut) {
            fields.retain(|name, _| is_kept(name));
        }
    }
    object
}

/// Groups the objects of a list by a key; notes an error.
fn keep(
    listed: Result<Vec<Value>, ApiError>,
    what: &str,
    group: fn(&Value) -> String,
    unread: &mut Unread,
) -> Option<BTreeMap<String, Vec<Value>>> {
    match listed {
        Ok(objects) => Some(grouped(objects, group)),
        Err(error) => {
            unread.add(&what, &error);
            None
        }
    }
}

fn grouped(objects: Vec<Value>, group: fn(&Value) -> String) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in objects {
        all.entry(group(&object)).or_default().push(object);
    }
    all
}

fn namespace_of(object: &Value) -> String {
    key(object).0
}

/// Returns the uid of the VMI of a pod.
fn creator(pod: &Value) -> String {
    let labels = pod.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(CREATED_BY)?.as_str()).unwrap_or_default().to_owned()
}

/// Whether a VMI belongs to a VM.
fn is_of_vm(vmi: &Value) -> bool {
    let owners = vmi.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["kind"] == "VirtualMachine"))
}

/// Returns namespace and name.
pub(super) fn key(object: &Value) -> (String, String) {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    (namespace.to_owned(), name_of(object).to_owned())
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Reads an object that the API server sent; `null` if it is not JSON, so that it has no NICs.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_names_a_vm_as_kubectl_does() {
        for argument in ["web", "vm/web", "vmi/web", "virtualmachines.kubevirt.io/web"] {
            assert_eq!(name_in(argument).unwrap(), "web", "{argument}");
        }
        for argument in ["pod/web", "Web", "vm/", ""] {
            assert!(name_in(argument).is_err(), "{argument}");
        }
    }
}
