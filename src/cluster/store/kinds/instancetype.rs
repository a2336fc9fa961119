//! Instancetypes, of a namespace and of the cluster.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{FieldError, instancetype, read_object},
    facts::Instancetype,
    k8s::Key,
};

pub(super) static OF_NAMESPACE: Plain<Arc<Instancetype>> = Plain {
    read,
    listing: |store| &store.expanders.instancetypes,
    listing_mut: |store| &mut store.expanders.instancetypes,
};

pub(super) static OF_CLUSTER: Plain<Arc<Instancetype>> = Plain {
    read,
    listing: |store| &store.expanders.cluster_instancetypes,
    listing_mut: |store| &mut store.expanders.cluster_instancetypes,
};

fn read(text: &str) -> Result<(Key, Option<Arc<Instancetype>>), FieldError> {
    let object: instancetype::Instancetype = read_object(text)?;
    let kept = Arc::new(Instancetype::from(&object));
    Ok(((object.metadata.namespace, object.metadata.name), Some(kept)))
}
