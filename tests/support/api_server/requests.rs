//! Requests to the API server, and complete responses: with their warnings, and those of denied requests too.

use hyper::http::{HeaderMap, Method, Request};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::{super::cases::Cause, crds::Kind};

/// A response of the API server.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The HTTP status.
    pub(crate) code: u16,
    /// The object, or the `Status` of an error.
    pub(crate) body: Value,
    /// The texts of the `Warning` headers, as kubectl prints them.
    pub(crate) warnings: Vec<String>,
}

impl Response {
    pub(crate) fn is_ok(&self) -> bool {
        self.code < 300
    }

    /// Returns the reason of an error in one word: `Invalid`, `Forbidden`, `InternalError`, ….
    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// Returns the message of an error.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// Returns the causes of an error.
    pub(crate) fn causes(&self) -> Vec<Cause> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let cause = |value: &Value| Cause {
            reason: text(&value["reason"]),
            field: text(&value["field"]),
            message: text(&value["message"]),
        };
        self.body["details"]["causes"].as_array().into_iter().flatten().map(cause).collect()
    }

    /// Returns the object of a request that was allowed.
    #[track_caller]
    pub(crate) fn granted(self) -> Value {
        assert!(self.is_ok(), "{self:?}");
        self.body
    }
}

/// Whether a write is stored.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Run {
    /// It is reviewed, and not stored.
    Dry,
    #[default]
    Real,
}

/// A kind of write.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A server-side apply as this manager, without force.
    Apply(&'static str, Value),
    /// A server-side apply as this manager, with force.
    ForceApply(&'static str, Value),
    /// A JSON patch, RFC 6902.
    Json(Value),
    /// A merge patch, RFC 7386.
    Merge(Value),
    /// The whole object.
    Replace(Value),
}

/// Creates an object.
pub(crate) async fn create(client: &Client, kind: Kind, namespace: &str, object: &Value, run: Run) -> Response {
    let path = format!("{}?{}", kind.path(namespace), query(run));
    send(client, Method::POST, &path, "application/json", object.to_string()).await
}

/// Changes an object.
pub(crate) async fn change(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
    change: Change,
    run: Run,
) -> Response {
    let (method, content, parameters, body) = match change {
        Change::Apply(manager, body) => (Method::PATCH, "apply-patch+yaml", format!("&fieldManager={manager}"), body),
        Change::ForceApply(manager, body) => {
            (Method::PATCH, "apply-patch+yaml", format!("&fieldManager={manager}&force=true"), body)
        }
        Change::Json(body) => (Method::PATCH, "json-patch+json", String::new(), body),
        Change::Merge(body) => (Method::PATCH, "merge-patch+json", String::new(), body),
        Change::Replace(body) => (Method::PUT, "json", String::new(), body),
    };
    let path = format!("{}/{name}?{}{parameters}", kind.path(namespace), query(run));
    send(client, method, &path, &format!("application/{content}"), body.to_string()).await
}

/// Sends a request and reads the whole response.
pub(crate) async fn send(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> Response {
    try_send(client, method, path, content_type, body).await.unwrap()
}

/// As [`send`], and returns the error if no response came.
pub(crate) async fn try_send(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> Result<Response, kube::Error> {
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let response = client.send(request.body(Body::from(body.into())).unwrap()).await?;
    let (head, body) = response.into_parts();
    let body = body.collect_bytes().await?;
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
    Ok(Response { code: head.status.as_u16(), body, warnings: warnings(&head.headers) })
}

/// Returns the text at a path of the API server.
pub(crate) async fn text(client: &Client, path: &str) -> String {
    client.request_text(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

/// Returns the path of an object.
pub(crate) fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (version, name) = (text(&object["apiVersion"]), text(&object["metadata"]["name"]));
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}"));
    let kind = text(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("/{root}/{version}{}/{plural}/{name}", namespace.unwrap_or_default())
}

fn query(run: Run) -> &'static str {
    match run {
        Run::Dry => "dryRun=All",
        Run::Real => "",
    }
}

/// Returns the texts of `299 - "TEXT"`, in which a backslash escapes quotation marks and backslashes.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    let unquote = |text: &str| {
        let mut characters = text.chars();
        std::iter::from_fn(|| match characters.next() {
            Some('\\') => characters.next(),
            other => other,
        })
        .collect::<String>()
    };
    let texts = headers.get_all("warning").iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let quoted = |text: &str| Some(unquote(text.strip_prefix("299 - \"")?.strip_suffix('"')?));
    texts.map(|text| quoted(&text).unwrap_or(text)).collect()
}
