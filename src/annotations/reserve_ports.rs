//! `nicplug.io/reserve-ports`: how many hotplug ports a guest must have free at every boot.

use crate::{
    api::metadata::Metadata,
    change::ObjectView,
    facts::{Facts, Vm},
    settings::Settings,
};

/// The highest number; no machine has that many ports.
pub const MOST: u64 = 255;

/// The reservation of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReservePorts<'r> {
    /// The annotation is not a number of ports.
    Malformed {
        /// Its text.
        text: &'r str,
        /// The path of the annotations that hold it.
        field: &'static str,
    },
    /// No reservation.
    None,
    /// The number of free ports to reserve.
    Ports(u64),
}

/// Returns the reservation of an object: from the guest's own annotation (which a VMI gets from its VM's template),
/// else from the VM's annotation, else from the settings.
#[must_use]
pub fn requested<'r>(view: &ObjectView<'r>, facts: &'r Facts, settings: &Settings) -> ReservePorts<'r> {
    let of_vm = |vm: &'r Vm| vm.reserve_ports.as_deref();
    let annotations = [
        (annotation(view.guest_metadata), field_of_guest(view)),
        (annotation(view.metadata), "metadata.annotations"),
        // The VM of a VMI. A malformed annotation of a VM is reported when the VM changes, not here.
        (facts.vm.known().and_then(|vm| of_vm(vm)).filter(|text| parse(text).is_some()), ""),
    ];
    let Some((text, field)) = annotations.into_iter().find_map(|(text, field)| Some((text?, field))) else {
        return settings.reserve_ports.map_or(ReservePorts::None, ReservePorts::Ports);
    };
    parse(text).map_or(ReservePorts::Malformed { text, field }, ReservePorts::Ports)
}

/// Parses plain digits; `u64::from_str` would also accept a sign, which the slot-count annotation does not.
fn parse(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|ports| is_plain && *ports <= MOST)
}

fn annotation<'r>(metadata: &'r Metadata<'r>) -> Option<&'r str> {
    metadata.annotations.as_ref()?.reserve_ports.as_deref()
}

fn field_of_guest(view: &ObjectView) -> &'static str {
    match (view.vmi, view.path) {
        (Some(_), _) => "metadata.annotations",
        (None, "spec.template.spec") => "spec.template.metadata.annotations",
        (None, _) => "spec.virtualMachineTemplate.spec.template.metadata.annotations",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_whole_numbers_are_accepted() {
        for (text, ports) in [
            ("0", Some(0)),
            ("6", Some(6)),
            ("006", Some(6)),
            ("255", Some(255)),
            ("256", None),
            ("", None),
            ("+6", None),
            ("-1", None),
            ("many", None),
            ("6 ", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse(text), ports, "{text:?}");
        }
    }
}
