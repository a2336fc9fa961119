//! `nicplug removeinterface`: unplugs a NIC from a VM.

use std::process::ExitCode;

use clap::Args;

use super::interface::{self, InterfaceArgs, Job, VmArgs};
use crate::hotplug::edit::EditRequest;

/// Unplug a NIC from a VM.
///
/// If the VM runs, the command sets the state of the NIC to absent in the VM's template, and KubeVirt unplugs it. If
/// the VM does not run, the command deletes the NIC from the template. Like addinterface, it checks the change first, and
/// takes several VMs.
///
/// The exit status is 1 if a change is denied, if a VM has no NIC with this name, or if --wait ends before the NIC is
/// unplugged; 2 if a VM cannot be read or changed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug removeinterface vm-fedora --name dyniface1 --wait
  nicplug removeinterface -l app=web --name vlan7 --ignore-not-found --yes")]
pub(super) struct RemoveInterfaceArgs {
    #[command(flatten)]
    vms: VmArgs,

    /// Name of the NIC in the VM.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Accepted for scripts that call virtctl, without effect: the change always stays after a restart.
    #[arg(long)]
    persist: bool,

    /// Succeed if the VM has no NIC with this name.
    #[arg(long)]
    ignore_not_found: bool,

    #[command(flatten)]
    interface: InterfaceArgs,
}

impl RemoveInterfaceArgs {
    /// Unplugs the NIC.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { vms, name, persist: _, ignore_not_found, interface } = self;
        let job = Job { request: EditRequest::Remove(name), ignores_missing: ignore_not_found };
        interface::run(&vms, &job, &interface)
    }
}
