//! A hotplug as a command sees it: the edit of the VM, the progress of one NIC, the plan of a change of several, and
//! where each NIC of a VM is.

pub mod edit;
pub mod place;
pub mod plan;
pub mod progress;
