//! The address of a PCI device in the guest, as in `pciAddress`.

use std::{fmt, str::FromStr};

/// `domain:bus:slot.function`, such as `0000:03:00.0`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PciAddress {
    /// 0 to 0xffff; guests have domain 0 only.
    pub domain: u16,
    /// 0 is the root bus; any other is behind the port of that index.
    pub bus: u8,
    /// 0 to 0x1f.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
}

/// The text is not a PCI address. KubeVirt requires `dddd:bb:ss.f` in hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not of the form 0000:01:00.0")]
pub struct PciAddressError;

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let (domain, rest) = text.split_once(':').ok_or(PciAddressError)?;
        let (bus, rest) = rest.split_once(':').ok_or(PciAddressError)?;
        let (slot, function) = rest.split_once('.').ok_or(PciAddressError)?;
        let address = Self {
            domain: hex(domain, 4)?,
            bus: narrow(hex(bus, 2)?)?,
            slot: narrow(hex(slot, 2)?)?,
            function: narrow(hex(function, 1)?)?,
        };
        if address.slot <= 0x1f && address.function <= 7 { Ok(address) } else { Err(PciAddressError) }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

fn hex(digits: &str, length: usize) -> Result<u16, PciAddressError> {
    if digits.len() != length || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(PciAddressError);
    }
    u16::from_str_radix(digits, 16).map_err(|_| PciAddressError)
}

fn narrow(number: u16) -> Result<u8, PciAddressError> {
    u8::try_from(number).map_err(|_| PciAddressError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_displayed() {
        let address = "0000:81:1F.7".parse::<PciAddress>().unwrap();
        assert_eq!(address, PciAddress { domain: 0, bus: 0x81, slot: 0x1f, function: 7 });
        assert_eq!(address.to_string(), "0000:81:1f.7");
    }

    #[test]
    fn other_forms_are_errors() {
        for text in ["", "0000:01:00", "01:00.0", "0000:01:20.0", "0000:01:00.8", "0000:1:00.0", "+000:01:00.0", "x"] {
            assert_eq!(text.parse::<PciAddress>(), Err(PciAddressError), "{text}");
        }
    }
}
