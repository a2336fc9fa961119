//! ResourceQuotas that limit the pods of every guest in their namespace.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{FieldError, cluster::ResourceQuota, read_object},
    facts::Quota,
    k8s::Key,
};

pub(super) static KIND: Plain<Arc<Quota>> =
    Plain { read, listing: |store| &store.quotas, listing_mut: |store| &mut store.quotas };

fn read(text: &str) -> Result<(Key, Option<Arc<Quota>>), FieldError> {
    let object: ResourceQuota = read_object(text)?;
    let quota = Quota::of(&object).map(Arc::new);
    Ok(((object.metadata.namespace, object.metadata.name), quota))
}
