//! MutatingWebhookConfigurations: whether one is that of the network-resources-injector. Of any other one only the name is
//! kept, since without any of them a missing injector proves nothing.

use super::plain::Plain;
use crate::{
    api::{FieldError, cluster::MutatingWebhookConfiguration, read_object},
    k8s::Key,
};

/// A part of the injector's names in its own manifest, in that of its installer, and in the SR-IOV network operator.
const INJECTOR: &str = "network-resources-injector";

pub(super) static KIND: Plain<bool> =
    Plain { read, listing: |store| &store.mutating_webhooks, listing_mut: |store| &mut store.mutating_webhooks };

fn read(text: &str) -> Result<(Key, Option<bool>), FieldError> {
    let object: MutatingWebhookConfiguration = read_object(text)?;
    let mut names = object.webhooks.iter().flat_map(|webhook| [&webhook.name, &webhook.client_config.service.name]);
    let is_injector = object.metadata.name.contains(INJECTOR) || names.any(|name| name.contains(INJECTOR));
    Ok(((object.metadata.namespace, object.metadata.name), Some(is_injector)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_injector_is_found_by_each_of_its_names() {
        for (name, webhooks, expected) in [
            ("network-resources-injector-config", "", true),
            ("mutating-config", r#"{"name": "network-resources-injector-config.k8s.io"}"#, true),
            (
                "mutating-config",
                r#"{"clientConfig": {"service": {"name": "network-resources-injector-service"}}}"#,
                true,
            ),
            (
                "virt-api-mutator",
                r#"{"name": "virtualmachines-mutator.kubevirt.io", "clientConfig": {"url": "u"}}"#,
                false,
            ),
        ] {
            let text = format!(r#"{{"metadata": {{"name": "{name}"}}, "webhooks": [{webhooks}]}}"#);
            assert_eq!(read(&text).unwrap().1, Some(expected), "{text}");
        }
    }
}
