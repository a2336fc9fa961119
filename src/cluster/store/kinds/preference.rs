//! Preferences, of a namespace and of the cluster.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{FieldError, instancetype, read_object},
    facts::Preference,
    k8s::Key,
};

pub(super) static OF_NAMESPACE: Plain<Arc<Preference>> = Plain {
    read,
    listing: |store| &store.expanders.preferences,
    listing_mut: |store| &mut store.expanders.preferences,
};

pub(super) static OF_CLUSTER: Plain<Arc<Preference>> = Plain {
    read,
    listing: |store| &store.expanders.cluster_preferences,
    listing_mut: |store| &mut store.expanders.cluster_preferences,
};

fn read(text: &str) -> Result<(Key, Option<Arc<Preference>>), FieldError> {
    let object: instancetype::Preference = read_object(text)?;
    let kept = Arc::new(Preference::from(&object));
    Ok(((object.metadata.namespace, object.metadata.name), Some(kept)))
}
