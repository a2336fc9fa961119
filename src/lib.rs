//! nicplug judges the network interfaces of KubeVirt virtual machines at admission.

pub mod api;
pub mod change;
pub mod kubevirt;
