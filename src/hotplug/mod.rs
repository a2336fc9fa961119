//! A hotplug as a command sees it: the edit of the VM, and the progress of the NIC.

pub mod edit;
pub mod progress;
