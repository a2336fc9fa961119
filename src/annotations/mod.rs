//! What annotations of nicplug ask for: NICs to add and to remove, NICs to keep, ports to reserve.

pub mod interfaces;
pub mod persist;
pub mod reserve_ports;
