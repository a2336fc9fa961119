//! OTLP over HTTP with JSON: the Protobuf messages of opentelemetry-proto 1, encoded by the JSON rules of the OTLP
//! specification (ids in hex, 64-bit numbers as text).

use std::{
    fmt, io,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
    http::uri::Scheme,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::Span;

/// The path of the collector's endpoint for spans, which is appended to its address.
const PATH: &str = "/v1/traces";
/// The time for one message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of a response, in bytes.
const MAX_RESPONSE: usize = 64 << 10;
/// The kind of every span.
const SPAN_KIND_SERVER: u8 = 2;

/// The address of a collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collector {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let malformed = || CollectorError::Malformed(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(CollectorError::Tls(text.to_owned())),
            _ => return Err(malformed()),
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(malformed)?;
        if uri.query().is_some() || authority.host().is_empty() {
            return Err(malformed());
        }
        let path = format!("{}{PATH}", uri.path().trim_end_matches('/'));
        Ok(Self { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(80), path })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

/// Why an address is not one of a collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// It is not a URL, or has parts that are not supported.
    #[error("{0:?} is not the address of a collector: write it as http://HOST:4318")]
    Malformed(String),
    /// It needs TLS.
    #[error(
        "{0:?} needs TLS, which nicplug does not use for spans: use a collector in the cluster, as http://HOST:4318"
    )]
    Tls(String),
}

/// Why a message was not exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// There is no connection, or it was lost.
    #[error("no connection: {0}")]
    Unavailable(#[from] io::Error),
    /// The server does not answer with HTTP.
    #[error("the answer is not HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The server rejected the message.
    #[error("the answer is {0}")]
    Refused(StatusCode),
    /// The server did not answer in time.
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
}

impl ExportError {
    /// Whether another attempt can succeed (the retryable codes of the specification).
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Http(_) | Self::TimedOut => true,
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Collector {
    /// Sends a message on a new connection. Returns the number of spans that the collector rejected.
    pub(super) async fn post(&self, body: Bytes) -> Result<u64, ExportError> {
        timeout(TIMEOUT, self.exchange(body)).await.unwrap_or(Err(ExportError::TimedOut))
    }

    async fn exchange(&self, body: Bytes) -> Result<u64, ExportError> {
        // Only a URL has brackets around an IPv6 address.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(&self.path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("nicplug/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        // The block owns the sender, so the connection ends with it.
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // The body is optional, so an error is ignored.
            let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
            Ok::<_, ExportError>((status, body.map(Collected::to_bytes).unwrap_or_default()))
        };
        // An error of the connection is also an error of the answer.
        let (_, answer) = tokio::join!(connection, answer);
        let (status, body) = answer?;
        if status.is_success() { Ok(rejected(&body)) } else { Err(ExportError::Refused(status)) }
    }
}

/// Reads `partialSuccess.rejectedSpans`: text by the specification, but some collectors write a number.
fn rejected(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(rejected) = answer.pointer("/partialSuccess/rejectedSpans") else { return 0 };
    rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}

/// The attributes of the program whose spans are exported.
#[derive(Debug)]
pub(super) struct Resource(Vec<(&'static str, String)>);

impl Resource {
    pub(super) fn new(attributes: Vec<(&'static str, String)>) -> Self {
        Self(attributes)
    }

    /// Returns the message with these spans.
    pub(super) fn message(&self, spans: &[Span]) -> Bytes {
        let scope = ScopeSpans {
            scope: Scope { name: "nicplug", version: env!("CARGO_PKG_VERSION") },
            spans: spans.iter().map(SpanRecord::of).collect(),
        };
        let resource = ResourceAttributes { attributes: attributes(&self.0) };
        let message = Message { resource_spans: [ResourceSpans { resource, scope_spans: [scope] }] };
        // This cannot fail: text, numbers and lists of them have a JSON form.
        serde_json::to_vec(&message).unwrap_or_default().into()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'s> {
    resource_spans: [ResourceSpans<'s>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'s> {
    resource: ResourceAttributes<'s>,
    scope_spans: [ScopeSpans<'s>; 1],
}

#[derive(Serialize)]
struct ResourceAttributes<'s> {
    attributes: Vec<Attribute<'s>>,
}

#[derive(Serialize)]
struct ScopeSpans<'s> {
    scope: Scope,
    spans: Vec<SpanRecord<'s>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanRecord<'s> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: &'static str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'s>>,
}

impl<'s> SpanRecord<'s> {
    fn of(span: &'s Span) -> Self {
        let new_trace = || (u128::from(id()) << 64) | u128::from(id());
        Self {
            trace_id: format!("{:032x}", span.parent.map_or_else(new_trace, |parent| parent.trace)),
            span_id: format!("{:016x}", id()),
            parent_span_id: span.parent.map(|parent| format!("{:016x}", parent.span)),
            name: span.name,
            kind: SPAN_KIND_SERVER,
            start_time_unix_nano: nanos(span.start),
            end_time_unix_nano: nanos(span.end),
            attributes: attributes(&span.attributes),
        }
    }
}

#[derive(Serialize)]
struct Attribute<'s> {
    key: &'static str,
    value: Text<'s>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Text<'s> {
    string_value: &'s str,
}

fn attributes<'s>(pairs: &'s [(&'static str, String)]) -> Vec<Attribute<'s>> {
    pairs.iter().map(|(key, value)| Attribute { key, value: Text { string_value: value } }).collect()
}

/// Returns the nanoseconds since 1970, as text.
fn nanos(moment: SystemTime) -> String {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Returns a random id. Zero is not a valid id.
fn id() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::telemetry::spans::context::TraceContext;

    #[test]
    fn an_address_is_completed_or_rejected_with_advice() {
        for (text, expected) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("http://collector", "http://collector:80/v1/traces"),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<Collector>().unwrap().to_string(), expected);
        }
        for text in ["", "collector:4318", "http://", "grpc://collector:4317", "http://u:p@collector", "http://c/?x=y"]
        {
            let error = text.parse::<Collector>().unwrap_err().to_string();
            assert!(error.contains("http://HOST:4318"), "{error}");
        }
        assert!("https://collector".parse::<Collector>().unwrap_err().to_string().contains("TLS"));
    }

    #[test]
    fn a_message_has_the_format_of_the_specification() {
        let parent = TraceContext { trace: 0xabc, span: 0xdef, is_sampled: true };
        let start = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        let span = |parent| Span {
            name: "validate",
            parent,
            start,
            end: start + Duration::from_micros(30),
            attributes: vec![("nicplug.decision", "denied".to_owned())],
        };
        let resource = Resource::new(vec![("service.name", "nicplug".to_owned())]);
        let message: Value = serde_json::from_slice(&resource.message(&[span(Some(parent)), span(None)])).unwrap();
        let whole = &message["resourceSpans"][0];
        let text = |key: &str, value: &str| json!([{"key": key, "value": {"stringValue": value}}]);
        assert_eq!(whole["resource"]["attributes"], text("service.name", "nicplug"));
        assert_eq!(whole["scopeSpans"][0]["scope"]["name"], "nicplug");
        let [child, root] = &whole["scopeSpans"][0]["spans"].as_array().unwrap()[..] else { panic!("{message}") };
        assert_eq!(child["traceId"], "00000000000000000000000000000abc");
        assert_eq!(child["parentSpanId"], "0000000000000def");
        assert_eq!((&child["name"], &child["kind"]), (&json!("validate"), &json!(2)));
        assert_eq!(child["startTimeUnixNano"], "1700000000000000001");
        assert_eq!(child["endTimeUnixNano"], "1700000000000030001");
        assert_eq!(child["attributes"], text("nicplug.decision", "denied"));
        assert!(root.get("parentSpanId").is_none() && root["traceId"] != child["traceId"], "{message}");
        for (span, key, digits) in [(child, "spanId", 16), (root, "spanId", 16), (root, "traceId", 32)] {
            let id = span[key].as_str().unwrap();
            assert!(id.len() == digits && id.bytes().any(|digit| digit != b'0'), "{key}: {id}");
        }
        assert_ne!(child["spanId"], root["spanId"]);
    }

    #[test]
    fn the_number_of_rejected_spans_is_read_from_the_answer() {
        for (answer, count) in [
            ("", 0),
            ("{}", 0),
            (r#"{"partialSuccess": {}}"#, 0),
            (r#"{"partialSuccess": {"rejectedSpans": "3"}}"#, 3),
            (r#"{"partialSuccess": {"rejectedSpans": 3}}"#, 3),
        ] {
            assert_eq!(rejected(answer.as_bytes()), count, "{answer}");
        }
    }
}
