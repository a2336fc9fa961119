//! What is known of a running guest.

use crate::api::vm::{Phase, VirtualMachineInstance};

/// A VirtualMachineInstance, reduced to what rules ask of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// `status.phase`.
    pub phase: Phase<'static>,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// Names of `spec.domain.devices.interfaces[]`.
    pub nics: Vec<String>,
}

impl Instance {
    /// Whether the guest can still change: it is neither being deleted nor in a final phase.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.is_deleting && !matches!(self.phase, Phase::Final(_))
    }

    /// Whether the guest has a NIC of the name.
    #[must_use]
    pub fn has_nic(&self, name: &str) -> bool {
        self.nics.iter().any(|nic| nic == name)
    }
}

impl From<&VirtualMachineInstance<'_>> for Instance {
    fn from(vmi: &VirtualMachineInstance) -> Self {
        Self {
            phase: vmi.status.phase.to_owned_phase(),
            is_deleting: vmi.metadata.deletion_timestamp.is_some(),
            nics: vmi.spec.interfaces().iter().map(|interface| interface.name.to_string()).collect(),
        }
    }
}
