//! `nicplug removeinterface`: one NIC less.

use std::process::ExitCode;

use clap::Args;

use super::interface::{self, InterfaceArgs};
use crate::hotplug::edit::EditRequest;

/// Unplug a NIC from a VM: now if it runs, at its next start if not.
///
/// In a running VM's template the NIC is set to state absent, and KubeVirt unplugs it; from the template of one that
/// does not run it is dropped. The change is judged first, as by addinterface.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  nicplug removeinterface vm-fedora --name dyniface1 --wait")]
pub(super) struct RemoveInterfaceArgs {
    /// The VirtualMachine.
    #[arg(value_name = "VM")]
    vm: String,

    /// What the NIC is called in the VM.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Accepted for old scripts: what is written into the template stays anyway.
    #[arg(long)]
    persist: bool,

    #[command(flatten)]
    interface: InterfaceArgs,
}

impl RemoveInterfaceArgs {
    /// Unplugs it.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { vm, name, persist: _, interface } = self;
        interface::run(&vm, &EditRequest::Remove(name), &interface)
    }
}
