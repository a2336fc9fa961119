//! Volumes of a guest.

use serde::Deserialize;

use crate::api::{Text, fields::fields, nullable};

/// An entry of `volumes[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `dataVolume`.
    pub data_volume: VolumeSource,
    /// `persistentVolumeClaim`.
    pub persistent_volume_claim: VolumeSource,
}

impl Volume<'_> {
    /// Whether a running guest can get it.
    #[must_use]
    pub fn is_hotpluggable(&self) -> bool {
        self.data_volume.hotpluggable || self.persistent_volume_claim.hotpluggable
    }
}

fields! {
    Volume {
        "name" => name: nullable,
        "dataVolume" => data_volume: nullable,
        "persistentVolumeClaim" => persistent_volume_claim: nullable,
    }
}

/// `volumes[].dataVolume` and `volumes[].persistentVolumeClaim`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct VolumeSource {
    /// `hotpluggable`.
    #[serde(deserialize_with = "nullable")]
    pub hotpluggable: bool,
}
