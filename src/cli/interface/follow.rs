//! Follows a NIC live: watches tell what changes, [`stages`] what it means, and each stage is a line.

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

use super::{api, migration, output::Talk};
use crate::{
    cli::{
        kubeconfig::Cluster,
        terminal::{Colour, wrap},
    },
    facts::Fact,
    hotplug::progress::{self, ClusterInfo, Direction, Migration, Progress, Snapshot, Stage, State, Target},
    k8s::{api_error::root_cause, kind::Kind},
};

/// The label of a guest's pods: the VMI's uid.
const CREATED_BY: &str = "kubevirt.io/created-by";

/// How wide time, mark and stage are in a line.
const MARGIN: usize = 25;

/// Follows one NIC.
pub(super) struct Follower<'f> {
    pub(super) cluster: &'f Cluster,
    pub(super) talk: &'f Talk,
    pub(super) target: Target,
    pub(super) cluster_info: &'f ClusterInfo,
    /// Whether a migration that nobody else starts is started.
    pub(super) migrates: bool,
}

/// Something that a watch told.
enum News {
    Vm(Fact<Value>),
    Vmi(Fact<Value>),
    Pods(Event<Value>),
    Migrations(Event<Value>),
    Trouble(Watched, watcher::Error),
}

/// What is watched.
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

/// All that watches have told so far.
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
    /// Those that a list has brought so far.
    listing: BTreeMap<String, Value>,
    list: Vec<Value>,
    /// `None` until the first list, or the first trouble.
    are_known: Option<bool>,
}

impl Objects {
    fn take(&mut self, event: Event<Value>) {
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

    fn scene<'v>(&'v self, told: &'v Told) -> Snapshot<'v> {
        Snapshot {
            vm: self.vm.known(),
            vmi: self.vmi.known(),
            pods: self.pods.known(),
            migrations: self.migrations.known(),
            started: told.migration.as_deref(),
        }
    }

    /// The phase of a migration, and why it failed.
    fn migration(&self, name: &str) -> Option<&Value> {
        self.migrations.by_name.get(name)
    }
}

/// What was told so far, so that nothing is told twice.
struct Told {
    began: Instant,
    stages: usize,
    waits: Option<(Stage, String)>,
    troubles: BTreeSet<Watched>,
    /// The migration that was started here.
    migration: Option<String>,
}

impl Follower<'_> {
    /// Follows the NIC to its end, and no longer than the patience.
    pub(super) async fn follow(&self, patience: Duration) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        let mut told = Told { began, stages: 0, waits: None, troubles: BTreeSet::new(), migration: None };
        let mut view = View::default();
        let Ok(mut news) = timeout_at(began + patience, self.news()).await else {
            return self.give_up(&told, patience);
        };
        while let Ok(Some(news)) = timeout_at(began + patience, news.next()).await {
            if let Some(end) = self.take(&mut view, news, &mut told)? {
                return Ok(end);
            }
            if !view.is_complete() {
                continue;
            }
            if let Some(end) = self.end_of_migration(&view, &told)? {
                return Ok(end);
            }
            let progress = progress::observe(&self.target, &view.scene(&told), self.cluster_info);
            self.tell(&progress, &mut told)?;
            if let Some(end) = self.end_of(&progress)? {
                return Ok(end);
            }
            if self.migrates && progress.migration == Migration::ByHand && told.migration.is_none() {
                let Some(name) = self.migrate().await? else { return Ok(ExitCode::FAILURE) };
                told.migration = Some(name);
            }
        }
        self.give_up(&told, patience)
    }

    /// Everything that changes around the guest.
    async fn news(&self) -> impl futures_util::Stream<Item = News> + Unpin {
        let guest = &self.target.guest;
        let vms = api(self.cluster, Kind::Vm);
        let vmis = api(self.cluster, Kind::Vmi);
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        // The pods of a guest that cannot be read now are of no use either.
        let vmi = vmis.get_opt(guest).await.ok().flatten();
        let uid = vmi.and_then(|vmi| vmi.uid()).unwrap_or_default();
        let of_guest = watcher::Config::default().labels(&format!("{CREATED_BY}={uid}"));
        select_all([
            one(vms, guest, Watched::Vm, News::Vm),
            one(vmis, guest, Watched::Vmi, News::Vmi),
            all(pods, of_guest, Watched::Pods, News::Pods),
            all(api(self.cluster, Kind::Migration), watcher::Config::default(), Watched::Migrations, News::Migrations),
        ])
    }

    /// Notes what a watch told; an exit code where nothing can be followed any more.
    fn take(&self, view: &mut View, news: News, told: &mut Told) -> anyhow::Result<Option<ExitCode>> {
        match news {
            News::Vm(vm) => view.vm = vm,
            News::Vmi(vmi) => view.vmi = vmi,
            News::Pods(event) => view.pods.take(event),
            News::Migrations(event) => view.migrations.take(event),
            News::Trouble(watched, error) => return self.take_trouble(view, watched, &error, told),
        }
        Ok(None)
    }

    /// A watch that breaks begins again by itself. One that is not permitted never tells anything: without the VM and its
    /// VMI there is nothing to follow, and all else is unknown.
    fn take_trouble(
        &self,
        view: &mut View,
        watched: Watched,
        error: &watcher::Error,
        told: &mut Told,
    ) -> anyhow::Result<Option<ExitCode>> {
        // What the API server will not tell, or a kind that it does not have.
        let is_refused = status_of(error).is_some_and(|status| matches!(status.code, 401 | 403 | 404));
        let objects = match watched {
            Watched::Vm | Watched::Vmi => None,
            Watched::Pods => Some(&mut view.pods),
            Watched::Migrations => Some(&mut view.migrations),
        };
        if let Some(objects) = objects.filter(|objects| is_refused || objects.are_known.is_none()) {
            objects.are_known = Some(false);
        } else if is_refused {
            self.talk.fault(&format!("the NIC cannot be followed: {}", words_of(error)))?;
            return Ok(Some(ExitCode::FAILURE));
        }
        if told.troubles.insert(watched) {
            self.talk.note(&format!("{} cannot be watched: {}", watched.as_str(), words_of(error)))?;
        }
        Ok(None)
    }

    fn tell(&self, progress: &Progress, told: &mut Told) -> anyhow::Result<()> {
        for (stage, note) in progress.passed.iter().skip(told.stages) {
            self.talk.line(Some(Colour::Green), &line(told.began, "✓", stage.as_str(), note))?;
        }
        told.stages = told.stages.max(progress.passed.len());
        if let State::Waits { stage, reason } = &progress.state {
            let now = Some((*stage, reason.clone()));
            if told.waits != now {
                self.talk.line(None, &line(told.began, "…", stage.as_str(), &format!("waits for {reason}")))?;
                told.waits = now;
            }
        }
        Ok(())
    }

    /// The exit code, if the NIC is where it wanted to be, or will never be.
    fn end_of(&self, progress: &Progress) -> anyhow::Result<Option<ExitCode>> {
        let nic = &self.target.nic;
        match &progress.state {
            State::Done => {
                let end = if self.target.way == Direction::In { "has arrived" } else { "is gone" };
                self.talk.say(&format!("{nic:?} {end}"))?;
                Ok(Some(ExitCode::SUCCESS))
            }
            State::Over(because) => {
                self.talk.fault(&format!("{nic:?} goes no further: {because}"))?;
                Ok(Some(ExitCode::FAILURE))
            }
            State::Waits { .. } => Ok(None),
        }
    }

    /// The exit code, if the migration that was started here has failed.
    fn end_of_migration(&self, view: &View, told: &Told) -> anyhow::Result<Option<ExitCode>> {
        let migration = told.migration.as_deref().and_then(|name| view.migration(name));
        let Some(migration) = migration.filter(|migration| text(migration, "/status/phase") == "Failed") else {
            return Ok(None);
        };
        let reason = text(migration, "/status/migrationState/failureReason");
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.talk.fault(&format!("the migration {:?} failed{reason}", text(migration, "/metadata/name")))?;
        Ok(Some(ExitCode::FAILURE))
    }

    /// Starts a migration; `None` when the user may not.
    async fn migrate(&self) -> anyhow::Result<Option<String>> {
        if migration::may_start(self.cluster).await == Some(false) {
            self.talk.fault("the migration that the NIC needs is not yours to start")?;
            self.talk.block(&migration::who_may(self.cluster).await)?;
            return Ok(None);
        }
        let name = migration::start(self.cluster, &self.target.guest).await?;
        self.talk.say(&format!("virtualmachineinstancemigration.kubevirt.io/{name} created"))?;
        Ok(Some(name))
    }

    fn give_up(&self, told: &Told, patience: Duration) -> anyhow::Result<ExitCode> {
        let nic = &self.target.nic;
        let place = match &told.waits {
            Some((stage, reason)) => format!("stage {:?} is not reached, it waits for {reason}", stage.as_str()),
            None => "the API server has not told where it is".to_owned(),
        };
        self.talk.fault(&format!("gave up following {nic:?} after {patience:?}: {place}"))?;
        Ok(ExitCode::FAILURE)
    }
}

fn one(
    api: Api<DynamicObject>,
    name: &str,
    watched: Watched,
    news: fn(Fact<Value>) -> News,
) -> BoxStream<'static, News> {
    let objects = watch_object(api, name).default_backoff();
    objects
        .map(move |object| match object {
            Ok(Some(object)) => news(Fact::Known(value_of(&object))),
            Ok(None) => news(Fact::Absent),
            Err(error) => News::Trouble(watched, error),
        })
        .boxed()
}

fn all<K>(
    api: Api<K>,
    config: watcher::Config,
    watched: Watched,
    news: fn(Event<Value>) -> News,
) -> BoxStream<'static, News>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    events
        .map(move |event| match event {
            Ok(event) => news(values_of(event)),
            Err(error) => News::Trouble(watched, error),
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

/// What came as JSON always has a JSON form.
fn value_of(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// What the API server said, if it said something.
fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn words_of(error: &watcher::Error) -> String {
    status_of(error).map_or_else(|| root_cause(error), |status| status.message.clone())
}

/// A line of the table: time since the start, a mark, the stage and what is to be said of it.
fn line(began: Instant, mark: &str, stage: &str, note: &str) -> String {
    let head = format!("{:>6.1}s {mark} {stage:<14} ", began.elapsed().as_secs_f64());
    wrap(note, &head, &" ".repeat(MARGIN))
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
    fn a_list_replaces_what_was_there_when_it_is_complete() {
        let mut objects = Objects::default();
        assert_eq!((objects.known(), objects.are_known), (None, None));
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("a")));
        assert_eq!(objects.known(), None);
        objects.take(Event::InitDone);
        objects.take(Event::Apply(object("b")));
        assert_eq!(objects.known(), Some(&[object("a"), object("b")][..]));
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("c")));
        assert_eq!(objects.known().map(<[Value]>::len), Some(2));
        objects.take(Event::InitDone);
        assert_eq!(objects.known(), Some(&[object("c")][..]));
        objects.take(Event::Delete(object("c")));
        assert_eq!(objects.known(), Some(&[][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_fits_eighty_columns_and_what_goes_on_stands_below_its_beginning() {
        let text = line(Instant::now(), "…", Stage::Multus.as_str(), &"word ".repeat(30));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 1 && lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines[0].starts_with("   0.0s … multus-status  word"), "{text}");
        assert_eq!(lines[1].find('w'), Some(MARGIN));
    }
}
