//! `nicplug.io/reserve-ports`: how many hotplug ports a guest shall have free at every boot.

use crate::{
    api::metadata::Metadata,
    change::ObjectView,
    facts::{Facts, Vm},
    settings::Settings,
};

/// More than any board has room for.
pub const MOST: u64 = 255;

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReservePorts<'r> {
    /// Something that cannot be read.
    Malformed {
        /// As it is written.
        text: &'r str,
        /// Where.
        field: &'static str,
    },
    /// Nothing.
    None,
    /// So many free ports.
    Ports(u64),
}

/// What the object asks for: the guest's own annotation (a VM's template gives it to its VMI) wins over the VM's, and
/// that over the settings.
#[must_use]
pub fn wish<'r>(view: &ObjectView<'r>, facts: &'r Facts, settings: &Settings) -> ReservePorts<'r> {
    let of_vm = |vm: &'r Vm| vm.reserve_ports.as_deref();
    let written = [
        (annotation(view.guest_metadata), field_of_guest(view)),
        (annotation(view.metadata), "metadata.annotations"),
        // The VM of a VMI. Its own fault is told where it is written.
        (facts.vm.known().and_then(|vm| of_vm(vm)).filter(|text| read(text).is_some()), ""),
    ];
    let Some((text, field)) = written.into_iter().find_map(|(text, field)| Some((text?, field))) else {
        return settings.reserve_ports.map_or(ReservePorts::None, ReservePorts::Ports);
    };
    read(text).map_or(ReservePorts::Malformed { text, field }, ReservePorts::Ports)
}

/// Plain digits: what is written here becomes another annotation.
fn read(text: &str) -> Option<u64> {
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
    fn only_plain_whole_numbers_are_read() {
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
            assert_eq!(read(text), ports, "{text:?}");
        }
    }
}
