//! Spans as a collector gets them: a real server, real requests, and a small double of a collector.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod clients;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use clients::{Time, shake_hands};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use nicplug::{
    admission::Reviewer,
    certificates::{self, Bundle, Host},
    facts::NoFacts,
    server::{Config, Server, tls::Pair},
    settings::Settings,
    telemetry::spans::{self, DropReason, Spans},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// A collector that says what it is told to say, and passes on what it gets.
struct Collector {
    address: SocketAddr,
    answers: Answers,
    messages: mpsc::UnboundedReceiver<Value>,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Answers {
    /// What comes next; then 200 without a word.
    next: Arc<Mutex<Vec<(u16, &'static str)>>>,
    messages: mpsc::UnboundedSender<Value>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        let answers = Answers { next: Arc::default(), messages: sender };
        let router = Router::new().route("/v1/traces", post(take)).with_state(answers.clone());
        let service = TowerToHyperService::new(router);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
            }
        });
        Self { address, answers, messages, _task: task }
    }

    /// What it says to the next messages, the last one first.
    fn will_say(&self, answers: &[(u16, &'static str)]) {
        self.answers.next.lock().unwrap().extend(answers);
    }

    async fn message(&mut self) -> Value {
        guarded(self.messages.recv()).await.unwrap()
    }
}

async fn take(
    State(answers): State<Answers>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    assert_eq!(headers["content-type"], "application/json");
    answers.messages.send(serde_json::from_slice(&body).unwrap()).unwrap();
    let (status, text) = answers.next.lock().unwrap().pop().unwrap_or((200, "{}"));
    (StatusCode::from_u16(status).unwrap(), text)
}

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(2), event).await.expect("the awaited event never came")
}

/// A server that exports spans.
struct Replica {
    address: SocketAddr,
    bundle: Bundle,
    spans: Spans,
    end: oneshot::Sender<()>,
    exporting: JoinHandle<()>,
    _running: JoinSet<()>,
}

impl Replica {
    async fn start(collector: SocketAddr) -> Self {
        let bundle = certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap();
        let about = vec![("service.name", "nicplug".to_owned())];
        let (spans, exporter) = spans::queue(format!("http://{collector}").parse().unwrap(), about);
        let config = Config { spans: Some(spans.clone()), ..Config::new(Pair::try_from(&bundle).unwrap().into()) };
        let server = Server::bind(config, Reviewer::new(Arc::new(NoFacts), Settings::default())).await.unwrap();
        let address = server.local_addr();
        let mut running = JoinSet::new();
        running.spawn(server.run(std::future::pending()));
        let (end, ended) = oneshot::channel();
        let exporting = tokio::spawn(exporter.run(async { ended.await.unwrap() }));
        Self { address, bundle, spans, end, exporting, _running: running }
    }

    /// Sends a review with two networks of one name, on a connection of its own.
    async fn ask(&self, uid: &str, traceparent: &str) {
        let stream = shake_hands(self.address, &self.bundle.ca, &Time::default()).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let network = json!({"name": "a", "pod": {}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": uid, "operation": "CREATE", "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
            "namespace": "demo", "name": "vm", "userInfo": {"username": "alice"},
            "object": {"metadata": {"annotations": {"password": "hunter2"}},
                "spec": {"template": {"spec": {"networks": [network, network]}}}}}});
        let mut request =
            Request::post("/validate").header("host", "nicplug").header("content-type", "application/json");
        if !traceparent.is_empty() {
            request = request.header("traceparent", traceparent);
        }
        let answer =
            sender.send_request(request.body(Full::new(Bytes::from(review.to_string()))).unwrap()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["response"]["uid"], &body["response"]["allowed"]), (&json!(uid), &json!(false)));
    }
}

/// The spans of a message.
fn spans_of(message: &Value) -> &Vec<Value> {
    message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
}

fn attribute<'v>(of: &'v Value, key: &str) -> &'v str {
    let found = of["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
    found.unwrap_or_else(|| panic!("{key} is not in {of}"))["value"]["stringValue"].as_str().unwrap()
}

fn nanos(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_request_is_a_span_of_the_trace_that_the_api_server_names() {
    let mut collector = Collector::start().await;
    let replica = Replica::start(collector.address).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    replica.ask("u-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").await;
    let message = collector.message().await;
    let [span] = &spans_of(&message)[..] else { panic!("{message}") };
    assert_eq!(attribute(&message["resourceSpans"][0]["resource"], "service.name"), "nicplug");
    assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!((&span["name"], &span["kind"]), (&json!("validate"), &json!(2)));
    let (start, end) = (nanos(&span["startTimeUnixNano"]), nanos(&span["endTimeUnixNano"]));
    assert!(start < end && end > before, "{span}");
    for (key, value) in [
        ("nicplug.uid", "u-1"),
        ("nicplug.user", "alice"),
        ("nicplug.object", "VirtualMachine demo/vm"),
        ("nicplug.operation", "CREATE"),
        ("nicplug.endpoint", "validate"),
        ("nicplug.decision", "denied"),
    ] {
        assert_eq!(attribute(span, key), value, "{key}");
    }
    assert!(attribute(span, "nicplug.rules").split(',').any(|rule| rule == "NP001"), "{span}");
    assert!(!message.to_string().contains("hunter2"), "{message}");
}

#[tokio::test]
async fn a_request_without_a_parent_begins_a_trace_and_one_whose_parent_is_not_exported_does_not() {
    let mut collector = Collector::start().await;
    let replica = Replica::start(collector.address).await;
    replica.ask("hidden", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").await;
    replica.ask("alone", "").await;
    replica.ask("malformed", "00-nonsense-01").await;
    // At the end all that waits is sent.
    replica.end.send(()).unwrap();
    guarded(replica.exporting).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(spans_of(&collector.message().await).clone());
    }
    let uids: Vec<&str> = seen.iter().map(|span| attribute(span, "nicplug.uid")).collect();
    assert_eq!(uids, ["alone", "malformed"]);
    assert!(seen.iter().all(|span| span.get("parentSpanId").is_none()), "{seen:?}");
    assert_ne!(seen[0]["traceId"], seen[1]["traceId"]);
    assert_eq!((replica.spans.exported(), DropReason::ALL.map(|loss| replica.spans.lost(loss))), (2, [0, 0]));
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_and_what_it_rejects_is_lost() {
    let mut collector = Collector::start().await;
    let replica = Replica::start(collector.address).await;
    collector.will_say(&[(200, r#"{"partialSuccess": {"rejectedSpans": "1"}}"#), (503, "")]);
    replica.ask("u-1", "").await;
    let (first, second) = (collector.message().await, collector.message().await);
    assert_eq!(first, second);
    // A malformed message would not be better the next time.
    collector.will_say(&[(400, "")]);
    replica.ask("u-2", "").await;
    collector.message().await;
    replica.ask("u-3", "").await;
    assert_eq!(attribute(&spans_of(&collector.message().await)[0], "nicplug.uid"), "u-3");
    replica.end.send(()).unwrap();
    guarded(replica.exporting).await.unwrap();
    assert_eq!((replica.spans.exported(), replica.spans.lost(DropReason::Collector)), (1, 2));
}

#[tokio::test]
async fn no_answer_waits_for_a_collector_that_never_answers() {
    // Connections are opened by the kernel, and nobody reads them.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let replica = Replica::start(silent.local_addr().unwrap()).await;
    for number in 0..5 {
        guarded(replica.ask(&format!("u-{number}"), "")).await;
    }
    // All were answered, and no span was ever taken.
    assert_eq!(replica.spans.exported(), 0);
}
