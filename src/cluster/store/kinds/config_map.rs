//! The ConfigMap of Multus.

use super::plain::Plain;
use crate::{
    api::{FieldError, cluster::ConfigMap, read_object},
    facts::nad::MultusConfig,
    k8s::Key,
};

/// The ConfigMap that holds the configuration of a thick Multus.
pub(crate) const MULTUS_CONFIG: &str = "multus-daemon-config";

pub(super) static KIND: Plain<MultusConfig> =
    Plain { read, listing: |store| &store.multus_configs, listing_mut: |store| &mut store.multus_configs };

fn read(text: &str) -> Result<(Key, Option<MultusConfig>), FieldError> {
    let map: ConfigMap = read_object(text)?;
    let config = (map.metadata.name == MULTUS_CONFIG).then(|| MultusConfig::read(&map));
    Ok(((map.metadata.namespace, map.metadata.name), config))
}
