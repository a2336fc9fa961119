//! MAC addresses: one value for all notations.

use super::quote::quote;
use std::{fmt, str::FromStr};

/// A MAC address (EUI-48).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac([u8; 6]);

/// The text is not a MAC address such as `02:00:00:aa:bb:cc`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text} is not a MAC address; write it as 02:00:00:aa:bb:cc", text = quote(.text))]
pub struct MacError {
    text: String,
}

impl Mac {
    /// Whether every octet is zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// Whether it addresses a group of stations, as the broadcast address does.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0.first().is_some_and(|octet| octet & 1 == 1)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    /// Reads `02:00:00:aa:bb:cc`, `02-00-00-AA-BB-CC` and `0200.00aa.bbcc`, as Go's `net.ParseMAC` does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_in_a_group = if text.contains('.') { 4 } else { 2 };
        read_groups(text, digits_in_a_group).map(Self).ok_or_else(|| MacError { text: text.to_owned() })
    }
}

/// Reads groups of digits with one kind of separator between them. Written for speed: it reads the address of every NIC
/// in every heartbeat.
fn read_groups(text: &str, digits_in_a_group: usize) -> Option<[u8; 6]> {
    let separator = *text.as_bytes().get(digits_in_a_group).filter(|separator| b":-.".contains(separator))?;
    let mut digits = 0;
    let mut mac = [0_u8; 6];
    for (index, byte) in text.bytes().enumerate() {
        if index % (digits_in_a_group + 1) == digits_in_a_group {
            if byte != separator {
                return None;
            }
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        let octet = mac.get_mut(digits / 2)?;
        *octet = *octet << 4 | u8::try_from(digit).ok()?;
        digits += 1;
    }
    let is_complete = digits == 12 && text.len() == 11 + 12 / digits_in_a_group;
    is_complete.then_some(mac)
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(formatter, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_notations_of_an_address_are_read() {
        for text in ["02:00:00:aa:bb:cc", "02:00:00:AA:BB:CC", "02-00-00-aa-BB-cc", "0200.00aa.bbcc"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "02:00:00:aa:bb:cc", "{text}");
        }
    }

    #[test]
    fn the_error_of_an_invalid_address_quotes_it() {
        for text in [
            "",
            "02",
            "020000aabbcc",
            "02:00:00:aa:bb",
            "02:00:00:aa:bb:cc:dd",
            "02:00:00:aa:bb:cg",
            "02:00-00:aa:bb:cc",
            "0:0:0:a:b:c",
            "02:00:00:aa:bb:cc:",
            ":02:00:00:aa:bb:cc",
            "02:00:00:aa:bb:c:",
            "02+00+00+aa+bb+cc",
            "0200:00aa:bbcc",
            "02.00.00.aa.bb.cc",
            "02:00:00:aa:bb:\u{e9}",
            "0200.00aa",
        ] {
            let error = text.parse::<Mac>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
