//! Requests in the status of a VirtualMachine: `status.interfaceRequests[]`, which KubeVirt up to 1.0 applies.

use super::{Addition, DEFAULT_NIC, RequestError, check_addition, check_removal, conflict};
use crate::{
    api::vm::{AddInterface, InterfaceRequest},
    change::{Change, Nic},
};

/// A request that is not valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RejectedStatusRequest {
    /// Its path, as in `status.interfaceRequests[0].addInterfaceOptions`.
    pub field: String,
    /// What is wrong with it.
    pub error: StatusRequestError,
}

/// What is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StatusRequestError {
    /// Both options are set.
    #[error("the request has both addInterfaceOptions and removeInterfaceOptions")]
    Both,
    /// A name is missing or malformed.
    #[error("{0}")]
    Malformed(String),
    /// Another NIC has the name.
    #[error(transparent)]
    NameInUse(RequestError),
    /// No option is set.
    #[error("the request has neither addInterfaceOptions nor removeInterfaceOptions")]
    Neither,
}

/// Returns the new requests of a change that are not valid.
#[must_use]
pub fn rejected_requests(change: &Change) -> Vec<RejectedStatusRequest> {
    let Some(requests) = change.requests else { return Vec::new() };
    let nics = change.after.nics();
    let check = |(index, request): (usize, &InterfaceRequest)| {
        let error = match (&request.add_interface_options, &request.remove_interface_options) {
            (Some(options), None) => addition_error(change, options, |name| nics.get(name).copied()),
            (None, Some(options)) => check_removal(&options.name).err().map(StatusRequestError::Malformed),
            (None, None) => Some(StatusRequestError::Neither),
            (Some(_), Some(_)) => Some(StatusRequestError::Both),
        };
        error.map(|error| RejectedStatusRequest { field: change.interface_field(index), error })
    };
    requests.added().filter_map(check).collect()
}

fn addition_error<'r>(
    change: &Change<'r>,
    options: &AddInterface,
    nic: impl Fn(&str) -> Option<Nic<'r>>,
) -> Option<StatusRequestError> {
    let name = options.interface.name.as_str();
    let network_name = options.network.multus.as_ref().map(|multus| multus.network_name.as_str()).unwrap_or_default();
    if let Err(what) = check_addition(name, network_name) {
        return Some(StatusRequestError::Malformed(what));
    }
    if name == DEFAULT_NIC && change.after.guest.gets_default_nic() {
        return Some(StatusRequestError::NameInUse(RequestError::default_nic()));
    }
    let addition = Addition { name: name.to_owned(), network_name: network_name.to_owned() };
    conflict(&nic(name)?, &addition, change.subject.namespace).map(StatusRequestError::NameInUse)
}
