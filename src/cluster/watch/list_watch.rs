//! What the API server says of one kind: pages of a list, the events of a watch, single objects.
//!
//! An object stays JSON text: whoever takes it in reads the few fields that it needs, and `managedFields`, half of
//! most objects, are never built.

use std::{fmt, pin::Pin, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt};
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use kube::{
    Client, Error,
    core::{
        Request, Status,
        params::{GetParams, ListParams, WatchParams},
    },
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Event, Tuning, WatchError};
use crate::{
    api::{JsonText, Text, nullable, object, read_object},
    cluster::store::projection::MULTUS_CONFIG,
    k8s::{Key, backoff::shortened, kind::Kind},
};

/// Why there is nothing, or nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The API server cannot be reached, or cannot answer.
    #[error("{0}")]
    Away(String),
    /// The place in the history to go on from is gone.
    #[error("the history is gone")]
    Expired,
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotInstalled(String),
}

impl Trouble {
    pub(super) fn mishap(&self) -> WatchError {
        match self {
            Self::Away(_) => WatchError::Away,
            Self::Expired => WatchError::Expired,
            Self::Forbidden(_) => WatchError::Forbidden,
            Self::NotInstalled(_) => WatchError::NotInstalled,
        }
    }

    fn away(why: impl fmt::Display) -> Self {
        Self::Away(why.to_string())
    }

    fn no_answer(request_timeout: Duration) -> Self {
        Self::Away(format!("no answer within {request_timeout:?}"))
    }

    fn of_status(status: &Status) -> Self {
        match status.code {
            403 => Self::Forbidden(status.message.clone()),
            404 => Self::NotInstalled(status.message.clone()),
            410 => Self::Expired,
            code => Self::Away(format!("the API server answered {code}: {}", status.message)),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(status) => Self::of_status(&status),
            error => Self::Away(causes(&error)),
        }
    }
}

impl From<kube::core::request::Error> for Trouble {
    fn from(error: kube::core::request::Error) -> Self {
        Self::away(error)
    }
}

/// An error with its causes, each of which says more than the one before: "connection refused" comes last.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The objects of one kind, and what happens to them.
pub(super) struct Source {
    client: Client,
    kind: Kind,
    request: Request,
    tuning: Tuning,
}

impl Source {
    pub(super) fn new(client: Client, kind: Kind, tuning: &Tuning) -> Self {
        Self { client, kind, request: Request::new(path(kind, "")), tuning: tuning.clone() }
    }

    /// All objects, a page at a time, as they are now.
    pub(super) fn list(&self) -> Pages<'_> {
        Pages { source: self, next: Next::First, version: String::new() }
    }

    async fn page(&self, next: Option<String>) -> Result<String, Trouble> {
        let params = ListParams {
            field_selector: self.fields(),
            limit: Some(self.tuning.page),
            continue_token: next,
            ..ListParams::default()
        };
        let request =
            if self.is_of_metadata() { self.request.list_metadata(&params) } else { self.request.list(&params) };
        let request_timeout = self.tuning.request_timeout;
        let text = timeout(request_timeout, self.client.request_text(request?)).await;
        Ok(text.map_err(|_| Trouble::no_answer(request_timeout))??)
    }

    /// What happens from a place in the history on.
    pub(super) async fn watch(&self, version: &str) -> Result<Events, Trouble> {
        let params = WatchParams {
            field_selector: self.fields(),
            timeout: Some(self.seconds()),
            bookmarks: true,
            ..WatchParams::default()
        };
        let mut request = if self.is_of_metadata() {
            self.request.watch_metadata(&params, version)
        } else {
            self.request.watch(&params, version)
        }?;
        // An event is of use when it comes, and not when a block of compressed ones is full.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request_timeout = self.tuning.request_timeout;
        let stream = timeout(request_timeout, self.client.request_stream(request)).await;
        let stream = Box::pin(stream.map_err(|_| Trouble::no_answer(request_timeout))??);
        let (idle_timeout, start) = (self.tuning.idle_timeout, version.to_owned());
        Ok(Events { stream, idle_timeout, start, line: Vec::new(), next: Vec::new() })
    }

    /// How long the API server is asked to keep a watch open.
    fn seconds(&self) -> u32 {
        let span = shortened(self.tuning.watch);
        u32::try_from(span.as_secs()).unwrap_or(u32::MAX).max(1)
    }

    /// Of ConfigMaps the one that configures Multus; a role can be as narrow by its resourceNames.
    fn fields(&self) -> Option<String> {
        (self.kind == Kind::ConfigMap).then(|| format!("metadata.name={MULTUS_CONFIG}"))
    }

    /// Of a node the labels are read, and its status is many times larger; of a namespace the annotations.
    fn is_of_metadata(&self) -> bool {
        matches!(self.kind, Kind::Namespace | Kind::Node)
    }
}

/// Reads one object; `None` when it is not there.
pub(super) async fn get(
    client: &Client,
    kind: Kind,
    (namespace, name): &Key,
    request_timeout: Duration,
) -> Result<Option<String>, Trouble> {
    let request = Request::new(path(kind, namespace)).get(name, &GetParams::default())?;
    match timeout(request_timeout, client.request_text(request)).await {
        Ok(Ok(text)) => Ok(Some(text)),
        Ok(Err(Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Trouble::no_answer(request_timeout)),
    }
}

fn path(kind: Kind, namespace: &str) -> String {
    let root = match kind.group() {
        "" => format!("/api/{}", kind.version()),
        group => format!("/apis/{group}/{}", kind.version()),
    };
    match namespace {
        "" => format!("{root}/{}", kind.plural()),
        namespace => format!("{root}/namespaces/{namespace}/{}", kind.plural()),
    }
}

/// The pages of a list.
pub(super) struct Pages<'s> {
    source: &'s Source,
    next: Next,
    version: String,
}

/// The page to come.
enum Next {
    First,
    /// The one of a token that the last one brought.
    Token(String),
    None,
}

impl Pages<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Page>, Trouble> {
        let token = match std::mem::replace(&mut self.next, Next::None) {
            Next::First => None,
            Next::Token(token) => Some(token),
            Next::None => return Ok(None),
        };
        let page = Page(self.source.page(token).await?);
        let ListMeta { resource_version, next } = page.read()?.metadata;
        self.version = resource_version.to_string();
        if !next.is_empty() {
            self.next = Next::Token(next.to_string());
        }
        Ok(Some(page))
    }

    /// Where to watch from, after the last page.
    pub(super) fn position(self) -> Option<String> {
        Some(self.version).filter(|version| !version.is_empty())
    }
}

/// One page of a list, as JSON text.
pub(super) struct Page(String);

#[derive(Default, Deserialize)]
#[serde(default)]
struct List<'a> {
    #[serde(borrow, deserialize_with = "object")]
    metadata: ListMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    items: Vec<JsonText<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    resource_version: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable", rename = "continue")]
    next: Text<'a>,
}

impl Page {
    /// Hands on the JSON text of each object.
    pub(super) fn for_each(&self, mut take: impl FnMut(&str)) -> Result<(), Trouble> {
        for item in self.read()?.items {
            take(item.as_str());
        }
        Ok(())
    }

    fn read(&self) -> Result<List<'_>, Trouble> {
        read_object(&self.0).map_err(|error| Trouble::Away(format!("the list is none: {}", error.message)))
    }
}

/// What happens, as it happens: one line of JSON text after the other.
pub(super) struct Events {
    stream: Pin<Box<dyn AsyncBufRead + Send>>,
    idle_timeout: Duration,
    /// Where the watch began.
    start: String,
    /// The last event, and whatever has come of the next one.
    line: Vec<u8>,
    next: Vec<u8>,
}

impl Events {
    /// Waits for the next event; `None` when the watch has ended, or says nothing for so long that it must be dead.
    pub(super) async fn next(&mut self) -> Result<Option<Event<'_>>, Trouble> {
        self.next.clear();
        match timeout(self.idle_timeout, self.stream.read_until(b'\n', &mut self.next)).await {
            Ok(Ok(_)) if self.next.ends_with(b"\n") => {}
            // An end in the middle of a line is the end of the connection, of which more is known at the next try.
            Ok(Ok(_)) | Err(_) => return Ok(None),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a watch was broken off");
                return Ok(None);
            }
        }
        match read(&self.next) {
            Some(Event::Error(status)) => return Err(Trouble::of_status(&status)),
            Some(_) => {}
            None => return Err(Trouble::away("an event of the watch is none")),
        }
        std::mem::swap(&mut self.line, &mut self.next);
        Ok(read(&self.line))
    }

    /// The place in the history that the watch has come to, `None` where that is lost. It is read here and not from
    /// each event: once for thousands of them.
    pub(super) fn position(&self) -> Option<String> {
        if self.line.is_empty() { Some(self.start.clone()) } else { read(&self.line)?.version() }
    }
}

fn read(line: &[u8]) -> Option<Event<'_>> {
    Event::read(str::from_utf8(line).ok()?.trim_ascii_end())
}
