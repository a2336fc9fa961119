//! `macAddress` and `pciAddress`.

use super::CheckedInterface;
use crate::{
    api::quote::quote,
    rules::{CauseType, Finding},
};

/// Bytes of an Ethernet address.
const MAC_BYTES: usize = 6;

/// Checks both addresses.
pub(super) fn check(interface: &CheckedInterface) -> impl Iterator<Item = Finding> {
    [mac(interface), pci(interface)].into_iter().flatten()
}

fn mac(interface: &CheckedInterface) -> Option<Finding> {
    let address = interface.fields.mac_address.as_deref().filter(|address| !address.is_empty())?;
    let what = match bytes_of_mac(address) {
        Some(bytes) if bytes <= MAC_BYTES => return None,
        Some(bytes) => {
            format!(
                "interface {} has a MAC address of {bytes} bytes instead of 6: {address}",
                interface.name(),
                address = quote(address)
            )
        }
        None => {
            format!("interface {} has a malformed MAC address: {address}", interface.name(), address = quote(address))
        }
    };
    Some(interface.fault(CauseType::Invalid, "macAddress", what, "write six bytes, as in 02:00:00:00:00:01"))
}

/// Returns the number of bytes of a hardware address in the notations that Go's `net.ParseMAC` accepts (Go 1.26):
/// groups of two digits with `:` or `-`, of four with `.`, or no separator at all; 6, 8 or 20 bytes.
fn bytes_of_mac(address: &str) -> Option<usize> {
    let text = address.as_bytes();
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let groups_of = |digits: usize, separator: u8| {
        let mut groups = text.split(|byte| *byte == separator);
        groups.try_fold(0, |bytes, group| (group.len() == digits && is_hex(group)).then_some(bytes + digits / 2))
    };
    let bytes = match (text.get(2), text.get(4)) {
        (Some(separator @ (b':' | b'-')), _) => groups_of(2, *separator),
        (_, Some(b'.')) => groups_of(4, b'.'),
        _ => (text.len().is_multiple_of(2) && is_hex(text)).then_some(text.len() / 2),
    };
    bytes.filter(|bytes| matches!(bytes, 6 | 8 | 20))
}

fn pci(interface: &CheckedInterface) -> Option<Finding> {
    let address = interface.fields.options.pci_address.as_deref().filter(|address| !address.is_empty())?;
    if is_pci_address(address) {
        return None;
    }
    let what =
        format!("interface {} has a malformed PCI address: {address}", interface.name(), address = quote(address));
    let fix = "write domain:bus:slot.function in hexadecimal, as in 0000:81:01.0, with a function from 0 to 7";
    Some(interface.fault(CauseType::Invalid, "pciAddress", what, fix))
}

/// Returns whether the address has the form `DDDD:BB:SS.F`: hexadecimal digits, and F from 0 to 7.
fn is_pci_address(address: &str) -> bool {
    const PATTERN: &[u8] = b"DDDD:BB:SS.F";
    let fits = |(byte, place): (u8, &u8)| match place {
        b':' | b'.' => byte == *place,
        b'F' => matches!(byte, b'0'..=b'7'),
        _ => byte.is_ascii_hexdigit(),
    };
    address.len() == PATTERN.len() && address.bytes().zip(PATTERN).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_a_mac_address() {
        for (address, bytes) in [
            ("de:ad:00:00:be:af", Some(6)),
            ("DE-AD-00-00-BE-AF", Some(6)),
            ("aabb.ccdd.eeff", Some(6)),
            ("deadbeef0001", Some(6)),
            ("de:ad:00:00:be:af:aa:bb", Some(8)),
            ("aabb.ccdd.eeff.0011", Some(8)),
            ("00000000fe80000000000000", None),
            ("0000.0000.fe80.0000.0000.0000.0200.5e10.0000.0001", Some(20)),
            ("de:ad:00:00:be", None),
            ("de:ad:00:00:be:af:", None),
            (":de:ad:00:00:be:af", None),
            ("de:ad-00:00:be:af", None),
            ("de:ad:0:0:be:af", None),
            ("de:ad:00:00:be:zz", None),
            (" de:ad:00:00:be:af", None),
            ("dead.beef.0001.", None),
            ("deadbeef000", None),
            ("deadbeef000é", None),
            ("x", None),
        ] {
            assert_eq!(bytes_of_mac(address), bytes, "{address:?}");
        }
    }

    #[test]
    fn notations_of_a_pci_address() {
        for (address, is_valid) in [
            ("0000:81:00.1", true),
            ("abCD:FF:1f.7", true),
            ("0000:81:00.8", false),
            ("0000:81:00.f", false),
            ("0000:81:00", false),
            ("000:81:00.1", false),
            ("00000:81:00.1", false),
            ("0000-81-00.1", false),
            ("0000:8g:00.1", false),
            ("0000:81:00.1 ", false),
        ] {
            assert_eq!(is_pci_address(address), is_valid, "{address:?}");
        }
    }
}
