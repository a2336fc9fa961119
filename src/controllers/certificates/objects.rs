//! Reads and writes the Secret and the webhook configurations.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString, ClusterResourceScope,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::Secret,
    },
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api::json_patch::{add_op, pointer, test_op},
    certificates::{
        CertificateError,
        renewal::{CaBundle, StoredCertificates},
    },
    k8s::{api_error::ApiError, patch, request::ApiClient},
};

/// The name of the writer in `managedFields`.
const FIELD_MANAGER: &str = "nicplug-certificates";

/// How long a response may take. A write that gets no response may be stored; the watch then shows it.
const TIMEOUT: Duration = Duration::from_secs(30);

const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVER: &str = "tls.crt";
const SERVER_KEY: &str = "tls.key";

/// Why a step of the renewal failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    /// The object was changed or deleted since it was read. The watch brings its new state.
    #[error("the {kind} {name:?} has changed")]
    Conflict {
        /// The kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server rejected the write, or cannot be reached.
    #[error("cannot write the {kind} {name:?}: {source}")]
    Write {
        /// The kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The reason.
        source: ApiError,
    },
    /// The certificate cannot be created.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A patch is not valid JSON; the types do not allow that.
    #[error("cannot write a patch as JSON: {0}")]
    Patch(#[from] serde_json::Error),
}

impl RenewalError {
    fn of_write(kind: &'static str, name: &str, source: ApiError) -> Self {
        let name = name.to_owned();
        if source.is_conflict() { Self::Conflict { kind, name } } else { Self::Write { kind, name, source } }
    }
}

/// Returns the certificates of a Secret.
pub(crate) fn stored(secret: &Secret) -> StoredCertificates {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|ByteString(bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    StoredCertificates {
        cas: text(AUTHORITIES),
        ca_key: text(AUTHORITY_KEY),
        server: text(SERVER),
        server_key: text(SERVER_KEY),
    }
}

/// Replaces the Secret, or creates it if `observed` is `None`. Returns a conflict if it is not as observed.
pub(crate) async fn store(
    client: &Client,
    namespace: &str,
    name: &str,
    observed: Option<&Secret>,
    stored: &StoredCertificates,
) -> Result<(), RenewalError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut secret = observed.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Secret::default()
    });
    let data = secret.data.get_or_insert_default();
    for (key, text) in [
        (AUTHORITIES, &stored.cas),
        (AUTHORITY_KEY, &stored.ca_key),
        (SERVER, &stored.server),
        (SERVER_KEY, &stored.server_key),
    ] {
        data.insert(key.to_owned(), ByteString(text.clone().into_bytes()));
    }
    let client = ApiClient::new(client.clone(), TIMEOUT);
    let written = match observed {
        // It has the resource version of the observed Secret.
        Some(_) => client.in_time(secrets.replace(name, &params, &secret)).await,
        None => client.in_time(secrets.create(&params, &secret)).await,
    };
    written.map(drop).map_err(|error| RenewalError::of_write("Secret", name, error))
}

/// The CAs that the webhooks of a configuration trust.
#[derive(Clone, Debug)]
pub(crate) struct WebhookConfiguration {
    name: String,
    version: String,
    /// The trust of each webhook, in their order.
    pub(crate) trust: Vec<CaBundle>,
}

impl WebhookConfiguration {
    fn new<'a>(metadata: ObjectMeta, clients: impl Iterator<Item = &'a WebhookClientConfig>) -> Self {
        let bundle = |client: &WebhookClientConfig| client.ca_bundle.as_ref().map(|bundle| CaBundle::of(&bundle.0));
        Self {
            name: metadata.name.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
            trust: clients.map(|client| bundle(client).unwrap_or_default()).collect(),
        }
    }
}

impl From<ValidatingWebhookConfiguration> for WebhookConfiguration {
    fn from(object: ValidatingWebhookConfiguration) -> Self {
        Self::new(object.metadata, object.webhooks.iter().flatten().map(|webhook| &webhook.client_config))
    }
}

impl From<MutatingWebhookConfiguration> for WebhookConfiguration {
    fn from(object: MutatingWebhookConfiguration) -> Self {
        Self::new(object.metadata, object.webhooks.iter().flatten().map(|webhook| &webhook.client_config))
    }
}

/// Adds the stored CAs to each `caBundle` that lacks one. Returns a conflict if the configuration has changed.
pub(crate) async fn publish<K>(
    client: &Client,
    observed: &WebhookConfiguration,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<(), RenewalError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let bundles = observed.trust.iter().map(|trust| trust.merged(stored, now)).enumerate();
    let mut operations = vec![test_op(pointer("metadata.resourceVersion", &[]), Value::from(&*observed.version))];
    for (index, bundle) in bundles {
        if let Some(bundle) = bundle {
            let path = pointer("webhooks", &[&index.to_string(), "clientConfig", "caBundle"]);
            operations.push(add_op(path, serde_json::to_value(ByteString(bundle.into_bytes()))?));
        }
    }
    if operations.len() == 1 {
        return Ok(());
    }
    let patch = patch::to_kube(operations)?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let configurations = Api::<K>::all(client.clone());
    let client = ApiClient::new(client.clone(), TIMEOUT);
    let written = client.in_time(configurations.patch(&observed.name, &params, &patch)).await;
    written.map_err(|error| RenewalError::of_write("webhook configuration", &observed.name, error))?;
    tracing::info!(kind = %K::kind(&()), name = observed.name, "the webhooks trust the CA");
    Ok(())
}
