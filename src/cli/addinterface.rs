//! `nicplug addinterface`: plugs a NIC into a VM.

use std::process::ExitCode;

use clap::Args;

use super::interface::{self, InterfaceArgs, Job, VmArgs};
use crate::{
    api::mac::Mac,
    hotplug::edit::{EditRequest, NewNic},
};

/// Plug a NIC into a VM: at once if it runs, otherwise at its next start.
///
/// The command writes the NIC to the VM's template, so that it stays after a restart. Before that it checks the change
/// with nicplug's rules, based on the objects that you have permission to read; it does not send a change that cannot
/// work.
///
/// For several VMs, by name or by --selector, it shows one table of what will happen, asks once, continues after an error,
/// and ends with a summary. It prints the command that undoes the change.
///
/// The exit status is 1 if a change is denied, or if --wait ends before the NIC is plugged; 2 if a VM cannot be read or
/// changed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug addinterface vm-fedora --name dyniface1 --nad new-fancy-net
  nicplug addinterface vm-fedora --name vlan7 --nad infra/vlan7 --wait
  nicplug addinterface -l app=web --name vlan7 --nad infra/vlan7 --migrate \\
    --max-migrations 2")]
pub(super) struct AddInterfaceArgs {
    #[command(flatten)]
    vms: VmArgs,

    /// Name of the NetworkAttachmentDefinition; NAMESPACE/NAME if it is in another namespace than the VM.
    #[arg(long, visible_alias = "nad", value_name = "NAME")]
    network_attachment_definition_name: String,

    /// Name of the NIC in the VM.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Accepted for scripts that call virtctl, without effect: the NIC always stays after a restart.
    #[arg(long)]
    persist: bool,

    /// MAC address of the NIC [default: KubeVirt chooses one].
    #[arg(long, value_name = "MAC")]
    mac: Option<Mac>,

    /// Bind the NIC by SR-IOV instead of a bridge; KubeVirt plugs it by a live migration.
    #[arg(long)]
    sriov: bool,

    #[command(flatten)]
    interface: InterfaceArgs,
}

impl AddInterfaceArgs {
    /// Plugs the NIC.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { vms, network_attachment_definition_name: network_name, name, persist: _, mac, sriov, interface } =
            self;
        let request = EditRequest::Add(NewNic { name, network_name, mac, is_sriov: sriov });
        interface::run(&vms, &Job { request, ignores_missing: false }, &interface)
    }
}
