//! The annotations that users set for nicplug: NICs to add and to remove, NICs to persist, ports to reserve,
//! and whether a dropped NIC is unplugged.

pub mod interfaces;
pub mod keys;
pub mod persist;
pub mod reserve_ports;
pub mod unplug;
