//! Spans that a double of a collector receives from a real server.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use nicplug::{
    server::{Config, Server, tls::CertKeyPair},
    telemetry::spans::{self, DropReason, Spans},
};
use serde_json::{Value, json};
use support::{
    client::{LOCALHOST, handshake},
    clock::Clock,
    server::{BUNDLE, reviewer_without_facts},
    wait::guarded,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

/// A collector whose responses a test sets, and which passes its messages on to the test.
struct Collector {
    address: SocketAddr,
    responses: Responses,
    messages: mpsc::UnboundedReceiver<Value>,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Responses {
    /// The next responses, the first one at the end; after them 200 with an empty object.
    next: Arc<Mutex<Vec<(u16, &'static str)>>>,
    messages: mpsc::UnboundedSender<Value>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        let responses = Responses { next: Arc::default(), messages: sender };
        let router = Router::new().route("/v1/traces", post(receive)).with_state(responses.clone());
        let service = TowerToHyperService::new(router);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
            }
        });
        Self { address, responses, messages, _task: task }
    }

    /// Sets the responses to the next messages, in reverse order.
    fn respond_with(&self, responses: &[(u16, &'static str)]) {
        self.responses.next.lock().unwrap().extend(responses);
    }

    async fn message(&mut self) -> Value {
        guarded(self.messages.recv()).await.unwrap()
    }
}

async fn receive(
    State(responses): State<Responses>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    assert_eq!(headers["content-type"], "application/json");
    responses.messages.send(serde_json::from_slice(&body).unwrap()).unwrap();
    let (status, text) = responses.next.lock().unwrap().pop().unwrap_or((200, "{}"));
    (StatusCode::from_u16(status).unwrap(), text)
}

/// A server that exports spans.
struct TracedServer {
    address: SocketAddr,
    spans: Spans,
    end: oneshot::Sender<()>,
    exporting: JoinHandle<()>,
    _running: JoinSet<()>,
}

impl TracedServer {
    async fn start(collector: SocketAddr) -> Self {
        let resource = vec![("service.name", "nicplug".to_owned())];
        let (spans, exporter) = spans::queue(format!("http://{collector}").parse().unwrap(), resource);
        let config =
            Config { spans: Some(spans.clone()), ..Config::new(CertKeyPair::try_from(&*BUNDLE).unwrap().into()) };
        let server = Server::bind(config, reviewer_without_facts()).await.unwrap();
        let address = server.local_addr();
        let mut running = JoinSet::new();
        running.spawn(server.run(std::future::pending()));
        let (end, ended) = oneshot::channel();
        let exporting = tokio::spawn(exporter.run(async { ended.await.unwrap() }));
        Self { address, spans, end, exporting, _running: running }
    }

    /// Sends a review of a VM with two networks of the same name, on a new connection.
    async fn send_review(&self, uid: &str, traceparent: &str) {
        let stream = handshake(self.address, LOCALHOST, &BUNDLE.ca, &Clock::default()).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let network = json!({"name": "a", "pod": {}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": uid, "operation": "CREATE",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
            "namespace": "demo", "name": "vm", "userInfo": {"username": "alice"},
            "object": {"metadata": {"annotations": {"password": "hunter2"}},
                "spec": {"template": {"spec": {"networks": [network, network]}}}}}});
        let mut request =
            Request::post("/validate").header("host", "nicplug").header("content-type", "application/json");
        if !traceparent.is_empty() {
            request = request.header("traceparent", traceparent);
        }
        let response =
            sender.send_request(request.body(Full::new(Bytes::from(review.to_string()))).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["response"]["uid"], &body["response"]["allowed"]), (&json!(uid), &json!(false)));
    }
}

/// Returns the spans of a message.
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
async fn a_request_is_a_span_in_the_trace_of_the_api_server() {
    let mut collector = Collector::start().await;
    let server = TracedServer::start(collector.address).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    server.send_review("u-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").await;
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
async fn a_request_without_a_parent_starts_a_trace_and_one_with_an_unsampled_parent_has_no_span() {
    let mut collector = Collector::start().await;
    let server = TracedServer::start(collector.address).await;
    server.send_review("hidden", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").await;
    server.send_review("alone", "").await;
    server.send_review("malformed", "00-nonsense-01").await;
    // At the end the exporter sends the queue.
    server.end.send(()).unwrap();
    guarded(server.exporting).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(spans_of(&collector.message().await).clone());
    }
    let uids: Vec<&str> = received.iter().map(|span| attribute(span, "nicplug.uid")).collect();
    assert_eq!(uids, ["alone", "malformed"]);
    assert!(received.iter().all(|span| span.get("parentSpanId").is_none()), "{received:?}");
    assert_ne!(received[0]["traceId"], received[1]["traceId"]);
    assert_eq!((server.spans.exported(), DropReason::ALL.map(|loss| server.spans.dropped(loss))), (2, [0, 0]));
}

#[tokio::test]
async fn a_busy_collector_gets_a_message_again_and_rejected_spans_are_lost() {
    let mut collector = Collector::start().await;
    let server = TracedServer::start(collector.address).await;
    collector.respond_with(&[(200, r#"{"partialSuccess": {"rejectedSpans": "1"}}"#), (503, "")]);
    server.send_review("u-1", "").await;
    let (first, second) = (collector.message().await, collector.message().await);
    assert_eq!(first, second);
    // A malformed message is not sent again.
    collector.respond_with(&[(400, "")]);
    server.send_review("u-2", "").await;
    collector.message().await;
    server.send_review("u-3", "").await;
    assert_eq!(attribute(&spans_of(&collector.message().await)[0], "nicplug.uid"), "u-3");
    server.end.send(()).unwrap();
    guarded(server.exporting).await.unwrap();
    assert_eq!((server.spans.exported(), server.spans.dropped(DropReason::Collector)), (1, 2));
}

#[tokio::test]
async fn no_review_waits_for_a_collector_that_never_responds() {
    // The kernel accepts connections, and no process reads them.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = TracedServer::start(silent.local_addr().unwrap()).await;
    for number in 0..5 {
        guarded(server.send_review(&format!("u-{number}"), "")).await;
    }
    // All reviews were answered, and no span was exported.
    assert_eq!(server.spans.exported(), 0);
}
