//! Lists and watches the objects of one kind.

use std::time::Duration;

use futures_util::AsyncBufReadExt;
use kube::{
    Client,
    core::params::{ListParams, WatchParams},
};
use tokio::time::timeout;

use super::{Event, Tuning};
use crate::{
    cluster::store::kinds::MULTUS_CONFIG,
    k8s::{
        api_error::ApiError,
        backoff::shortened,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath, Pages, ResponseBody},
    },
};

/// Lists and watches the objects of one kind.
pub(super) struct ListWatch {
    client: ApiClient,
    path: ObjectPath,
    tuning: Tuning,
}

impl ListWatch {
    pub(super) fn new(client: Client, kind: Kind, tuning: &Tuning) -> Self {
        let client = ApiClient::new(client, tuning.request_timeout);
        Self { client, path: ObjectPath::all(kind, ""), tuning: tuning.clone() }
    }

    /// Lists all objects, page by page.
    pub(super) fn list(&self) -> Pages<'_> {
        let params = ListParams {
            field_selector: self.field_selector(),
            limit: Some(self.tuning.page),
            ..ListParams::default()
        };
        self.client.list(&self.path, params, self.fields())
    }

    /// Reads the resource version that the API server has now, by a list of one object.
    pub(super) async fn current_version(&self) -> Result<Option<String>, ApiError> {
        let params = ListParams { field_selector: self.field_selector(), limit: Some(1), ..ListParams::default() };
        let mut pages = self.client.list(&self.path, params, Fields::Metadata);
        pages.next().await?;
        Ok(pages.resource_version())
    }

    /// Watches all objects from a resource version on.
    pub(super) async fn watch(&self, resource_version: &str) -> Result<EventStream, ApiError> {
        let params = WatchParams {
            field_selector: self.field_selector(),
            timeout: Some(self.watch_seconds()),
            bookmarks: true,
            ..WatchParams::default()
        };
        let body = self.client.watch(&self.path, &params, resource_version, self.fields()).await?;
        let (idle_timeout, start) = (self.tuning.idle_timeout, resource_version.to_owned());
        Ok(EventStream { body, idle_timeout, start, line: Vec::new(), next: Vec::new(), was_cut: false })
    }

    /// Returns how long the API server is asked to keep a watch open.
    fn watch_seconds(&self) -> u32 {
        let duration = shortened(self.tuning.watch);
        u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
    }

    /// Only the ConfigMap of Multus is read, so that a role can name it in its resourceNames.
    fn field_selector(&self) -> Option<String> {
        (self.path.kind == Kind::ConfigMap).then(|| format!("metadata.name={MULTUS_CONFIG}"))
    }

    /// Only the annotations of a namespace are read.
    fn fields(&self) -> Fields {
        match self.path.kind {
            Kind::Namespace => Fields::Metadata,
            _ => Fields::All,
        }
    }
}

/// The events of a watch, as they arrive: each is one line of JSON text.
pub(super) struct EventStream {
    body: ResponseBody,
    idle_timeout: Duration,
    /// The resource version that the watch began with.
    start: String,
    /// The last event, and the part of the next one that has arrived.
    line: Vec<u8>,
    next: Vec<u8>,
    was_cut: bool,
}

impl EventStream {
    /// Waits for the next event; `None` when the watch has ended, or when nothing came for the idle timeout.
    pub(super) async fn next(&mut self) -> Result<Option<Event<'_>>, ApiError> {
        self.next.clear();
        match timeout(self.idle_timeout, self.body.read_until(b'\n', &mut self.next)).await {
            Ok(Ok(_)) if self.next.ends_with(b"\n") => {}
            // An end in the middle of a line means a lost connection; the next request reports why.
            Ok(Ok(_)) => {
                self.was_cut = !self.next.is_empty();
                return Ok(None);
            }
            Err(_) => {
                self.was_cut = true;
                return Ok(None);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a watch lost its connection");
                self.was_cut = true;
                return Ok(None);
            }
        }
        match read(&self.next) {
            Some(Event::Error(status)) => return Err(ApiError::from(&*status)),
            Some(_) => {}
            None => return Err(ApiError::Unreadable("a line of the watch is not an event".to_owned())),
        }
        std::mem::swap(&mut self.line, &mut self.next);
        Ok(read(&self.line))
    }

    /// Whether the watch ended because its connection was lost or silent, and not because the API server ended it.
    pub(super) fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// Returns the resource version of the last event; `None` if that is unknown. It is read here and not from each
    /// event: once for thousands of them.
    pub(super) fn resource_version(&self) -> Option<String> {
        if self.line.is_empty() { Some(self.start.clone()) } else { read(&self.line)?.resource_version() }
    }
}

fn read(line: &[u8]) -> Option<Event<'_>> {
    Event::read(str::from_utf8(line).ok()?.trim_ascii_end())
}
