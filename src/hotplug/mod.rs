//! A hotplug as a command sees it: the edit of the object, and how far the NIC has come.

pub mod edit;
pub mod progress;
