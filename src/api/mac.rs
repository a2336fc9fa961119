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
        octets(text.as_bytes()).map(Self).ok_or_else(|| MacError { text: text.to_owned() })
    }
}

/// Reads the octets. Written for speed: nicplug reads the address of every NIC in every heartbeat.
#[allow(clippy::many_single_char_names, reason = "twelve digits, a to l")]
fn octets(text: &[u8]) -> Option<[u8; 6]> {
    let [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]] = match *text {
        [a, b, s, c, d, s1, e, f, s2, g, h, s3, i, j, s4, k, l]
            if matches!(s, b':' | b'-') && [s1, s2, s3, s4] == [s; 4] =>
        {
            [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]]
        }
        [a, b, c, d, b'.', e, f, g, h, b'.', i, j, k, l] => [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]],
        _ => return None,
    };
    Some([octet(a, b)?, octet(c, d)?, octet(e, f)?, octet(g, h)?, octet(i, j)?, octet(k, l)?])
}

fn octet(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
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
