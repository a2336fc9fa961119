//! `nicplug addinterface`: one NIC more.

use std::process::ExitCode;

use clap::Args;

use super::interface::{self, InterfaceArgs};
use crate::{
    api::mac::Mac,
    hotplug::edit::{EditRequest, NewNic},
};

/// Plug a NIC into a VM: now if it runs, at its next start if not.
///
/// The NIC is written into the VM's template, so it is there after a restart too. Before anything is asked of the
/// cluster the change is judged by nicplug's rules, with what can be read of the cluster; a change that cannot work is
/// not sent. The exit status is 1 when it is refused, or when --wait ends before the NIC has arrived.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug addinterface vm-fedora --name dyniface1 \\
    --network-attachment-definition-name new-fancy-net
  nicplug addinterface vm-fedora --name vlan7 --wait=2m \\
    --network-attachment-definition-name infra/vlan7")]
pub(super) struct AddInterfaceArgs {
    /// The VirtualMachine.
    #[arg(value_name = "VM")]
    vm: String,

    /// The network: a NetworkAttachmentDefinition, in the VM's namespace unless NAMESPACE/NAME is written.
    #[arg(long, value_name = "NAME")]
    network_attachment_definition_name: String,

    /// What the NIC is called in the VM.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Accepted for old scripts: what is written into the template stays anyway.
    #[arg(long)]
    persist: bool,

    /// The NIC's MAC address; without it KubeVirt chooses one.
    #[arg(long, value_name = "MAC")]
    mac: Option<Mac>,

    /// Bind the NIC by SR-IOV instead of a bridge; it is plugged by a live migration.
    #[arg(long)]
    sriov: bool,

    #[command(flatten)]
    interface: InterfaceArgs,
}

impl AddInterfaceArgs {
    /// Plugs it.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { vm, network_attachment_definition_name: network_name, name, persist: _, mac, sriov, interface } =
            self;
        interface::run(&vm, &EditRequest::Add(NewNic { name, network_name, mac, is_sriov: sriov }), &interface)
    }
}
