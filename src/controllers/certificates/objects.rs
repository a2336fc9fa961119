//! The Secret and the webhook configurations: what is read of them, and how they are written.

use std::{fmt::Debug, time::SystemTime};

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
    k8s::patch::{self, is_failed_test},
};

/// Who the API server notes as the writer of what is written here.
const FIELD_MANAGER: &str = "nicplug-certificates";

const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVER: &str = "tls.crt";
const SERVER_KEY: &str = "tls.key";

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The API server refuses it, or cannot be reached.
    #[error("{what} {name:?} cannot be written: {source}")]
    Api {
        /// The kind.
        what: &'static str,
        /// The name.
        name: String,
        /// What the API server says.
        source: Box<kube::Error>,
    },
    /// The object is not what it was when it was read.
    #[error("somebody else was faster")]
    Conflict,
    /// There is no certificate to write.
    #[error(transparent)]
    Make(#[from] CertificateError),
    /// A patch is no JSON: never in practice.
    #[error("a patch cannot be written down: {0}")]
    Patch(#[from] serde_json::Error),
}

impl Trouble {
    fn of(what: &'static str, name: &str, error: kube::Error) -> Self {
        match &error {
            // 404: it was deleted. 422: the patch says which version it is for. 409: the object does.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) || is_failed_test(status) => Self::Conflict,
            _ => Self::Api { what, name: name.to_owned(), source: Box::new(error) },
        }
    }
}

/// What a Secret holds.
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

/// Writes the Secret, or makes it; a conflict where it is not what `seen` says.
pub(crate) async fn store(
    client: &Client,
    namespace: &str,
    name: &str,
    seen: Option<&Secret>,
    stored: &StoredCertificates,
) -> Result<(), Trouble> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut secret = seen.cloned().unwrap_or_else(|| Secret {
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
    let written = match seen {
        // It has the version that was seen.
        Some(_) => secrets.replace(name, &params, &secret).await,
        None => secrets.create(&params, &secret).await,
    };
    written.map(|_| ()).map_err(|error| Trouble::of("the Secret", name, error))
}

/// A webhook configuration, as far as it says whom its webhooks trust.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    name: String,
    version: String,
    /// Of each webhook, in their order.
    pub(crate) trust: Vec<CaBundle>,
}

impl Configuration {
    fn new<'a>(metadata: ObjectMeta, clients: impl Iterator<Item = &'a WebhookClientConfig>) -> Self {
        let bundle = |client: &WebhookClientConfig| client.ca_bundle.as_ref().map(|bundle| CaBundle::of(&bundle.0));
        Self {
            name: metadata.name.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
            trust: clients.map(|client| bundle(client).unwrap_or_default()).collect(),
        }
    }
}

impl From<ValidatingWebhookConfiguration> for Configuration {
    fn from(object: ValidatingWebhookConfiguration) -> Self {
        Self::new(object.metadata, object.webhooks.iter().flatten().map(|webhook| &webhook.client_config))
    }
}

impl From<MutatingWebhookConfiguration> for Configuration {
    fn from(object: MutatingWebhookConfiguration) -> Self {
        Self::new(object.metadata, object.webhooks.iter().flatten().map(|webhook| &webhook.client_config))
    }
}

/// Adds the stored authorities to each `caBundle` that lacks one; a conflict where the configuration has changed.
pub(crate) async fn publish<K>(
    client: &Client,
    seen: &Configuration,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<(), Trouble>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let bundles = seen.trust.iter().map(|trust| trust.merged(stored, now)).enumerate();
    let mut operations = vec![test_op(pointer("metadata.resourceVersion", &[]), Value::from(&*seen.version))];
    for (place, bundle) in bundles {
        if let Some(bundle) = bundle {
            let path = pointer("webhooks", &[&place.to_string(), "clientConfig", "caBundle"]);
            operations.push(add_op(path, serde_json::to_value(ByteString(bundle.into_bytes()))?));
        }
    }
    if operations.len() == 1 {
        return Ok(());
    }
    let patch = patch::to_send(operations)?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = Api::<K>::all(client.clone()).patch(&seen.name, &params, &patch).await;
    written.map_err(|error| Trouble::of("the webhook configuration", &seen.name, error))?;
    tracing::info!(kind = %K::kind(&()), name = seen.name, "the webhooks trust the certificate authority");
    Ok(())
}
