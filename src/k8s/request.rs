//! Requests to the API server: their URLs, how long a response may take, and the pages of a list.
//!
//! An object stays JSON text: its reader takes the few fields that it needs, and `managedFields`, half of most objects,
//! are never built.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use futures_util::{AsyncBufRead, AsyncBufReadExt};
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use json_patch::PatchOperation;
use kube::{
    Client,
    core::{
        Request,
        params::{GetParams, ListParams, PatchParams, WatchParams},
    },
};
use tokio::time::{Instant, timeout_at};

use super::{
    api_error::ApiError,
    kind::Kind,
    list_reader::{ListMetadata, ListReader},
    patch,
};

/// The longest name that an object can have: a DNS subdomain.
const LONGEST_NAME: usize = 253;

/// One object, or all objects of a kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectPath {
    /// The kind.
    pub kind: Kind,
    /// Empty for all namespaces, and for a kind without namespaces.
    pub namespace: String,
    /// `None` for all objects.
    pub name: Option<String>,
}

impl ObjectPath {
    /// One object.
    pub(crate) fn one(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: Some(name.to_owned()) }
    }

    /// All objects of a kind in a namespace; in all namespaces if it is empty.
    pub(crate) fn all(kind: Kind, namespace: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: None }
    }

    /// Whether an object can have this name and namespace. Both come from the client of a review and become parts of a
    /// URL.
    pub(crate) fn is_valid(&self) -> bool {
        let namespace = self.namespace.as_str();
        (namespace.is_empty() || is_valid_name(namespace)) && self.name.as_deref().is_none_or(is_valid_name)
    }

    /// Empty for all objects.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Builds requests for the collection that the object is in.
    fn collection(&self) -> Request {
        collection(self.kind.group(), self.kind.version(), self.kind.plural(), &self.namespace)
    }
}

/// Builds requests for all objects of a resource; in all namespaces if `namespace` is empty.
pub(super) fn collection(group: &str, version: &str, plural: &str, namespace: &str) -> Request {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        "" => Request::new(format!("{root}/{plural}")),
        namespace => Request::new(format!("{root}/namespaces/{namespace}/{plural}")),
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.kind();
        match (self.namespace.as_str(), &self.name) {
            ("", None) => write!(formatter, "{kind}s"),
            (namespace, None) => write!(formatter, "{kind}s of namespace {namespace:?}"),
            ("", Some(name)) => write!(formatter, "{kind} {name:?}"),
            (namespace, Some(name)) => write!(formatter, "{kind} {:?}", format!("{namespace}/{name}")),
        }
    }
}

/// Whether an object, or a namespace, can have this name.
#[must_use]
pub fn is_valid_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= LONGEST_NAME
        && bytes.iter().copied().all(is_inner)
        && is_end(bytes.first().copied())
        && is_end(bytes.last().copied())
}

/// Which fields of listed and watched objects the API server sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fields {
    /// All.
    All,
    /// Only the metadata, as `PartialObjectMetadata`.
    Metadata,
}

/// A client of the API server that limits the time for a response.
#[derive(Clone)]
pub(crate) struct ApiClient {
    client: Client,
    timeout: Duration,
    /// When all requests of this client must have ended; `None` if each has `timeout` for itself.
    deadline: Option<Instant>,
}

impl ApiClient {
    /// A client that gives each request `timeout`.
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, deadline: None }
    }

    /// A client that gives all its requests together `timeout`, counted from now.
    pub(crate) fn with_deadline(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, deadline: Some(Instant::now() + timeout) }
    }

    /// Reads one object.
    pub(crate) async fn get(&self, path: &ObjectPath) -> Result<String, ApiError> {
        self.text(path.collection().get(path.name(), &GetParams::default())?).await
    }

    /// Lists objects page by page; `params.limit` is the size of a page.
    pub(crate) fn list(&self, path: &ObjectPath, params: ListParams, fields: Fields) -> Pages<'_> {
        Pages { fields, ..self.pages(path.collection(), params) }
    }

    /// Lists objects of the core group that no watch reads, such as `pods`; in all namespaces if `namespace` is empty.
    pub(crate) fn list_core(&self, plural: &str, namespace: &str, params: ListParams) -> Pages<'_> {
        self.pages(collection("", "v1", plural, namespace), params)
    }

    /// Returns the pages of a collection, with all fields of its objects.
    pub(super) fn pages(&self, collection: Request, params: ListParams) -> Pages<'_> {
        let fields = Fields::All;
        Pages { client: self, collection, fields, params, is_last: false, resource_version: String::new() }
    }

    /// Watches objects from a resource version on; each line of the stream is an event.
    pub(crate) async fn watch(
        &self,
        path: &ObjectPath,
        params: &WatchParams,
        resource_version: &str,
        fields: Fields,
    ) -> Result<ResponseBody, ApiError> {
        let collection = path.collection();
        let mut request = match fields {
            Fields::All => collection.watch(params, resource_version),
            Fields::Metadata => collection.watch_metadata(params, resource_version),
        }?;
        // A compressed stream would hold events back until a block is full.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let stream = self.in_time(self.client.request_stream(request)).await?;
        Ok(Box::pin(stream))
    }

    /// Applies a JSON patch to an object, or to one of its subresources.
    pub(crate) async fn patch(
        &self,
        path: &ObjectPath,
        subresource: Option<&str>,
        field_manager: &str,
        operations: Vec<PatchOperation>,
    ) -> Result<(), ApiError> {
        let body = patch::to_kube(operations).map_err(|error| ApiError::Refused(error.to_string()))?;
        let (collection, params) = (path.collection(), PatchParams::apply(field_manager));
        let request = match subresource {
            Some(subresource) => collection.patch_subresource(subresource, path.name(), &params, &body),
            None => collection.patch(path.name(), &params, &body),
        }?;
        self.text(request).await.map(drop)
    }

    /// Sends a request and returns the body of the response.
    pub(super) async fn text(&self, request: hyper::Request<Vec<u8>>) -> Result<String, ApiError> {
        self.in_time(Box::pin(self.client.request_text(request))).await
    }

    /// Sends a request and reads the list in the response.
    async fn read_list(
        &self,
        request: hyper::Request<Vec<u8>>,
        mut take: impl FnMut(&str),
    ) -> Result<ListMetadata, ApiError> {
        let read = async {
            let mut body: ResponseBody = Box::pin(self.client.request_stream(request).await?);
            let mut list = ListReader::default();
            loop {
                let bytes = body.fill_buf().await?;
                let length = bytes.len();
                if length == 0 {
                    return list.finish(&mut take);
                }
                list.read(bytes, &mut take)?;
                body.as_mut().consume(length);
            }
        };
        self.in_time(Box::pin(read)).await
    }

    /// Waits for a response until the time limit.
    pub(crate) async fn in_time<T, E: Into<ApiError>>(
        &self,
        response: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ApiError> {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + self.timeout);
        match timeout_at(deadline, response).await {
            Ok(response) => response.map_err(E::into),
            Err(_) => Err(ApiError::TimedOut(self.timeout)),
        }
    }
}

/// The body of a response, as it arrives.
pub(crate) type ResponseBody = Pin<Box<dyn AsyncBufRead + Send>>;

/// The pages of a list.
pub(crate) struct Pages<'c> {
    client: &'c ApiClient,
    collection: Request,
    fields: Fields,
    /// The parameters of the next page.
    params: ListParams,
    is_last: bool,
    resource_version: String,
}

impl Pages<'_> {
    /// Reads the next page and returns the JSON text of each object; `None` after the last page.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>, ApiError> {
        let mut objects = Vec::new();
        let has_page = self.read_next(|text| objects.push(text.to_owned())).await?;
        Ok(has_page.then_some(objects))
    }

    /// Reads the next page and calls `take` with the JSON text of each object as it arrives; false after the last page.
    /// An error may come after the first objects.
    pub(crate) async fn read_next(&mut self, take: impl FnMut(&str)) -> Result<bool, ApiError> {
        if self.is_last {
            return Ok(false);
        }
        // An error ends the list.
        self.is_last = true;
        let request = match self.fields {
            Fields::All => self.collection.list(&self.params),
            Fields::Metadata => self.collection.list_metadata(&self.params),
        }?;
        let ListMetadata { resource_version, next } = self.client.read_list(request, take).await?;
        self.resource_version = resource_version;
        if !next.is_empty() {
            self.params.continue_token = Some(next);
            self.is_last = false;
        }
        Ok(true)
    }

    /// Reads all pages and returns the JSON text of each object.
    pub(crate) async fn objects(mut self) -> Result<Vec<String>, ApiError> {
        let mut objects = Vec::new();
        while self.read_next(|text| objects.push(text.to_owned())).await? {}
        Ok(objects)
    }

    /// Returns the resource version from which to watch, after the last page.
    pub(crate) fn resource_version(self) -> Option<String> {
        Some(self.resource_version).filter(|version| !version.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_name_is_one_that_the_api_server_accepts() {
        for (name, is_valid) in
            [("a", true), ("a-b.c0", true), ("", false), ("-a", false), ("a.", false), ("A", false), ("a/b", false)]
        {
            assert_eq!(is_valid_name(name), is_valid, "{name:?}");
        }
        assert!(is_valid_name(&"a".repeat(253)) && !is_valid_name(&"a".repeat(254)));
    }

    #[test]
    fn a_path_names_its_objects_and_their_collection() {
        for (path, text, url) in [
            (ObjectPath::all(Kind::Node, ""), "Nodes", "/api/v1/nodes?"),
            (
                ObjectPath::all(Kind::Nad, "demo"),
                "NetworkAttachmentDefinitions of namespace \"demo\"",
                "/apis/k8s.cni.cncf.io/v1/namespaces/demo/network-attachment-definitions?",
            ),
            (
                ObjectPath::one(Kind::Vm, "demo", "vm"),
                "VirtualMachine \"demo/vm\"",
                "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines?",
            ),
        ] {
            let request = path.collection().list(&ListParams::default()).unwrap();
            assert_eq!((path.to_string().as_str(), request.uri().to_string().as_str()), (text, url));
        }
        assert!(!ObjectPath::one(Kind::Vm, "demo", "../secrets").is_valid());
    }
}
