//! Follows a NIC: watches receive the changes, [`progress`] evaluates them, and each stage is a line of output.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{BoxStream, select_all},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource, ResourceExt,
    api::DynamicObject,
    core::Status,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watch_object, watcher},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{api, migration, output::Console};
use crate::{
    cli::{kubeconfig::Cluster, terminal::Colour},
    facts::Fact,
    hotplug::{
        place::CREATED_BY,
        progress::{self, ClusterInfo, Direction, MigrationNeed, Progress, Snapshot, Stage, State, Target},
    },
    k8s::{api_error::root_cause, kind::Kind},
};

/// The width of time, mark and stage in a line.
const MARGIN: usize = 25;

/// Follows one NIC.
pub(super) struct Follower<'f> {
    pub(super) cluster: &'f Cluster,
    pub(super) console: &'f Console,
    pub(super) target: Target,
    pub(super) cluster_info: &'f ClusterInfo,
    /// Whether to start a migration that KubeVirt does not start.
    pub(super) migrates: bool,
}

/// An event of one of the watches.
enum WatchEvent {
    Vm(Fact<Value>),
    Vmi(Fact<Value>),
    Pods(Event<Value>),
    Migrations(Event<Value>),
    Failed(Watched, watcher::Error),
}

/// A watched object or list.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Watched {
    Vm,
    Vmi,
    Pods,
    Migrations,
}

impl Watched {
    fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "VirtualMachine",
            Self::Vmi => "VirtualMachineInstance",
            Self::Pods => "pods",
            Self::Migrations => "VirtualMachineInstanceMigrations",
        }
    }
}

/// The objects as the watches have reported them.
#[derive(Default)]
struct View {
    vm: Fact<Value>,
    vmi: Fact<Value>,
    pods: Objects,
    migrations: Objects,
}

/// Objects of one kind.
#[derive(Default)]
struct Objects {
    by_name: BTreeMap<String, Value>,
    /// The objects of a list that is not complete yet.
    listing: BTreeMap<String, Value>,
    list: Vec<Value>,
    /// `None` until the first list is complete, or the first error.
    are_known: Option<bool>,
}

impl Objects {
    fn apply(&mut self, event: Event<Value>) {
        let name = |object: &Value| text(object, "/metadata/name").to_owned();
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                self.listing.insert(name(&object), object);
                return;
            }
            Event::InitDone => {
                self.by_name = std::mem::take(&mut self.listing);
                self.are_known = Some(true);
            }
            Event::Apply(object) => {
                self.by_name.insert(name(&object), object);
            }
            Event::Delete(object) => {
                self.by_name.remove(&name(&object));
            }
        }
        self.list = self.by_name.values().cloned().collect();
    }

    fn known(&self) -> Option<&[Value]> {
        (self.are_known == Some(true)).then_some(self.list.as_slice())
    }
}

impl View {
    fn is_complete(&self) -> bool {
        let lists = [&self.pods, &self.migrations];
        [&self.vm, &self.vmi].iter().all(|fact| **fact != Fact::Unknown)
            && lists.iter().all(|list| list.are_known.is_some())
    }

    fn snapshot<'v>(&'v self, printed: &'v Printed) -> Snapshot<'v> {
        Snapshot {
            vm: self.vm.known(),
            vmi: self.vmi.known(),
            pods: self.pods.known(),
            migrations: self.migrations.known(),
            started_migration: printed.migration.as_deref(),
        }
    }

    /// Returns a migration by its name.
    fn migration(&self, name: &str) -> Option<&Value> {
        self.migrations.by_name.get(name)
    }
}

/// What is printed already, so that nothing is printed twice.
struct Printed {
    began: Instant,
    stages: usize,
    /// The next stage, and what it waits for.
    waiting: Option<(Stage, String)>,
    errors: BTreeSet<Watched>,
    /// The migration that this command has started.
    migration: Option<String>,
}

impl Follower<'_> {
    /// Follows the NIC until all stages are reached, at most for the timeout.
    pub(super) async fn follow(&self, timeout: Duration) -> anyhow::Result<ExitCode> {
        self.console.begin_limited(timeout);
        let end = self.follow_until(timeout).await;
        self.console.end_progress();
        end
    }

    async fn follow_until(&self, timeout: Duration) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let mut printed = Printed { began, stages: 0, waiting: None, errors: BTreeSet::new(), migration: None };
        let mut view = View::default();
        let Ok(mut events) = timeout_at(began + timeout, self.watch()).await else {
            return self.time_out(&printed, timeout);
        };
        while let Ok(Some(event)) = timeout_at(began + timeout, events.next()).await {
            if let Some(end) = self.apply(&mut view, event, &mut printed)? {
                return Ok(end);
            }
            if !view.is_complete() {
                continue;
            }
            if let Some(end) = self.failed_migration(&view, &printed)? {
                return Ok(end);
            }
            let progress = progress::observe(&self.target, &view.snapshot(&printed), self.cluster_info);
            self.print(&progress, &mut printed)?;
            if let Some(end) = self.end_of(&progress)? {
                return Ok(end);
            }
            if self.migrates && progress.migration == MigrationNeed::Manual && printed.migration.is_none() {
                let Some(name) = self.migrate().await? else { return Ok(ExitCode::FAILURE) };
                printed.migration = Some(name);
            }
        }
        self.time_out(&printed, timeout)
    }

    /// Watches the VM, its VMI, its pods and the migrations.
    async fn watch(&self) -> impl futures_util::Stream<Item = WatchEvent> + Unpin {
        let name = &self.target.vm;
        let vmis = api(self.cluster, Kind::Vmi);
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        // Without the VMI's uid the label matches no pod; then the pods are of no use either.
        let vmi = vmis.get_opt(name).await.ok().flatten();
        let uid = vmi.and_then(|vmi| vmi.uid()).unwrap_or_default();
        let by_label = watcher::Config::default().labels(&format!("{CREATED_BY}={uid}"));
        select_all([
            one(api(self.cluster, Kind::Vm), name, Watched::Vm, WatchEvent::Vm),
            one(vmis, name, Watched::Vmi, WatchEvent::Vmi),
            all(pods, by_label, Watched::Pods, WatchEvent::Pods),
            all(
                api(self.cluster, Kind::Migration),
                watcher::Config::default(),
                Watched::Migrations,
                WatchEvent::Migrations,
            ),
        ])
    }

    /// Applies an event to the view; returns an exit code if the NIC can no longer be followed.
    fn apply(&self, view: &mut View, event: WatchEvent, printed: &mut Printed) -> anyhow::Result<Option<ExitCode>> {
        match event {
            WatchEvent::Vm(vm) => view.vm = vm,
            WatchEvent::Vmi(vmi) => view.vmi = vmi,
            WatchEvent::Pods(event) => view.pods.apply(event),
            WatchEvent::Migrations(event) => view.migrations.apply(event),
            WatchEvent::Failed(watched, error) => return self.handle_error(view, watched, &error, printed),
        }
        Ok(None)
    }

    /// Handles an error of a watch. A watch that breaks restarts by itself. A watch without permission stays without
    /// events: if it is the VM's or VMI's, the NIC cannot be followed; otherwise its objects are unknown.
    fn handle_error(
        &self,
        view: &mut View,
        watched: Watched,
        error: &watcher::Error,
        printed: &mut Printed,
    ) -> anyhow::Result<Option<ExitCode>> {
        // No permission, or a kind that the API server does not have.
        let is_refused = status_of(error).is_some_and(|status| matches!(status.code, 401 | 403 | 404));
        let objects = match watched {
            Watched::Vm | Watched::Vmi => None,
            Watched::Pods => Some(&mut view.pods),
            Watched::Migrations => Some(&mut view.migrations),
        };
        if let Some(objects) = objects.filter(|objects| is_refused || objects.are_known.is_none()) {
            objects.are_known = Some(false);
        } else if is_refused {
            self.console.error(&format!("cannot follow the NIC: {}", message_of(error)))?;
            return Ok(Some(ExitCode::from(2)));
        }
        if printed.errors.insert(watched) {
            self.console.note(&format!("cannot watch {}: {}", watched.as_str(), message_of(error)))?;
        }
        Ok(None)
    }

    fn print(&self, progress: &Progress, printed: &mut Printed) -> anyhow::Result<()> {
        for (stage, note) in progress.reached.iter().skip(printed.stages) {
            self.row(Some(Colour::Green), printed, "✓", stage.as_str(), note)?;
        }
        printed.stages = printed.stages.max(progress.reached.len());
        if let State::Waiting { stage, reason } = &progress.state {
            let waiting = Some((*stage, reason.clone()));
            if printed.waiting != waiting {
                self.row(None, printed, "…", stage.as_str(), &format!("waits for {reason}"))?;
                printed.waiting = waiting;
            }
        }
        Ok(())
    }

    /// Prints a line of the table: the time since the start, a mark, the stage and a note. For one of several VMs there
    /// is only the progress of all of them.
    fn row(
        &self,
        colour: Option<Colour>,
        printed: &Printed,
        mark: &str,
        stage: &str,
        note: &str,
    ) -> anyhow::Result<()> {
        if self.console.is_of_several() {
            return Ok(());
        }
        self.console.set_progress(&format!("{stage}: {note}"));
        self.console.row(colour, &head(printed.began.elapsed(), mark, stage), MARGIN, note)?;
        Ok(())
    }

    /// Returns the exit code if all stages are reached, or the next one cannot be reached.
    fn end_of(&self, progress: &Progress) -> anyhow::Result<Option<ExitCode>> {
        let nic = &self.target.nic;
        match &progress.state {
            State::Done => {
                let end = if self.target.direction == Direction::Attach { "is plugged" } else { "is unplugged" };
                self.console.info(&format!("{nic:?} {end}"))?;
                Ok(Some(ExitCode::SUCCESS))
            }
            State::Stopped(because) => {
                self.console.error(&format!("stopped following {nic:?}: {because}"))?;
                Ok(Some(ExitCode::FAILURE))
            }
            State::Waiting { .. } => Ok(None),
        }
    }

    /// Returns the exit code if the migration that this command has started has failed.
    fn failed_migration(&self, view: &View, printed: &Printed) -> anyhow::Result<Option<ExitCode>> {
        let migration = printed.migration.as_deref().and_then(|name| view.migration(name));
        let Some(migration) = migration.filter(|migration| text(migration, "/status/phase") == "Failed") else {
            return Ok(None);
        };
        let reason = text(migration, "/status/migrationState/failureReason");
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.console.error(&format!("migration {:?} failed{reason}", text(migration, "/metadata/name")))?;
        Ok(Some(ExitCode::FAILURE))
    }

    /// Starts a migration; returns `None` if the user has no permission.
    async fn migrate(&self) -> anyhow::Result<Option<String>> {
        if migration::may_start(self.cluster).await == Some(false) {
            self.console.error("the NIC needs a migration that you have no permission to create")?;
            self.console.verbatim(&migration::how_to_grant(self.cluster).await)?;
            return Ok(None);
        }
        let name = migration::start(self.cluster, &self.target.vm).await?;
        self.console.info(&format!("virtualmachineinstancemigration.kubevirt.io/{name} created"))?;
        Ok(Some(name))
    }

    fn time_out(&self, printed: &Printed, timeout: Duration) -> anyhow::Result<ExitCode> {
        let nic = &self.target.nic;
        let cause = match &printed.waiting {
            Some((stage, reason)) => {
                format!("{nic:?} has not reached stage {:?}, which waits for {reason}", stage.as_str())
            }
            None => format!("the API server has not reported where {nic:?} is"),
        };
        self.console.error(&format!("timed out after {timeout:?}: {cause}"))?;
        Ok(ExitCode::FAILURE)
    }
}

fn one(
    api: Api<DynamicObject>,
    name: &str,
    watched: Watched,
    wrap_event: fn(Fact<Value>) -> WatchEvent,
) -> BoxStream<'static, WatchEvent> {
    let objects = watch_object(api, name).default_backoff();
    objects
        .map(move |object| match object {
            Ok(Some(object)) => wrap_event(Fact::Known(value_of(&object))),
            Ok(None) => wrap_event(Fact::Absent),
            Err(error) => WatchEvent::Failed(watched, error),
        })
        .boxed()
}

fn all<K>(
    api: Api<K>,
    config: watcher::Config,
    watched: Watched,
    wrap_event: fn(Event<Value>) -> WatchEvent,
) -> BoxStream<'static, WatchEvent>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    events
        .map(move |event| match event {
            Ok(event) => wrap_event(values_of(event)),
            Err(error) => WatchEvent::Failed(watched, error),
        })
        .boxed()
}

fn values_of<K: Serialize>(event: Event<K>) -> Event<Value> {
    match event {
        Event::Apply(object) => Event::Apply(value_of(&object)),
        Event::Delete(object) => Event::Delete(value_of(&object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(value_of(&object)),
        Event::InitDone => Event::InitDone,
    }
}

/// Converts an object that was read as JSON, so that this cannot fail.
fn value_of(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Returns the status that the API server answered, if it answered.
fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn message_of(error: &watcher::Error) -> String {
    status_of(error).map_or_else(|| root_cause(error), |status| status.message.clone())
}

/// Returns the head of a line of the table.
pub(in crate::cli) fn head(elapsed: Duration, mark: &str, stage: &str) -> String {
    format!("{:>6.1}s {mark} {stage:<14} ", elapsed.as_secs_f64())
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name}})
    }

    #[test]
    fn a_list_replaces_the_objects_once_it_is_complete() {
        let mut objects = Objects::default();
        assert_eq!((objects.known(), objects.are_known), (None, None));
        objects.apply(Event::Init);
        objects.apply(Event::InitApply(object("a")));
        assert_eq!(objects.known(), None);
        objects.apply(Event::InitDone);
        objects.apply(Event::Apply(object("b")));
        assert_eq!(objects.known(), Some(&[object("a"), object("b")][..]));
        objects.apply(Event::Init);
        objects.apply(Event::InitApply(object("c")));
        assert_eq!(objects.known().map(<[Value]>::len), Some(2));
        objects.apply(Event::InitDone);
        assert_eq!(objects.known(), Some(&[object("c")][..]));
        objects.apply(Event::Delete(object("c")));
        assert_eq!(objects.known(), Some(&[][..]));
    }

    #[test]
    fn the_head_of_a_line_is_as_wide_as_the_margin() {
        let head = head(Duration::from_millis(1250), "…", Stage::Multus.as_str());
        assert_eq!(head, "   1.2s … multus-status  ");
        assert_eq!(head.chars().count(), MARGIN);
    }
}
