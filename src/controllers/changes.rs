//! The Events about changes of the NICs of running VMs, each after the API server has stored the change.
//!
//! A review comes before the write, and another webhook, the schema or a conflict can still refuse the request. The
//! replica that answered the review knows the old template, and what becomes of each NIC. It reads the VM after its
//! answer, and writes the Event only if the VM has the change. So each replica does this, and not the leader alone: a
//! watch of VMs shows the new template, but not the change that led to it.
//!
//! The name of an Event is made from the generation of the VM, so a change that two replicas reviewed has one Event.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    api::{guest::GuestSpec, read_object, vm::VirtualMachine},
    facts::nic::GuestNic,
    k8s::{
        api_error::ApiError,
        events::{DropReason, EventQueue, EventReason, PendingEvent, RateLimiter, name_of_event},
        kind::Kind,
        request::{ApiClient, ObjectPath},
    },
};

/// How many changes may wait to be followed.
const CAPACITY: usize = 256;

/// How many changes are followed at once.
const AT_ONCE: usize = 64;

/// How long a response of the API server may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The delays before the reads of a VM. A change is stored a moment after the answer, or at most 30 seconds later: the
/// longest time that the API server waits for the other webhooks.
const DELAYS: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1500),
    Duration::from_secs(5),
    Duration::from_secs(13),
    Duration::from_secs(20),
];

/// A change of a VM that was allowed, and may be stored.
#[derive(Clone, Debug)]
pub struct AllowedChange {
    /// What the Event reports.
    pub reason: EventReason,
    /// The VM, with its uid.
    pub vm: ObjectReference,
    /// `metadata.generation` that the VM has with the change; 0 if it is not known.
    pub generation: i64,
    /// The NICs of its template with the change.
    pub nics: TemplateNics,
    /// The text for people.
    pub note: String,
}

/// The NICs of a template: equal for equal NICs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TemplateNics(Vec<(GuestNic, Option<String>)>);

impl TemplateNics {
    /// Returns the NICs of a template, with their MAC addresses.
    #[must_use]
    pub fn of(guest: &GuestSpec) -> Self {
        let addresses = guest.interfaces().iter().map(|interface| interface.mac_address.as_deref().map(str::to_owned));
        Self(GuestNic::all(guest).into_iter().zip(addresses).collect())
    }
}

/// Follows allowed changes, and writes Events about those that are stored. Clones share the queue; the task that
/// follows them ends with the last clone.
#[derive(Clone, Debug)]
pub struct ChangeFollower {
    changes: mpsc::Sender<AllowedChange>,
    events: EventQueue,
}

impl ChangeFollower {
    /// Starts the task that follows changes, and sends the Events to this queue; needs a runtime.
    #[must_use]
    pub fn start(client: Client, events: EventQueue) -> Self {
        let (changes, waiting) = mpsc::channel(CAPACITY);
        tokio::spawn(follow(ApiClient::new(client, TIMEOUT), waiting, events.clone()));
        Self { changes, events }
    }

    /// Follows a change, without waiting; drops it if too many are followed.
    pub fn follow(&self, change: AllowedChange) {
        if self.changes.try_send(change).is_err() {
            self.events.count_dropped(DropReason::Full);
        }
    }
}

/// What became of an allowed change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The VM has it.
    Stored,
    /// The VM has another change, or stays as it was.
    NotStored,
    /// It is not known: the VM cannot be read.
    Unreadable,
}

async fn follow(client: ApiClient, mut waiting: mpsc::Receiver<AllowedChange>, events: EventQueue) {
    let client = Arc::new(client);
    let changes = stream::poll_fn(move |context| waiting.poll_recv(context));
    let outcomes = changes.map(|change| {
        let client = Arc::clone(&client);
        async move { (outcome(&client, &change).await, change) }
    });
    let mut outcomes = pin!(outcomes.buffer_unordered(AT_ONCE));
    let mut rate_limiter = RateLimiter::default();
    while let Some((outcome, change)) = outcomes.next().await {
        match outcome {
            Outcome::Stored => {
                let key =
                    [&change.vm.namespace, &change.vm.name].map(|part| part.as_deref().unwrap_or_default()).join("/");
                if rate_limiter.admits_change(&key, Instant::now()) {
                    events.emit(event(change));
                } else {
                    events.count_dropped(DropReason::Rate);
                }
            }
            Outcome::NotStored => {
                tracing::debug!(vm = change.vm.name, "a change of NICs that was allowed is not stored");
            }
            Outcome::Unreadable => events.count_dropped(DropReason::Failed),
        }
    }
}

fn event(AllowedChange { reason, vm, generation, nics: _, note }: AllowedChange) -> PendingEvent {
    let uid = vm.uid.as_deref().unwrap_or_default();
    // Without a generation, equal notes are taken for one change.
    let identity = if generation == 0 { format!("{uid} {note}") } else { format!("{uid} {generation} changed") };
    let name = name_of_event(vm.name.as_deref().unwrap_or_default(), &identity);
    PendingEvent { reason, object: vm, related: None, note, name: Some(name) }
}

/// Reads the VM until it has the change, or something else.
async fn outcome(client: &ApiClient, change: &AllowedChange) -> Outcome {
    let mut error = None;
    for delay in DELAYS {
        sleep(delay).await;
        match read(client, change).await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => error = None,
            Err(failure) => {
                let is_final = failure.is_forbidden();
                error = Some(failure);
                if is_final {
                    break;
                }
            }
        }
    }
    let Some(error) = error else { return Outcome::NotStored };
    let ObjectReference { namespace, name, .. } = &change.vm;
    tracing::warn!(namespace, vm = name, %error, "cannot read a VM whose change has an Event");
    Outcome::Unreadable
}

/// Reads the VM; returns `None` if the API server may still store the change.
async fn read(client: &ApiClient, change: &AllowedChange) -> Result<Option<Outcome>, ApiError> {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let path = ObjectPath::one(Kind::Vm, &part(&change.vm.namespace), &part(&change.vm.name));
    if !path.is_valid() {
        return Ok(Some(Outcome::NotStored));
    }
    match client.get(&path).await {
        Ok(text) => {
            let vm: VirtualMachine = read_object(&text).map_err(|error| ApiError::Unreadable(error.message))?;
            Ok(judge(change, &vm))
        }
        Err(ApiError::NotFound(_) | ApiError::NotInstalled) => Ok(Some(Outcome::NotStored)),
        Err(error) => Err(error),
    }
}

fn judge(change: &AllowedChange, vm: &VirtualMachine) -> Option<Outcome> {
    let is_same_vm = change.vm.uid.as_deref().is_none_or(|uid| *uid == *vm.metadata.uid);
    if !is_same_vm {
        return Some(Outcome::NotStored);
    }
    if vm.metadata.generation < change.generation {
        return None;
    }
    let is_stored = TemplateNics::of(&vm.spec.template.spec) == change.nics;
    match (is_stored, change.generation) {
        (true, _) => Some(Outcome::Stored),
        (false, 0) => None,
        (false, _) => Some(Outcome::NotStored),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        io,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::body::Body;
    use hyper::{Request, Response, StatusCode};
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::k8s::events::Events;

    fn vm(uid: &str, generation: i64, nics: &[&str]) -> String {
        let interfaces: Vec<Value> = nics.iter().map(|name| json!({"name": name, "bridge": {}})).collect();
        let networks: Vec<Value> =
            nics.iter().map(|name| json!({"name": name, "multus": {"networkName": name}})).collect();
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": uid, "generation": generation},
            "spec": {"template": {"spec": {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}}}})
        .to_string()
    }

    /// The change that adds `blue` in generation 3.
    fn change() -> AllowedChange {
        let text = vm("1", 3, &["old", "blue"]);
        let with: VirtualMachine = read_object(&text).unwrap();
        let text = |text: &str| Some(text.to_owned());
        let vm = ObjectReference { namespace: text("demo"), name: text("vm"), uid: text("1"), ..Default::default() };
        let nics = TemplateNics::of(&with.spec.template.spec);
        let reason = EventReason::InterfaceChangeStored;
        AllowedChange { reason, vm, generation: 3, nics, note: "add \"blue\"".to_owned() }
    }

    #[test]
    fn a_change_is_stored_if_the_vm_has_its_generation_and_its_nics() {
        for (uid, generation, nics, expected) in [
            ("1", 3, &["old", "blue"][..], Some(Outcome::Stored)),
            ("1", 4, &["old", "blue"], Some(Outcome::Stored)),
            ("1", 2, &["old"], None),
            ("1", 2, &["old", "blue"], None),
            ("1", 3, &["old"], Some(Outcome::NotStored)),
            ("1", 4, &["old"], Some(Outcome::NotStored)),
            ("2", 1, &["old"], Some(Outcome::NotStored)),
        ] {
            let text = vm(uid, generation, nics);
            assert_eq!(judge(&change(), &read_object(&text).unwrap()), expected, "{uid} {generation} {nics:?}");
        }
        let text = vm("1", 0, &["old"]);
        assert_eq!(judge(&AllowedChange { generation: 0, ..change() }, &read_object(&text).unwrap()), None);
    }

    /// An API server that answers each read of the VM by its number; returns it and the paths and bodies of the writes.
    fn api_server(
        answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static,
    ) -> (Client, mpsc::UnboundedReceiver<String>) {
        let (sender, written) = mpsc::unbounded_channel();
        let (answer, reads) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let service = service_fn(move |request: Request<kube::client::Body>| {
            let (code, body) = if request.method() == "GET" {
                answer(reads.fetch_add(1, Ordering::Relaxed))
            } else {
                sender.send(request.uri().path().to_owned()).unwrap();
                (201, "{}".to_owned())
            };
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            ready(io::Result::Ok(response))
        });
        (Client::new(service, "default"), written)
    }

    fn follower(client: &Client) -> (ChangeFollower, EventQueue) {
        let queue = EventQueue::start(Events::new(client.clone(), "nicplug.io/test", "test"));
        (ChangeFollower::start(client.clone(), queue.clone()), queue)
    }

    #[tokio::test(start_paused = true)]
    async fn the_event_waits_until_the_change_is_stored() {
        let (client, mut written) = api_server(|number| match number {
            0 => (200, vm("1", 2, &["old"])),
            1 => (500, String::new()),
            _ => (200, vm("1", 3, &["old", "blue"])),
        });
        let (follower, queue) = follower(&client);
        follower.follow(change());
        assert_eq!(written.recv().await.unwrap(), "/apis/events.k8s.io/v1/namespaces/demo/events");
        while queue.sent() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((queue.sent(), queue.dropped(DropReason::Failed)), (1, 0));
        let names = [event(change()), event(AllowedChange { note: "other".to_owned(), ..change() })].map(|it| it.name);
        assert_eq!(names[0], names[1], "a change has one name");
        assert_ne!(names[0], event(AllowedChange { generation: 4, ..change() }).name);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_change_has_no_event_and_an_api_server_that_fails_is_counted() {
        let client = |code: u16, text: String| ApiClient::new(api_server(move |_| (code, text.clone())).0, TIMEOUT);
        for (client, expected) in [
            (client(200, vm("1", 2, &["old"])), Outcome::NotStored),
            (client(404, r#"{"kind": "Status", "code": 404, "reason": "NotFound"}"#.to_owned()), Outcome::NotStored),
            (client(503, String::new()), Outcome::Unreadable),
            (client(200, r#"{"spec": []}"#.to_owned()), Outcome::Unreadable),
        ] {
            assert_eq!(outcome(&client, &change()).await, expected);
        }
        let longest: Duration = DELAYS.iter().sum();
        assert_eq!(longest, Duration::from_secs(40), "longer than the API server waits for other webhooks");
        let (bad, _) = api_server(|_| (503, String::new()));
        let (follower, queue) = follower(&bad);
        for _ in 0..CAPACITY + 2 {
            follower.follow(change());
        }
        assert_eq!(queue.dropped(DropReason::Full), 2, "the task did not run in between");
    }
}
