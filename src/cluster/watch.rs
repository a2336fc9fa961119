//! Facts from a cluster: lists the objects of the watched kinds once, and then watches their changes.
//!
//! Each kind has its own watch: a watch that is forbidden, not installed or broken makes only its own facts unknown or
//! stale. A watch retries without limit, and its [`WatchStatus`] says whether its facts are current.
//!
//! kube-runtime's `watcher` is not used, for two reasons. It reports neither that a lost connection is back nor that a
//! bookmark came, so that a kind without changes would stay stale; and it builds an object for each event, which a
//! heartbeat does not need.

mod event;
mod list_watch;
mod status;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::FutureExt;
use kube::Client;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::list_watch::ListWatch;
pub use self::{
    event::Event,
    status::{WatchError, WatchState, WatchStatus, WatchStatuses},
};
use super::{
    cache::{Cache, Effect, WantedRevision},
    persist_queue::PersistQueue,
    store::{ObjectError, Store, kinds::stores_expander, projection::key_of},
};
use crate::{
    k8s::{
        api_error::ApiError,
        backoff::{Backoff, Delays},
        kind::Kind,
        request::{ApiClient, ObjectPath},
        served_groups::ServedGroups,
    },
    kubevirt::NEWEST_KNOWN,
};

/// The watched kinds. ControllerRevisions are fetched one by one, when a request needs them.
pub const KINDS: [Kind; 15] = [
    Kind::ConfigMap,
    Kind::DaemonSet,
    Kind::Vmi,
    Kind::KubeVirt,
    Kind::Vm,
    Kind::Migration,
    Kind::Nad,
    Kind::Namespace,
    Kind::Node,
    Kind::ResourceQuota,
    Kind::Instancetype,
    Kind::ClusterInstancetype,
    Kind::Preference,
    Kind::ClusterPreference,
    Kind::MutatingWebhooks,
];

/// The times and sizes of watches.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Objects in one page of a list: 100,000 objects take 400 requests.
    pub page: u32,
    /// How long the API server is asked to keep a watch open; each watch asks for up to a fifth less, so that they do
    /// not all restart together.
    pub watch: Duration,
    /// How long a watch may bring no event before it is restarted: bookmarks come about every minute.
    pub idle_timeout: Duration,
    /// How long a response of the API server may take.
    pub request_timeout: Duration,
    /// How long "forbidden" and "not installed" must last before known facts are dropped: an API server that has just
    /// started answers so for a moment.
    pub forbidden_grace: Duration,
    /// Delays between retries.
    pub retry_delays: Delays,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            page: 250,
            watch: Duration::from_secs(290),
            idle_timeout: Duration::from_secs(150),
            request_timeout: Duration::from_mins(1),
            forbidden_grace: Duration::from_secs(30),
            retry_delays: Delays { first: Duration::from_millis(500), longest: Duration::from_secs(30) },
        }
    }
}

/// The watches of a cluster. They end when this value is dropped.
pub struct Watches {
    client: Client,
    cache: Arc<Cache>,
    statuses: WatchStatuses,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Starts the watches. They put each object that asks to persist NICs into the queue.
    #[must_use]
    pub fn start(client: &Client, queue: PersistQueue, tuning: &Tuning) -> Self {
        Self::of_groups(client, ServedGroups::default(), queue, tuning)
    }

    /// As [`Self::start`], for a cluster that may serve a fork of KubeVirt: the client is of these groups.
    #[must_use]
    pub fn of_groups(client: &Client, groups: ServedGroups, queue: PersistQueue, tuning: &Tuning) -> Self {
        let (cache, wanted_revisions) = Cache::of_groups(Store::with_persist_queue(queue), groups.clone());
        let cache = Arc::new(cache);
        let statuses = WatchStatuses::default();
        let mut tasks = JoinSet::new();
        let delays = tuning.retry_delays;
        let discovery = {
            let (client, groups) = (client.clone(), groups.clone());
            async move { groups.ask(&client, delays).await }.boxed().shared()
        };
        for status in statuses.iter() {
            let source = ListWatch::new(client.clone(), status.kind, tuning);
            let (status, cache) = (Arc::clone(status), Arc::clone(&cache));
            let watch = Watch { source, status, cache, tuning: tuning.clone() };
            let discovery = discovery.clone();
            // A watch that began earlier would list the objects of KubeVirt where those of a fork count.
            tasks.spawn(async move {
                discovery.await;
                watch.run().await;
            });
        }
        let of_discovery = client.clone();
        tasks.spawn(async move {
            discovery.await;
            groups.ask_for_all(&of_discovery, delays).await;
        });
        tasks.spawn(fetch_revisions(client.clone(), Arc::clone(&cache), wanted_revisions, tuning.clone()));
        Self { client: client.clone(), cache, statuses, _tasks: tasks }
    }

    /// Returns the client of the API server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the facts.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Returns the status of the watches.
    #[must_use]
    pub fn statuses(&self) -> &WatchStatuses {
        &self.statuses
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watches").field("statuses", &self.statuses).finish_non_exhaustive()
    }
}

/// The watch of one kind.
struct Watch {
    source: ListWatch,
    status: Arc<WatchStatus>,
    cache: Arc<Cache>,
    tuning: Tuning,
}

/// How far a watch has come.
#[derive(Default)]
struct Cursor {
    /// Where to continue; `None` if all objects must be listed.
    resource_version: Option<String>,
    /// Whether a list is complete, and objects that it lacks are still in the cache.
    is_listed: bool,
    /// Since when the watch is forbidden or the kind is not installed.
    refused_since: Option<Instant>,
    /// Whether a page or an event came since the last delay.
    is_alive: bool,
    /// Whether etcd may have been restored to an older state: the watch was lost or silent since the last event.
    is_in_doubt: bool,
}

impl Watch {
    async fn run(self) {
        let mut backoff = Backoff::new(self.tuning.retry_delays);
        let mut cursor = Cursor::default();
        loop {
            let start = Instant::now();
            let had_version = cursor.resource_version.is_some();
            let result = self.follow(&mut cursor).await;
            let is_alive = std::mem::take(&mut cursor.is_alive);
            // The API server answers, so the list that must follow does not wait as long as after an outage.
            let is_expired = had_version && matches!(result, Err(ApiError::Expired));
            if is_alive || is_expired {
                backoff.reset();
            }
            match result {
                // The time of the watch was over. A watch that ends at once each time must wait before a restart.
                Ok(()) if is_alive && start.elapsed() > self.tuning.retry_delays.first => continue,
                Ok(()) => {}
                Err(error) => self.note_error(&error, &mut cursor),
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Lists the objects if necessary, and then applies events until the API server ends the watch.
    async fn follow(&self, cursor: &mut Cursor) -> Result<(), ApiError> {
        match &cursor.resource_version {
            None => self.list(cursor).await?,
            Some(known) if cursor.is_in_doubt => self.check_version(known).await?,
            Some(_) => {}
        }
        cursor.is_in_doubt = false;
        let Some(resource_version) = &cursor.resource_version else { return Ok(()) };
        let mut events = self.source.watch(resource_version).await?;
        // Not before the watch is open: facts that cannot be watched would become outdated unnoticed.
        if std::mem::take(&mut cursor.is_listed) {
            self.cache.finish_sync(self.kind());
        }
        cursor.refused_since = None;
        self.status.enter(WatchState::Synced);
        let end = loop {
            match events.next().await {
                Ok(Some(event)) => {
                    cursor.is_alive = true;
                    self.status.touch();
                    self.apply_event(&event);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        cursor.is_in_doubt = events.was_cut();
        cursor.resource_version = events.resource_version();
        end
    }

    /// Fails with [`ApiError::Expired`] if the API server has an older state than the one that is known, as after a
    /// restore of etcd. It opens a watch from a version of its future without an error, and sends no event before it
    /// has reached that version: until then the facts would be outdated unnoticed.
    async fn check_version(&self, known: &str) -> Result<(), ApiError> {
        let current = self.source.current_version().await?;
        if current.is_some_and(|current| is_older(&current, known)) {
            let kind = self.kind().kind();
            tracing::warn!(kind, "the API server has an older state than before: listing all objects again");
            return Err(ApiError::Expired);
        }
        Ok(())
    }

    async fn list(&self, cursor: &mut Cursor) -> Result<(), ApiError> {
        self.cache.begin_sync(self.kind());
        cursor.is_listed = false;
        let mut pages = self.source.list();
        while pages.read_next(|text| self.apply(text)).await? {
            self.status.touch();
        }
        cursor.resource_version = pages.resource_version();
        cursor.is_listed = true;
        cursor.is_alive = true;
        Ok(())
    }

    fn apply_event(&self, event: &Event) {
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
                self.status.count_error(WatchError::Unreadable);
                log_unreadable(&error);
            }
            Effect::Changed if self.kind() == Kind::KubeVirt => self.log_version(),
            Effect::Changed | Effect::Unchanged => {}
        }
    }

    fn log_version(&self) {
        let version = self.cache.read().kubevirt().known().and_then(|kubevirt| kubevirt.version);
        match version {
            Some(version) if version.is_newer_than_known() => {
                let newest_known = NEWEST_KNOWN;
                tracing::warn!(%version, %newest_known, "KubeVirt is newer than nicplug knows: using the newest known");
            }
            Some(version) => tracing::info!(%version, "KubeVirt"),
            None => tracing::warn!("the version of KubeVirt is unknown: rules that depend on it deny nothing"),
        }
    }

    fn note_error(&self, error: &ApiError, cursor: &mut Cursor) {
        let watch_error = WatchError::from(error);
        if watch_error != WatchError::NotInstalled || !self.kind().is_optional() {
            self.status.count_error(watch_error);
        }
        if watch_error == WatchError::Unavailable {
            cursor.is_in_doubt = true;
        }
        let message = error.to_string();
        self.status.enter(match watch_error {
            // The facts stay current until the next list, which comes now.
            WatchError::Expired => {
                cursor.resource_version = None;
                return;
            }
            WatchError::Forbidden => self.after_refusal(message.clone(), WatchState::Forbidden(message), cursor),
            WatchError::NotInstalled => self.after_refusal(message, WatchState::NotInstalled, cursor),
            WatchError::Unavailable | WatchError::Unreadable if self.status.has_facts() => WatchState::Stale(message),
            WatchError::Unavailable | WatchError::Unreadable => WatchState::Starting(Some(message)),
        });
    }

    /// Returns the state after the answer that the watch is forbidden or the kind is not installed: stale during the
    /// grace period, after which the facts are dropped.
    fn after_refusal(&self, message: String, refusal: WatchState, cursor: &mut Cursor) -> WatchState {
        let since = *cursor.refused_since.get_or_insert_with(Instant::now);
        if self.status.has_facts() && since.elapsed() < self.tuning.forbidden_grace {
            return WatchState::Stale(message);
        }
        self.cache.clear(self.kind());
        *cursor = Cursor { refused_since: Some(since), ..Cursor::default() };
        refusal
    }

    fn kind(&self) -> Kind {
        self.status.kind
    }
}

/// Whether a resource version precedes another one. Kubernetes guarantees this order for the versions of one kind
/// (KEP-5504); versions that are not numbers have none.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}

fn log_unreadable(error: &ObjectError) {
    tracing::warn!(%error, "an object cannot be read: its facts are unknown");
}

/// Fetches the ControllerRevisions that requests needed, one after the other.
async fn fetch_revisions(
    client: Client,
    cache: Arc<Cache>,
    mut wanted: mpsc::Receiver<WantedRevision>,
    tuning: Tuning,
) {
    let client = ApiClient::new(client, tuning.request_timeout);
    let mut backoff = Backoff::new(tuning.retry_delays);
    let mut is_logged = false;
    while let Some(WantedRevision { key, is_of_guest }) = wanted.recv().await {
        let path = ObjectPath::one(Kind::Revision, &key.0, &key.1);
        if !path.is_valid() || cache.knows(Kind::Revision, &key) {
            continue;
        }
        match client.get(&path).await {
            Ok(object) if !is_of_guest && !stores_expander(&object) => {}
            Ok(object) => {
                if let Effect::Unreadable(error) = cache.apply(Kind::Revision, &object) {
                    log_unreadable(&error);
                }
            }
            Err(ApiError::NotFound(_) | ApiError::NotInstalled) if is_of_guest => {
                cache.mark_absent(Kind::Revision, &key);
            }
            Err(ApiError::NotFound(_) | ApiError::NotInstalled) => {}
            Err(error) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%error, "cannot fetch a ControllerRevision: PCI ports are estimated");
                }
                sleep(backoff.next_delay()).await;
                continue;
            }
        }
        is_logged = false;
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

    /// An API server that gives prepared responses, one after the other; a request after the last one waits for ever.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        replies: VecDeque<Reply>,
        urls: Vec<String>,
    }

    enum Reply {
        /// A status and a body.
        Response(u16, Value),
        /// Lines of a watch that ends when their sender is dropped.
        Watch(mpsc::UnboundedReceiver<Line>),
        /// A broken connection.
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
            self.0.lock().unwrap().replies.push_back(Reply::Response(code, body));
        }

        /// Replaces the prepared responses.
        fn now_answers(&self, code: u16, body: Value) {
            self.0.lock().unwrap().replies.clear();
            self.answers(code, body);
        }

        fn breaks(&self) {
            self.0.lock().unwrap().replies.push_back(Reply::Broken);
        }

        fn watch(&self) -> Wire {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.0.lock().unwrap().replies.push_back(Reply::Watch(receiver));
            Wire(sender)
        }

        fn urls(&self) -> Vec<String> {
            self.0.lock().unwrap().urls.clone()
        }

        fn client(&self) -> Client {
            let server = self.clone();
            let service =
                service_fn(move |request: hyper::Request<kube::client::Body>| server.answer(request.uri().to_string()));
            Client::new(service, "default")
        }

        fn answer(&self, uri: String) -> BoxFuture<'static, Result<Response<Body>, io::Error>> {
            let mut script = self.0.lock().unwrap();
            script.urls.push(uri);
            let mut response = Response::new(Body::empty());
            match script.replies.pop_front() {
                Some(Reply::Response(code, body)) => {
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

    /// A watch of one kind that the test polls itself.
    struct TestWatch {
        server: Server,
        cache: Arc<Cache>,
        status: Arc<WatchStatus>,
        watch: BoxFuture<'static, ()>,
    }

    impl TestWatch {
        fn new() -> Self {
            let server = Server::default();
            let tuning = Tuning { page: 2, ..Tuning::default() };
            let cache = Arc::new(Cache::new(Store::default()).0);
            let status = Arc::clone(WatchStatuses::default().of(KIND).unwrap());
            let source = ListWatch::new(server.client(), KIND, &tuning);
            let watch = Watch { source, status: Arc::clone(&status), cache: Arc::clone(&cache), tuning };
            Self { server, cache, status, watch: watch.run().boxed() }
        }

        /// Runs the watch and the tasks of its client until they wait for time or for the server.
        async fn settle(&mut self) {
            for _ in 0..50 {
                assert!((&mut self.watch).now_or_never().is_none(), "a watch never ends");
                tokio::task::yield_now().await;
            }
        }

        /// Advances the paused clock.
        async fn wait(&mut self, time: Duration) {
            let end = Instant::now() + time;
            while Instant::now() < end {
                tokio::time::advance(Duration::from_millis(100)).await;
                self.settle().await;
            }
        }

        fn nad(&self, name: &str) -> Fact<()> {
            match self.cache.read().find_nad(NadRef { namespace: "demo", name }, true).nad {
                Fact::Known(_) => Fact::Known(()),
                Fact::Absent => Fact::Absent,
                Fact::Unknown => Fact::Unknown,
            }
        }

        fn state(&self) -> &'static str {
            self.status.state().0.as_str()
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
    async fn no_object_is_absent_before_all_pages_are_read() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "more", &[nad("a", 1), nad("b", 2)]));
        test.settle().await;
        assert_eq!((test.nad("a"), test.nad("c"), test.state()), (Fact::Known(()), Fact::Unknown, "starting"));

        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "more", &[nad("a", 1), nad("b", 2)]));
        test.server.answers(200, list(9, "", &[nad("c", 3)]));
        let wire = test.server.watch();
        test.settle().await;
        assert_eq!((test.nad("c"), test.nad("d"), test.state()), (Fact::Known(()), Fact::Absent, "synced"));
        let urls = test.server.urls();
        assert!(urls[0].contains("limit=2") && !urls[0].contains("resourceVersion"), "{urls:?}");
        assert!(urls[1].contains("continue=more"), "{urls:?}");
        assert!(urls[2].contains("watch=true") && urls[2].contains("resourceVersion=9"), "{urls:?}");

        wire.send("ADDED", &nad("d", 10));
        wire.send("DELETED", &nad("a", 11));
        test.settle().await;
        assert_eq!((test.nad("a"), test.nad("d")), (Fact::Absent, Fact::Known(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_watch_continues_at_its_resource_version_and_is_synced_again() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1)]));
        let wire = test.server.watch();
        test.settle().await;
        wire.send("ADDED", &nad("b", 10));
        wire.send(
            "BOOKMARK",
            &json!({"kind": "NetworkAttachmentDefinition", "apiVersion": "k8s.cni.cncf.io/v1",
            "metadata": {"resourceVersion": "12"}}),
        );
        wire.send("MODIFIED", &nad("b", 14));
        test.settle().await;
        for _ in 0..3 {
            test.server.breaks();
        }
        drop(wire);
        test.wait(Duration::from_millis(600)).await;
        assert_eq!((test.state(), test.nad("b"), test.nad("x")), ("stale", Fact::Known(()), Fact::Absent));
        let (WatchState::Stale(error), _) = test.status.state() else { panic!() };
        assert!(error.contains("connection refused"), "{error}");
        // The API server is asked whether it still has that version.
        test.server.answers(200, list(14, "", &[]));
        let _wire = test.server.watch();
        test.wait(Duration::from_secs(10)).await;
        // Synced again without any event.
        assert_eq!(test.state(), "synced");
        let urls = test.server.urls();
        assert!(urls.last().unwrap().contains("resourceVersion=14"), "{urls:?}");
        assert_eq!(urls.iter().filter(|uri| uri.contains("limit=2")).count(), 1, "{urls:?}");
        assert_eq!(test.status.error_count(WatchError::Unavailable), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_resource_version_leads_to_a_new_list() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1), nad("b", 2)]));
        let wire = test.server.watch();
        test.settle().await;
        test.server.answers(200, list(20, "more", &[nad("b", 2)]));
        wire.send("ERROR", &status(410, "too old resource version: 9 (15)"));
        test.wait(Duration::from_secs(1)).await;
        // Half of the new list has arrived: the known facts stay.
        assert_eq!((test.nad("a"), test.nad("c"), test.state()), (Fact::Known(()), Fact::Absent, "synced"));

        // A list can expire too: it starts again.
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1), nad("b", 2)]));
        test.server.answers(410, status(410, "too old resource version: 9 (15)"));
        test.server.answers(200, list(20, "more", &[nad("a", 2)]));
        test.server.answers(410, status(410, "the continue token is too old"));
        test.server.answers(200, list(30, "", &[nad("b", 2), nad("c", 25)]));
        let _wire = test.server.watch();
        test.wait(Duration::from_secs(10)).await;
        assert_eq!((test.nad("a"), test.nad("b"), test.nad("c")), (Fact::Absent, Fact::Known(()), Fact::Known(())));
        assert_eq!((test.state(), test.status.error_count(WatchError::Expired)), ("synced", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_an_expired_resource_version_is_replaced_at_once() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1)]));
        let wire = test.server.watch();
        test.settle().await;
        for _ in 0..100 {
            test.server.breaks();
        }
        drop(wire);
        // By now the pauses between the tries are long.
        test.wait(Duration::from_mins(2)).await;
        assert_eq!((test.nad("b"), test.state()), (Fact::Absent, "stale"));
        test.server.now_answers(200, list(20, "", &[]));
        let wire = test.server.watch();
        test.wait(Duration::from_secs(31)).await;
        assert_eq!(test.state(), "synced");
        wire.send("ERROR", &status(410, "too old resource version: 9 (15)"));
        test.server.answers(200, list(20, "", &[nad("b", 15)]));
        let _wire = test.server.watch();
        test.wait(Duration::from_secs(1)).await;
        assert_eq!((test.nad("a"), test.nad("b"), test.state()), (Fact::Absent, Fact::Known(()), "synced"));
    }

    #[tokio::test(start_paused = true)]
    async fn forbidden_facts_are_unknown_until_the_permission_comes() {
        let mut test = TestWatch::new();
        for _ in 0..20 {
            test.server.answers(403, status(403, "nads is forbidden: User \"x\" cannot list"));
        }
        test.wait(Duration::from_secs(2)).await;
        assert_eq!(
            test.status.state().0,
            WatchState::Forbidden("nads is forbidden: User \"x\" cannot list".to_owned())
        );
        assert_eq!(test.nad("a"), Fact::Unknown);
        test.server.now_answers(200, list(9, "", &[nad("a", 1)]));
        let _wire = test.server.watch();
        test.wait(Duration::from_mins(1)).await;
        assert_eq!((test.nad("a"), test.nad("b"), test.state()), (Fact::Known(()), Fact::Absent, "synced"));
    }

    #[tokio::test(start_paused = true)]
    async fn facts_are_dropped_when_a_refusal_lasts_and_come_back_after_it() {
        for (code, state) in [(403, "forbidden"), (404, "not_installed")] {
            let mut test = TestWatch::new();
            test.server.answers(200, list(9, "", &[nad("a", 1)]));
            let wire = test.server.watch();
            test.settle().await;
            for _ in 0..20 {
                test.server.answers(code, status(code, "no"));
            }
            drop(wire);
            test.wait(Duration::from_secs(10)).await;
            assert_eq!(
                (test.nad("a"), test.state()),
                (Fact::Known(()), "stale"),
                "an API server that has just started"
            );
            test.wait(Duration::from_mins(1)).await;
            assert_eq!((test.nad("a"), test.state()), (Fact::Unknown, state));
            test.server.now_answers(200, list(20, "", &[nad("b", 15)]));
            let _wire = test.server.watch();
            test.wait(Duration::from_mins(1)).await;
            assert_eq!((test.nad("a"), test.nad("b"), test.state()), (Fact::Absent, Fact::Known(()), "synced"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn facts_that_can_be_listed_but_not_watched_stay_unknown() {
        let mut test = TestWatch::new();
        for _ in 0..4 {
            test.server.answers(200, list(9, "", &[nad("a", 1)]));
            test.server.answers(403, status(403, "cannot watch"));
        }
        test.wait(Duration::from_secs(5)).await;
        assert_eq!((test.nad("a"), test.nad("b"), test.state()), (Fact::Unknown, Fact::Unknown, "forbidden"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_unreadable_object_is_unknown_and_the_watch_continues() {
        let mut broken = nad("b", 2);
        broken["spec"]["config"] = json!(5);
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1), broken.clone()]));
        let wire = test.server.watch();
        test.settle().await;
        assert_eq!((test.nad("a"), test.nad("b"), test.nad("c")), (Fact::Known(()), Fact::Unknown, Fact::Absent));
        wire.send("MODIFIED", &broken);
        wire.send("ADDED", &nad("c", 10));
        test.settle().await;
        assert_eq!((test.nad("b"), test.nad("c"), test.state()), (Fact::Unknown, Fact::Known(()), "synced"));
        assert_eq!(test.status.error_count(WatchError::Unreadable), 1, "counted once");
        wire.send("MODIFIED", &nad("b", 11));
        test.settle().await;
        assert_eq!(test.nad("b"), Fact::Known(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_without_events_is_restarted() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1)]));
        let _wire = test.server.watch();
        test.settle().await;
        test.server.answers(200, list(9, "", &[nad("a", 1)]));
        let _second = test.server.watch();
        test.wait(Tuning::default().idle_timeout + Duration::from_secs(5)).await;
        assert_eq!(test.server.urls().len(), 4);
        assert_eq!((test.state(), test.nad("a")), ("synced", Fact::Known(())));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_whose_state_is_older_than_before_is_listed_again() {
        for is_silent in [true, false] {
            let mut test = TestWatch::new();
            test.server.answers(200, list(90, "", &[nad("a", 1), nad("b", 80)]));
            let wire = test.server.watch();
            test.settle().await;
            if !is_silent {
                drop(wire);
                test.server.breaks();
            }
            test.server.answers(200, list(40, "more", &[nad("a", 1)]));
            test.server.answers(200, list(40, "", &[nad("a", 1)]));
            let again = test.server.watch();
            let idle_timeout = if is_silent { Tuning::default().idle_timeout } else { Duration::ZERO };
            test.wait(idle_timeout + Duration::from_secs(5)).await;
            assert_eq!((test.nad("a"), test.nad("b"), test.state()), (Fact::Known(()), Fact::Absent, "synced"));
            again.send("ADDED", &nad("b", 41));
            test.settle().await;
            assert_eq!(test.nad("b"), Fact::Known(()));
            let urls = test.server.urls();
            assert!(urls.last().unwrap().contains("resourceVersion=40"), "{urls:?}");
            assert_eq!(test.status.error_count(WatchError::Expired), 1);
        }
    }

    #[test]
    fn only_numbers_have_an_order() {
        for (version, than, expected) in
            [("9", "10", true), ("10", "9", false), ("9", "9", false), ("a", "9", false), ("9", "", false)]
        {
            assert_eq!(is_older(version, than), expected, "{version} {than}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_never_comes_is_reported() {
        let mut test = TestWatch::new();
        test.wait(Tuning::default().request_timeout + Duration::from_secs(1)).await;
        assert_eq!(test.status.state().0, WatchState::Starting(Some("no answer within 60 s".to_owned())));
    }

    #[tokio::test]
    async fn an_update_that_changes_no_fact_takes_no_write_lock() {
        let mut test = TestWatch::new();
        test.server.answers(200, list(9, "", &[nad("a", 1)]));
        let wire = test.server.watch();
        test.settle().await;
        let reader = test.cache.read();
        let heartbeat = json!({"metadata": {"namespace": "demo", "name": "a", "resourceVersion": "10",
            "labels": {"new": "one"}}, "spec": {"config": "{\"type\": \"bridge\", \"n\": 7}"}});
        // A write lock would wait for the reader for ever.
        assert!(matches!(test.cache.apply(KIND, &heartbeat.to_string()), Effect::Unchanged));
        drop(reader);
        drop(wire);
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_that_a_request_needed_are_fetched() {
        let server = Server::default();
        let (wants, wanted) = mpsc::channel(8);
        let cache = Arc::new(Cache::new(Store::default()).0);
        let mut task = fetch_revisions(server.client(), Arc::clone(&cache), wanted, Tuning::default()).boxed();
        let key = |name: &str| ("demo".to_owned(), name.to_owned());
        let object = |name: &str, data: Value| json!({"metadata": {"namespace": "demo", "name": name}, "data": data});
        server.answers(200, object("r", json!({"spec": {"template": {}}})));
        server.answers(404, status(404, "no such revision"));
        // A VM may name anything: what does not exist or stores something else is not kept.
        server.answers(404, status(404, "no such revision"));
        server.answers(200, object("other", json!({"spec": {"template": {}}})));
        server.answers(200, object("pe", json!({"kind": "VirtualMachinePreference", "spec": {}})));
        for name in ["r", "r", "gone"] {
            wants.try_send(WantedRevision { key: key(name), is_of_guest: true }).unwrap();
        }
        for name in ["missing", "../../secrets/a", "other", "pe"] {
            wants.try_send(WantedRevision { key: key(name), is_of_guest: false }).unwrap();
        }
        for _ in 0..50 {
            assert!((&mut task).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(
            server.urls(),
            [
                "/apis/apps/v1/namespaces/demo/controllerrevisions/r",
                "/apis/apps/v1/namespaces/demo/controllerrevisions/gone",
                "/apis/apps/v1/namespaces/demo/controllerrevisions/missing",
                "/apis/apps/v1/namespaces/demo/controllerrevisions/other",
                "/apis/apps/v1/namespaces/demo/controllerrevisions/pe",
            ]
        );
        let known = ["r", "gone", "missing", "other", "pe"].map(|name| cache.knows(Kind::Revision, &key(name)));
        assert_eq!(known, [true, true, false, false, true]);
    }
}
