//! The guest: `spec` of a VirtualMachineInstance, `spec.template.spec` of a VirtualMachine (KubeVirt v1.9).

use std::collections::HashMap;

use serde::Deserialize;

use super::{
    Lazy, Text,
    network::{Interface, Network},
    nullable, object, objects,
};

/// The part of a `VirtualMachineInstanceSpec` that the rules read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct GuestSpec<'a> {
    /// `domain`: the virtual machine proper.
    #[serde(borrow, deserialize_with = "object")]
    pub domain: Domain<'a>,
    /// `networks[]`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub networks: Vec<Network<'a>>,
    /// `resourceClaims[]`: claims that DRA networks refer to.
    #[serde(borrow, deserialize_with = "objects")]
    pub resource_claims: Vec<ResourceClaim<'a>>,
}

impl<'a> GuestSpec<'a> {
    /// `domain.devices.interfaces[]`.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface<'a>] {
        &self.domain.devices.interfaces
    }

    /// `networks[]` by name; of two with one name the last one counts, as in KubeVirt.
    #[must_use]
    pub fn networks_by_name(&self) -> HashMap<&str, &Network<'a>> {
        self.networks.iter().map(|network| (network.name.as_str(), network)).collect()
    }
}

/// `domain`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Domain<'a> {
    /// `domain.cpu`.
    #[serde(borrow)]
    pub cpu: Lazy<'a, Cpu>,
    /// `domain.devices`.
    #[serde(borrow, deserialize_with = "object")]
    pub devices: Devices<'a>,
}

/// `domain.cpu`: the vCPUs at boot are the product of the three, each of which is 1 unless set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Cpu {
    /// `cores`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub cores: u32,
    /// `sockets`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub sockets: u32,
    /// `threads`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub threads: u32,
}

/// `domain.devices`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Devices<'a> {
    /// `domain.devices.interfaces[]`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub interfaces: Vec<Interface<'a>>,
    /// `networkInterfaceMultiqueue`: unset means false.
    pub network_interface_multiqueue: Option<bool>,
}

/// `resourceClaims[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ResourceClaim<'a> {
    /// The name that a network's `resourceClaim.claimName` refers to.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
}
