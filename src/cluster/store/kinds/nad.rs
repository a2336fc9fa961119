//! NetworkAttachmentDefinitions.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{FieldError, cluster::NetworkAttachmentDefinition, read_object},
    cluster::store::ovn_conflicts::OvnConflicts,
    facts::Nad,
    k8s::Key,
};

pub(super) static KIND: Plain<Arc<Nad>, OvnConflicts> =
    Plain { read, listing: |store| &store.nads, listing_mut: |store| &mut store.nads };

fn read(text: &str) -> Result<(Key, Option<Arc<Nad>>), FieldError> {
    let nad: NetworkAttachmentDefinition = read_object(text)?;
    let key = (nad.metadata.namespace.clone(), nad.metadata.name.clone());
    Ok((key, Some(Arc::new(Nad::from(nad)))))
}
