//! MAC addresses: one value for every way to write them.

use std::{fmt, str::FromStr};

/// A MAC address (EUI-48).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac([u8; 6]);

/// The text is no MAC address such as `02:00:00:aa:bb:cc`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no MAC address: write it as 02:00:00:aa:bb:cc")]
pub struct MacError {
    text: String,
}

impl FromStr for Mac {
    type Err = MacError;

    /// Reads `02:00:00:aa:bb:cc`, `02-00-00-AA-BB-CC` and `0200.00aa.bbcc`, as Go's `net.ParseMAC` does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_in_a_group = if text.contains('.') { 4 } else { 2 };
        read_groups(text, digits_in_a_group).map(Self).ok_or_else(|| MacError { text: text.to_owned() })
    }
}

fn read_groups(text: &str, digits_in_a_group: usize) -> Option<[u8; 6]> {
    let separator = text.chars().find(|letter| [':', '-', '.'].contains(letter))?;
    let is_group =
        |group: &str| group.len() == digits_in_a_group && group.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !text.split(separator).all(is_group) {
        return None;
    }
    let digits: String = text.split(separator).collect();
    let value = u64::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 12)?;
    let [_, _, bytes @ ..] = value.to_be_bytes();
    Some(bytes)
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
    fn one_address_has_many_writings() {
        for text in ["02:00:00:aa:bb:cc", "02:00:00:AA:BB:CC", "02-00-00-aa-BB-cc", "0200.00aa.bbcc"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "02:00:00:aa:bb:cc", "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in [
            "",
            "02",
            "020000aabbcc",
            "02:00:00:aa:bb",
            "02:00:00:aa:bb:cc:dd",
            "02:00:00:aa:bb:cg",
            "02:00-00:aa:bb:cc",
            "0:0:0:a:b:c",
            "0200.00aa",
        ] {
            let error = text.parse::<Mac>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
