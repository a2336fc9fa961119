//! Facts from a living cluster: every object of the watched kinds is listed once, and then each change of it seen.
//!
//! Each kind has a watch of its own, so that one that is not permitted, not installed or broken makes its own facts
//! unknown or stale and no others. What may go wrong is expected to go right again: a watch never gives up, and tells
//! by its [`Status`] what its facts are worth meanwhile.
//!
//! The loop is ours and not kube-runtime's `watcher` for two reasons: that one says nothing when a lost connection is
//! back, or when a bookmark shows that an idle one lives, so that a quiet kind would be called stale until its next
//! change; and it builds an object for each event, of which a heartbeat needs none.

mod event;
mod list_watch;
mod status;

use std::{fmt, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::list_watch::{Source, Trouble};
pub use self::{
    event::Event,
    status::{State, Status, WatchError, WatchStatus},
};
use super::{
    cache::{Cache, Effect},
    persist_queue::Pending,
    store::{Store, projection::key_of},
};
use crate::{
    k8s::{
        Key,
        backoff::{Backoff, Pauses},
        kind::Kind,
    },
    kubevirt::NEWEST_KNOWN,
};

/// The kinds that are watched. ControllerRevisions are fetched one by one, and only those that are needed.
pub const KINDS: [Kind; 9] = [
    Kind::ConfigMap,
    Kind::DaemonSet,
    Kind::Vmi,
    Kind::KubeVirt,
    Kind::Vm,
    Kind::Migration,
    Kind::Nad,
    Kind::Namespace,
    Kind::Node,
];

/// The times and sizes of watches.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Objects in one page of a list. A page is held twice while it is read: at 8 KiB an object, 250 are 4 MiB, which
    /// is little beside what is kept of a large cluster, and 100,000 objects are 400 requests.
    pub page: u32,
    /// How long the API server is asked to keep a watch open; each one ends up to a fifth earlier, so that not all of
    /// them begin anew together.
    pub watch: Duration,
    /// How long a watch may say nothing before it is taken for dead: bookmarks come every minute or so.
    pub idle_timeout: Duration,
    /// How long one answer of the API server may take.
    pub request_timeout: Duration,
    /// How long "forbidden" and "no such kind" have to last before facts are forgotten that were known: an API server
    /// that has just started says so for a moment.
    pub forbidden_grace: Duration,
    /// Pauses between tries.
    pub pauses: Pauses,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            page: 250,
            watch: Duration::from_secs(290),
            idle_timeout: Duration::from_secs(150),
            request_timeout: Duration::from_mins(1),
            forbidden_grace: Duration::from_secs(30),
            pauses: Pauses { first: Duration::from_millis(500), longest: Duration::from_secs(30) },
        }
    }
}

/// The watches of a cluster. They end with this value.
pub struct Watches {
    client: Client,
    cache: Arc<Cache>,
    status: Status,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch. `pending` is told of each object that asks for NICs to be mirrored.
    #[must_use]
    pub fn start(client: &Client, pending: Pending, tuning: &Tuning) -> Self {
        let (cache, wanted_revisions) = Cache::new(Store::telling(pending));
        let cache = Arc::new(cache);
        let status = Status::default();
        let mut tasks = JoinSet::new();
        for record in status.records() {
            let source = Source::new(client.clone(), record.kind, tuning);
            let (record, cache) = (Arc::clone(record), Arc::clone(&cache));
            tasks.spawn(Watch { source, record, cache, tuning: tuning.clone() }.run());
        }
        tasks.spawn(fetch_revisions(client.clone(), Arc::clone(&cache), wanted_revisions, tuning.clone()));
        Self { client: client.clone(), cache, status, _tasks: tasks }
    }

    /// What the cluster is spoken to with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The facts.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// How the watches are doing.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watches").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The watch of one kind.
struct Watch {
    source: Source,
    record: Arc<WatchStatus>,
    cache: Arc<Cache>,
    tuning: Tuning,
}

/// Where a watch has come to.
#[derive(Default)]
struct Progress {
    /// The place in the history to go on from; `None` when all objects have to be listed.
    position: Option<String>,
    /// Whether a list is whole, and what it did not show still in the cache.
    is_listed: bool,
    /// Since when the API server refuses.
    refused: Option<Instant>,
    /// Whether anything was heard since the last pause.
    is_alive: bool,
}

impl Watch {
    async fn run(self) {
        let mut backoff = Backoff::new(self.tuning.pauses);
        let mut progress = Progress::default();
        loop {
            let start = Instant::now();
            let result = self.follow(&mut progress).await;
            let is_alive = std::mem::take(&mut progress.is_alive);
            if is_alive {
                backoff.reset();
            }
            match result {
                // The time of the watch was up. One that ends at once, again and again, has to wait nevertheless.
                Ok(()) if is_alive && start.elapsed() > self.tuning.pauses.first => continue,
                Ok(()) => {}
                Err(trouble) => self.note(trouble, &mut progress),
            }
            sleep(backoff.grow()).await;
        }
    }

    /// Lists the objects if that has to be, and then takes in what happens until the API server ends it.
    async fn follow(&self, progress: &mut Progress) -> Result<(), Trouble> {
        if progress.position.is_none() {
            self.list(progress).await?;
        }
        let Some(position) = &progress.position else { return Ok(()) };
        let mut events = self.source.watch(position).await?;
        // Not before: facts that cannot be watched would grow old unnoticed.
        if std::mem::take(&mut progress.is_listed) {
            self.cache.finish_sync(self.kind());
        }
        progress.refused = None;
        self.record.enter(State::Synced);
        let end = loop {
            match events.next().await {
                Ok(Some(event)) => {
                    progress.is_alive = true;
                    self.record.touch();
                    self.take(&event);
                }
                Ok(None) => break Ok(()),
                Err(trouble) => break Err(trouble),
            }
        };
        progress.position = events.position();
        end
    }

    async fn list(&self, progress: &mut Progress) -> Result<(), Trouble> {
        self.cache.begin_sync(self.kind());
        progress.is_listed = false;
        let mut pages = self.source.list();
        while let Some(page) = pages.next().await? {
            self.record.touch();
            page.for_each(|text| self.apply(text))?;
        }
        progress.position = pages.position();
        progress.is_listed = true;
        progress.is_alive = true;
        Ok(())
    }

    fn take(&self, event: &Event) {
        match event {
            Event::Applied(object) => self.apply(object),
            Event::Deleted(object) => {
                if let Some(key) = key_of(object) {
                    self.cache.remove(self.kind(), &key);
                }
            }
            Event::Bookmark(_) | Event::Error(_) => {}
        }
    }

    fn apply(&self, text: &str) {
        match self.cache.apply(self.kind(), text) {
            Effect::Unreadable(error) => {
                self.record.add(WatchError::Unreadable);
                tracing::warn!(%error, "an object cannot be read: what is asked of it is unknown");
            }
            Effect::Changed if self.kind() == Kind::KubeVirt => self.tell_version(),
            Effect::Changed | Effect::Unchanged => {}
        }
    }

    fn tell_version(&self) {
        let version = self.cache.read().kubevirt().known().and_then(|kubevirt| kubevirt.version);
        match version {
            Some(version) if version.is_newer_than_known() => {
                tracing::warn!(%version, newest_known = %NEWEST_KNOWN, "KubeVirt is newer than nicplug knows: judged as the newest known");
            }
            Some(version) => tracing::info!(%version, "KubeVirt"),
            None => tracing::warn!("the version of KubeVirt is unknown: nothing that depends on it is denied"),
        }
    }

    fn note(&self, trouble: Trouble, progress: &mut Progress) {
        self.record.add(trouble.mishap());
        let state = match trouble {
            // What was known is as true as before, and the new list is on its way.
            Trouble::Expired => {
                progress.position = None;
                return;
            }
            Trouble::Away(error) if self.record.has_facts() => State::Stale(error),
            Trouble::Away(error) => State::Starting(Some(error)),
            Trouble::Forbidden(error) => self.refuse(error.clone(), State::Forbidden(error), progress),
            Trouble::NotInstalled(error) => self.refuse(error, State::NotInstalled, progress),
        };
        self.record.enter(state);
    }

    /// The API server says that nobody may look, or that there is nothing to look at. Facts are forgotten when it
    /// stays with that.
    fn refuse(&self, error: String, refusal: State, progress: &mut Progress) -> State {
        let since = *progress.refused.get_or_insert_with(Instant::now);
        if self.record.has_facts() && since.elapsed() < self.tuning.forbidden_grace {
            return State::Stale(error);
        }
        self.cache.clear(self.kind());
        *progress = Progress { refused: Some(since), ..Progress::default() };
        refusal
    }

    fn kind(&self) -> Kind {
        self.record.kind
    }
}

/// Fetches the ControllerRevisions that requests have asked for, one after the other.
async fn fetch_revisions(client: Client, cache: Arc<Cache>, mut wanted: mpsc::Receiver<Key>, tuning: Tuning) {
    let mut backoff = Backoff::new(tuning.pauses);
    let mut is_told = false;
    while let Some(key) = wanted.recv().await {
        if cache.knows(Kind::Revision, &key) {
            continue;
        }
        match list_watch::get(&client, Kind::Revision, &key, tuning.request_timeout).await {
            Ok(Some(text)) => {
                if let Effect::Unreadable(error) = cache.apply(Kind::Revision, &text) {
                    tracing::warn!(%error, "an object cannot be read: what is asked of it is unknown");
                }
            }
            Ok(None) => cache.absent(Kind::Revision, &key),
            Err(trouble) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(kind = Kind::Revision.kind(), error = %trouble, "cannot be fetched: PCI ports are estimated");
                }
                sleep(backoff.grow()).await;
                continue;
            }
        }
        is_told = false;
        backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::ready, io, sync::Mutex};

    use axum::body::Body;
    use futures_util::{FutureExt, future::BoxFuture, stream};
    use http_body_util::StreamBody;
    use hyper::{
        Response,
        body::{Bytes, Frame},
    };
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::{api::network::NadRef, facts::Fact};

    const KIND: Kind = Kind::Nad;
    type Line = Result<Frame<Bytes>, io::Error>;

    /// What an API server answers, one request after the other; every request after the last answer waits for ever.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        answers: VecDeque<Reply>,
        asked: Vec<String>,
    }

    enum Reply {
        /// A status and a body.
        Whole(u16, Value),
        /// Lines of a watch that ends when their sender is dropped.
        Watch(mpsc::UnboundedReceiver<Line>),
        /// No answer but a broken connection.
        Broken,
    }

    /// The sending end of a watch.
    struct Wire(mpsc::UnboundedSender<Line>);

    impl Wire {
        fn send(&self, kind: &str, object: &Value) {
            let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
            self.0.send(Ok(Frame::data(line.into()))).unwrap();
        }
    }

    impl Server {
        fn answers(&self, code: u16, body: Value) {
            self.0.lock().unwrap().answers.push_back(Reply::Whole(code, body));
        }

        /// Instead of what was to come.
        fn now_answers(&self, code: u16, body: Value) {
            self.0.lock().unwrap().answers.clear();
            self.answers(code, body);
        }

        fn breaks(&self) {
            self.0.lock().unwrap().answers.push_back(Reply::Broken);
        }

        fn watch(&self) -> Wire {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.0.lock().unwrap().answers.push_back(Reply::Watch(receiver));
            Wire(sender)
        }

        fn asked(&self) -> Vec<String> {
            self.0.lock().unwrap().asked.clone()
        }

        fn client(&self) -> Client {
            let server = self.clone();
            let service =
                service_fn(move |request: hyper::Request<kube::client::Body>| server.answer(request.uri().to_string()));
            Client::new(service, "default")
        }

        fn answer(&self, uri: String) -> BoxFuture<'static, Result<Response<Body>, io::Error>> {
            let mut script = self.0.lock().unwrap();
            script.asked.push(uri);
            let mut response = Response::new(Body::empty());
            match script.answers.pop_front() {
                Some(Reply::Whole(code, body)) => {
                    *response.status_mut() = code.try_into().unwrap();
                    *response.body_mut() = Body::from(body.to_string().into_bytes());
                }
                Some(Reply::Watch(lines)) => {
                    let lines =
                        stream::unfold(lines, |mut lines| async move { lines.recv().await.map(|line| (line, lines)) });
                    *response.body_mut() = Body::new(StreamBody::new(lines));
                }
                Some(Reply::Broken) => return ready(Err(io::Error::other("connection refused"))).boxed(),
                None => return std::future::pending().boxed(),
            }
            ready(Ok(response)).boxed()
        }
    }

    /// A watch of one kind, driven by hand.
    struct Scene {
        server: Server,
        cache: Arc<Cache>,
        record: Arc<WatchStatus>,
        watch: BoxFuture<'static, ()>,
    }

    impl Scene {
        fn new() -> Self {
            let server = Server::default();
            let tuning = Tuning { page: 2, ..Tuning::default() };
            let cache = Arc::new(Cache::new(Store::default()).0);
            let record = Arc::clone(Status::default().of(KIND).unwrap());
            let source = Source::new(server.client(), KIND, &tuning);
            let watch = Watch { source, record: Arc::clone(&record), cache: Arc::clone(&cache), tuning };
            Self { server, cache, record, watch: watch.run().boxed() }
        }

        /// Lets the watch, and the tasks of its client, go on as long as they have something to do at once.
        async fn settle(&mut self) {
            for _ in 0..50 {
                assert!((&mut self.watch).now_or_never().is_none(), "a watch never ends");
                tokio::task::yield_now().await;
            }
        }

        /// Lets time pass: the clock of these tests stands still otherwise.
        async fn wait(&mut self, time: Duration) {
            let end = Instant::now() + time;
            while Instant::now() < end {
                tokio::time::advance(Duration::from_millis(100)).await;
                self.settle().await;
            }
        }

        fn nad(&self, name: &str) -> Fact<()> {
            match self.cache.read().look_for_nad(NadRef { namespace: "demo", name }).nad {
                Fact::Known(_) => Fact::Known(()),
                Fact::Absent => Fact::Absent,
                Fact::Unknown => Fact::Unknown,
            }
        }

        fn state(&self) -> &'static str {
            self.record.state().0.as_str()
        }
    }

    fn nad(name: &str, version: u32) -> Value {
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"namespace": "demo", "name": name, "resourceVersion": version.to_string()},
            "spec": {"config": format!("{{\"type\": \"bridge\", \"n\": {version}}}")}})
    }

    fn list(version: u32, next: &str, items: &[Value]) -> Value {
        json!({"kind": "List", "metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items})
    }

    fn status(code: u16, message: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": "Because", "message": message})
    }

    #[tokio::test(start_paused = true)]
    async fn all_pages_are_read_before_anything_is_absent() {
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "more", &[nad("a", 1), nad("b", 2)]));
        scene.settle().await;
        assert_eq!((scene.nad("a"), scene.nad("c"), scene.state()), (Fact::Known(()), Fact::Unknown, "starting"));

        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "more", &[nad("a", 1), nad("b", 2)]));
        scene.server.answers(200, list(9, "", &[nad("c", 3)]));
        let wire = scene.server.watch();
        scene.settle().await;
        assert_eq!((scene.nad("c"), scene.nad("d"), scene.state()), (Fact::Known(()), Fact::Absent, "synced"));
        let asked = scene.server.asked();
        assert!(asked[0].contains("limit=2") && !asked[0].contains("resourceVersion"), "{asked:?}");
        assert!(asked[1].contains("continue=more"), "{asked:?}");
        assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=9"), "{asked:?}");

        wire.send("ADDED", &nad("d", 10));
        wire.send("DELETED", &nad("a", 11));
        scene.settle().await;
        assert_eq!((scene.nad("a"), scene.nad("d")), (Fact::Absent, Fact::Known(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_watch_goes_on_from_where_it_was_and_says_when_it_is_back() {
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1)]));
        let wire = scene.server.watch();
        scene.settle().await;
        wire.send("ADDED", &nad("b", 10));
        wire.send(
            "BOOKMARK",
            &json!({"kind": "NetworkAttachmentDefinition", "apiVersion": "k8s.cni.cncf.io/v1",
            "metadata": {"resourceVersion": "12"}}),
        );
        wire.send("MODIFIED", &nad("b", 14));
        scene.settle().await;
        for _ in 0..3 {
            scene.server.breaks();
        }
        drop(wire);
        scene.wait(Duration::from_millis(600)).await;
        assert_eq!((scene.state(), scene.nad("b"), scene.nad("x")), ("stale", Fact::Known(()), Fact::Absent));
        let (State::Stale(error), _) = scene.record.state() else { panic!() };
        assert!(error.contains("connection refused"), "{error}");
        let _wire = scene.server.watch();
        scene.wait(Duration::from_secs(10)).await;
        // Nothing has happened to any object, and yet it is known that all is well.
        assert_eq!(scene.state(), "synced");
        let asked = scene.server.asked();
        assert!(asked.last().unwrap().contains("resourceVersion=14"), "{asked:?}");
        assert_eq!(asked.iter().filter(|uri| uri.contains("limit=")).count(), 1, "{asked:?}");
        assert_eq!(scene.record.count(WatchError::Away), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_history_is_gone_all_is_listed_and_what_is_gone_is_absent() {
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1), nad("b", 2)]));
        let wire = scene.server.watch();
        scene.settle().await;
        scene.server.answers(200, list(20, "more", &[nad("b", 2)]));
        wire.send("ERROR", &status(410, "too old resource version: 9 (15)"));
        scene.wait(Duration::from_secs(1)).await;
        // Half of the new list is there: what was known still is.
        assert_eq!((scene.nad("a"), scene.nad("c"), scene.state()), (Fact::Known(()), Fact::Absent, "synced"));

        // A list can be overtaken, too: it begins anew.
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1), nad("b", 2)]));
        scene.server.answers(410, status(410, "too old resource version: 9 (15)"));
        scene.server.answers(200, list(20, "more", &[nad("a", 2)]));
        scene.server.answers(410, status(410, "the continue token is too old"));
        scene.server.answers(200, list(30, "", &[nad("b", 2), nad("c", 25)]));
        let _wire = scene.server.watch();
        scene.wait(Duration::from_secs(10)).await;
        assert_eq!((scene.nad("a"), scene.nad("b"), scene.nad("c")), (Fact::Absent, Fact::Known(()), Fact::Known(())));
        assert_eq!((scene.state(), scene.record.count(WatchError::Expired)), ("synced", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_permitted_is_unknown_until_it_is() {
        let mut scene = Scene::new();
        for _ in 0..20 {
            scene.server.answers(403, status(403, "nads is forbidden: User \"x\" cannot list"));
        }
        scene.wait(Duration::from_secs(2)).await;
        assert_eq!(scene.record.state().0, State::Forbidden("nads is forbidden: User \"x\" cannot list".to_owned()));
        assert_eq!(scene.nad("a"), Fact::Unknown);
        scene.server.now_answers(200, list(9, "", &[nad("a", 1)]));
        let _wire = scene.server.watch();
        scene.wait(Duration::from_mins(1)).await;
        assert_eq!((scene.nad("a"), scene.nad("b"), scene.state()), (Fact::Known(()), Fact::Absent, "synced"));
    }

    #[tokio::test(start_paused = true)]
    async fn facts_are_forgotten_when_a_refusal_lasts_and_come_back_by_themselves() {
        for (code, state) in [(403, "forbidden"), (404, "not_installed")] {
            let mut scene = Scene::new();
            scene.server.answers(200, list(9, "", &[nad("a", 1)]));
            let wire = scene.server.watch();
            scene.settle().await;
            for _ in 0..20 {
                scene.server.answers(code, status(code, "no"));
            }
            drop(wire);
            scene.wait(Duration::from_secs(10)).await;
            assert_eq!((scene.nad("a"), scene.state()), (Fact::Known(()), "stale"), "an API server that just starts");
            scene.wait(Duration::from_mins(1)).await;
            assert_eq!((scene.nad("a"), scene.state()), (Fact::Unknown, state));
            scene.server.now_answers(200, list(20, "", &[nad("b", 15)]));
            let _wire = scene.server.watch();
            scene.wait(Duration::from_mins(1)).await;
            assert_eq!((scene.nad("a"), scene.nad("b"), scene.state()), (Fact::Absent, Fact::Known(()), "synced"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn facts_that_may_be_listed_and_not_watched_stay_unknown() {
        let mut scene = Scene::new();
        for _ in 0..4 {
            scene.server.answers(200, list(9, "", &[nad("a", 1)]));
            scene.server.answers(403, status(403, "cannot watch"));
        }
        scene.wait(Duration::from_secs(5)).await;
        assert_eq!((scene.nad("a"), scene.nad("b"), scene.state()), (Fact::Unknown, Fact::Unknown, "forbidden"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_that_cannot_be_read_is_unknown_and_the_watch_goes_on() {
        let mut broken = nad("b", 2);
        broken["spec"]["config"] = json!(5);
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1), broken.clone()]));
        let wire = scene.server.watch();
        scene.settle().await;
        assert_eq!((scene.nad("a"), scene.nad("b"), scene.nad("c")), (Fact::Known(()), Fact::Unknown, Fact::Absent));
        wire.send("MODIFIED", &broken);
        wire.send("ADDED", &nad("c", 10));
        scene.settle().await;
        assert_eq!((scene.nad("b"), scene.nad("c"), scene.state()), (Fact::Unknown, Fact::Known(()), "synced"));
        assert_eq!(scene.record.count(WatchError::Unreadable), 1, "told once");
        wire.send("MODIFIED", &nad("b", 11));
        scene.settle().await;
        assert_eq!(scene.nad("b"), Fact::Known(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_says_nothing_is_opened_anew() {
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1)]));
        let _wire = scene.server.watch();
        scene.settle().await;
        let _second = scene.server.watch();
        scene.wait(Tuning::default().idle_timeout + Duration::from_secs(5)).await;
        assert_eq!(scene.server.asked().len(), 3);
        assert_eq!(scene.state(), "synced");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_never_comes_is_told() {
        let mut scene = Scene::new();
        scene.wait(Tuning::default().request_timeout + Duration::from_secs(1)).await;
        assert_eq!(scene.record.state().0, State::Starting(Some("no answer within 60s".to_owned())));
    }

    #[tokio::test]
    async fn an_update_that_changes_no_fact_locks_nobody_out() {
        let mut scene = Scene::new();
        scene.server.answers(200, list(9, "", &[nad("a", 1)]));
        let wire = scene.server.watch();
        scene.settle().await;
        let reader = scene.cache.read();
        let heartbeat = json!({"metadata": {"namespace": "demo", "name": "a", "resourceVersion": "10",
            "labels": {"new": "one"}}, "spec": {"config": "{\"type\": \"bridge\", \"n\": 7}"}});
        // Would wait for the reader, for ever, if it had to write.
        assert!(matches!(scene.cache.apply(KIND, &heartbeat.to_string()), Effect::Unchanged));
        drop(reader);
        drop(wire);
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_are_fetched_when_a_request_has_wanted_them() {
        let server = Server::default();
        let (wants, wanted) = mpsc::channel(8);
        let cache = Arc::new(Cache::new(Store::default()).0);
        let mut task = fetch_revisions(server.client(), Arc::clone(&cache), wanted, Tuning::default()).boxed();
        let key = |name: &str| ("demo".to_owned(), name.to_owned());
        server
            .answers(200, json!({"metadata": {"namespace": "demo", "name": "r"}, "data": {"spec": {"template": {}}}}));
        server.answers(404, status(404, "no such revision"));
        for name in ["r", "r", "gone"] {
            wants.try_send(key(name)).unwrap();
        }
        for _ in 0..50 {
            assert!((&mut task).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(
            server.asked(),
            [
                "/apis/apps/v1/namespaces/demo/controllerrevisions/r",
                "/apis/apps/v1/namespaces/demo/controllerrevisions/gone",
            ]
        );
        assert!(cache.knows(Kind::Revision, &key("r")) && cache.knows(Kind::Revision, &key("gone")));
    }
}
