//! Requests in the status of a VirtualMachine: `status.interfaceRequests[]`, which KubeVirt up to 1.0 carries out.

use super::{Addition, DEFAULT_NIC, Why, check_addition, check_removal, difference};
use crate::{
    api::vm::{AddInterface, InterfaceRequest},
    change::{Change, Nic},
};

/// What is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Where: `status.interfaceRequests[0].addInterfaceOptions`.
    pub field: String,
    /// What.
    pub fault: Fault,
}

/// What is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Neither of the two options is set, or both are.
    #[error("the request has {0} of addInterfaceOptions and removeInterfaceOptions")]
    NotOne(&'static str),
    /// A name is missing or malformed.
    #[error("{0}")]
    Malformed(String),
    /// The name is there already, and is another NIC.
    #[error(transparent)]
    Taken(Why),
}

/// All that stands against the new requests of a change; nothing where it has none.
#[must_use]
pub fn refusals(change: &Change) -> Vec<Refusal> {
    let Some(requests) = change.requests else { return Vec::new() };
    let nics = change.after.nics();
    let judge = |(index, request): (usize, &InterfaceRequest)| {
        let fault = match (&request.add_interface_options, &request.remove_interface_options) {
            (Some(options), None) => judge_addition(change, options, |name| nics.get(name).copied()),
            (None, Some(options)) => check_removal(&options.name).err().map(Fault::Malformed),
            (None, None) => Some(Fault::NotOne("none")),
            (Some(_), Some(_)) => Some(Fault::NotOne("both")),
        };
        fault.map(|fault| Refusal { field: change.interface_field(index), fault })
    };
    requests.added().filter_map(judge).collect()
}

fn judge_addition<'r>(
    change: &Change<'r>,
    options: &AddInterface,
    nic: impl Fn(&str) -> Option<Nic<'r>>,
) -> Option<Fault> {
    let name = options.interface.name.as_str();
    let network_name = options.network.multus.as_ref().map(|multus| multus.network_name.as_str()).unwrap_or_default();
    if let Err(what) = check_addition(name, network_name) {
        return Some(Fault::Malformed(what));
    }
    if name == DEFAULT_NIC && change.after.guest.gets_default_nic() {
        return Some(Fault::Taken(Why::of_default_nic()));
    }
    let addition = Addition { name: name.to_owned(), network_name: network_name.to_owned() };
    difference(&nic(name)?, &addition, change.subject.namespace).map(Fault::Taken)
}
