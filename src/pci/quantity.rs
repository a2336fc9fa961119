//! Kubernetes quantities, exactly: `2Gi`, `2G`, `1.5Gi`, `2e9`, `2147483649`, `500m`.

/// Returns the bytes of a quantity, rounded up as in Kubernetes; `None` if the text is not a quantity. The result is
/// limited to 0 … 2⁶⁴ - 1.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    read(text, 0)
}

/// Returns a quantity in thousandths, as for CPUs, rounded up; `None` if the text is not a quantity.
#[must_use]
pub fn thousandths(text: &str) -> Option<u64> {
    read(text, 3)
}

/// Returns a quantity times 10^`power`.
fn read(text: &str, power: i32) -> Option<u64> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, text.get(1..)?),
        b'+' => (1, text.get(1..)?),
        _ => (1, text),
    };
    let (whole, rest) = split_digits(rest)?;
    let (fraction, suffix) = rest.strip_prefix('.').map_or(Some(("", rest)), split_digits)?;
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = Scale::parse(suffix)?;
    if sign < 0 {
        return Some(0);
    }
    Some(scale.apply(whole, fraction, power))
}

/// Splits the digits with which a text begins from the rest.
fn split_digits(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end)
}

/// The factor of a suffix: 2ⁿ or 10ⁿ.
#[derive(Clone, Copy, Debug)]
enum Scale {
    Binary(u32),
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            _ => Self::Decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
        })
    }

    /// Multiplies a number, also by 10^`more`, and rounds it up.
    fn apply(self, whole: &str, fraction: &str, more: i32) -> u64 {
        let whole = whole.trim_start_matches('0');
        if whole.len() > WHOLE_DIGITS {
            return u64::MAX;
        }
        let (kept, cut) = fraction.split_at_checked(FRACTION_DIGITS).unwrap_or((fraction, ""));
        let digits = whole.bytes().chain(kept.bytes()).map(|digit| u128::from(digit.saturating_sub(b'0')));
        let has_more = cut.bytes().any(|digit| digit != b'0');
        // This cannot overflow: 2^128 has 39 digits, and these are at most 20 + 18.
        let digits = digits.fold(0, |sum: u128, digit| sum * 10 + digit) + u128::from(has_more);
        let (factor, power) = match self {
            Self::Binary(power) => (1u128 << power, i64::from(more)),
            Self::Decimal(power) => (1, i64::from(power).saturating_add(i64::from(more))),
        };
        let fraction_digits = i64::try_from(kept.len()).unwrap_or(i64::MAX);
        digits.checked_mul(factor).map_or(u64::MAX, |product| shift(product, power.saturating_sub(fraction_digits)))
    }
}

/// The maximum of digits before the point. A number with more exceeds any memory size.
const WHOLE_DIGITS: usize = 20;

/// The maximum of digits after the point that are read. Further digits only round up.
const FRACTION_DIGITS: usize = 18;

/// Returns `product` × 10^`power`, rounded up.
fn shift(product: u128, power: i64) -> u64 {
    let factor = u32::try_from(power.unsigned_abs()).ok().and_then(|power| 10u128.checked_pow(power));
    let shifted = match factor {
        _ if product == 0 => 0,
        Some(factor) if power < 0 => product.div_ceil(factor),
        Some(factor) => product.saturating_mul(factor),
        None if power < 0 => 1,
        None => u128::MAX,
    };
    u64::try_from(shifted).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly() {
        for (text, expected) in [
            ("2Gi", 2_147_483_648),
            ("2G", 2_000_000_000),
            ("2147483649", 2_147_483_649),
            ("2049Mi", 2_148_532_224),
            ("1024M", 1_024_000_000),
            ("1.5Gi", 1_610_612_736),
            ("2.0000000001Gi", 2_147_483_649),
            ("2e9", 2_000_000_000),
            ("2E9", 2_000_000_000),
            ("2.5e+3", 2500),
            ("5e-1", 1),
            ("1E", 1_000_000_000_000_000_000),
            ("2147483648000m", 2_147_483_648),
            ("2147483648001m", 2_147_483_649),
            (".5Ki", 512),
            ("5.", 5),
            ("+5", 5),
            ("-5Gi", 0),
            ("0", 0),
            ("0e30", 0),
            ("16Ei", u64::MAX),
            ("99999999999999999999999999999999999999", u64::MAX),
            ("1e99", u64::MAX),
            ("2147483648.00000000000000000000000000000000001", 2_147_483_649),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn quantities_of_cpus_are_read_in_thousandths() {
        for (text, expected) in [("4", 4000), ("1500m", 1500), ("0.1", 100), ("100u", 1), ("1k", 1_000_000)] {
            assert_eq!(thousandths(text), Some(expected), "{text}");
        }
        assert_eq!(thousandths("four"), None);
    }

    #[test]
    fn other_text_is_not_a_quantity() {
        for text in ["", "Gi", "2gi", "2 Gi", "1.2.3", "two", "2GiB", "e9", "-", "1e", "0x8"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
