//! The dates of a certificate, and the phase of its lifetime.
//!
//! The dates are read from the certificate itself (DER, RFC 5280 section 4.1). Nothing else of it is read here.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// The dates of a certificate, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The certificate is not valid before.
    pub not_before: SystemTime,
    /// The certificate is not valid after.
    pub not_after: SystemTime,
}

impl Validity {
    /// Reads the dates of an X.509 certificate in DER; `None` if it is not one.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = element(SEQUENCE, certificate)?;
        let (_, mut fields) = element(SEQUENCE, certificate)?;
        // The version is missing if it is 1.
        if let Some((rest, _)) = element(VERSION, fields) {
            fields = rest;
        }
        // Serial number, algorithm and issuer are skipped.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            (fields, _) = element(tag, fields)?;
        }
        let (_, dates) = element(SEQUENCE, fields)?;
        let (dates, not_before) = time(dates)?;
        let (_, not_after) = time(dates)?;
        Some(Self { not_before, not_after })
    }

    /// Returns the phase of the lifetime.
    #[must_use]
    pub fn phase(&self, now: SystemTime) -> ValidityPhase {
        if now < self.not_before {
            ValidityPhase::NotYetValid
        } else if now > self.not_after {
            ValidityPhase::Expired
        } else if now >= self.after(5, 6) {
            ValidityPhase::RenewalOverdue
        } else if now >= self.after(2, 3) {
            ValidityPhase::RenewalDue
        } else {
            ValidityPhase::Fresh
        }
    }

    /// Returns the time at which `part` of `whole` equal parts of the lifetime are over. Fractions instead of days, so
    /// that a certificate of one day and one of ten years are treated alike.
    #[must_use]
    pub fn after(&self, part: u32, whole: u32) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or(Duration::ZERO);
        self.not_before + life / whole.max(1) * part
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "valid from {} until {}", date(self.not_before), date(self.not_after))
    }
}

/// A phase in the lifetime of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ValidityPhase {
    /// It is not valid yet.
    NotYetValid,
    /// It is valid, and needs no renewal.
    Fresh,
    /// It is valid and due for renewal: two thirds of its lifetime are over.
    RenewalDue,
    /// It is valid, but the renewal is overdue: half of the time for it has passed.
    RenewalOverdue,
    /// It is no longer valid.
    Expired,
}

/// Returns a time for messages, such as `2027-02-24T10:00:00Z`.
#[must_use]
pub fn date(moment: SystemTime) -> String {
    Timestamp::try_from(moment)
        .map_or_else(|_| "an impossible date".to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;

/// Reads one DER element. Returns the bytes after it and its content; `None` if `bytes` do not begin with a complete
/// element of this tag.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // The length follows in so many bytes. No certificate has a part of 4 GiB or more.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((rest, content))
}

/// Reads a date (RFC 5280, section 4.1.2.5: always in UTC, always with seconds). Returns the bytes after it and the
/// date.
fn time(bytes: &[u8]) -> Option<(&[u8], SystemTime)> {
    let (rest, year, digits) = if let Some((rest, text)) = element(UTC_TIME, bytes) {
        let (year, digits) = text.split_at_checked(2)?;
        let year = number(year)?;
        (rest, if year < 50 { 2000 + year } else { 1900 + year }, digits)
    } else {
        let (rest, text) = element(GENERALIZED_TIME, bytes)?;
        let (year, digits) = text.split_at_checked(4)?;
        (rest, number(year)?, digits)
    };
    let digits = digits.strip_suffix(b"Z").filter(|digits| digits.len() == 10)?;
    let mut fields = digits.chunks(2).map(|field| number(field).and_then(|field| i8::try_from(field).ok()));
    let mut field = || fields.next().flatten();
    let civil = DateTime::new(year, field()?, field()?, field()?, field()?, field()?, 0).ok()?;
    // The end of the year 9999 means "no expiry" (RFC 5280, section 4.1.2.5). It is a few hours after the last
    // timestamp.
    let moment = TimeZone::UTC.to_timestamp(civil).unwrap_or(Timestamp::MAX);
    Some((rest, moment.into()))
}

fn number(digits: &[u8]) -> Option<i16> {
    digits.iter().try_fold(0_i16, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i16::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(not_before: (i32, u8, u8), not_after: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(not_before.0, not_before.1, not_before.2);
        params.not_after = date_time_ymd(not_after.0, not_after.1, not_after.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_dates_of_a_certificate_are_read_in_both_formats() {
        // Up to 2049 the year has two digits, from 2050 on four.
        for (from, until, text) in [
            ((2026, 11, 25), (2027, 2, 23), "valid from 2026-11-25T00:00:00Z until 2027-02-23T00:00:00Z"),
            ((1999, 12, 31), (2049, 12, 31), "valid from 1999-12-31T00:00:00Z until 2049-12-31T00:00:00Z"),
            ((2050, 1, 1), (9999, 12, 30), "valid from 2050-01-01T00:00:00Z until 9999-12-30T00:00:00Z"),
        ] {
            assert_eq!(Validity::of(&certificate(from, until)).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_date_without_expiry_is_read() {
        let der = [&[GENERALIZED_TIME, 15][..], b"99991231235959Z"].concat();
        assert_eq!(time(&der).unwrap().1, SystemTime::from(Timestamp::MAX));
    }

    #[test]
    fn other_text_is_not_a_date() {
        for text in ["", "2612012500", "26130125000000Z", "261301000000Z", "26110100000aZ", "261101000000+0100"] {
            let der = [&[UTC_TIME, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            assert!(time(&der).is_none(), "{text}");
        }
    }

    #[test]
    fn the_phases_are_fractions_of_any_lifetime() {
        let start = SystemTime::UNIX_EPOCH;
        for life in [Duration::from_mins(3), Duration::from_hours(24), Duration::from_hours(24 * 3650)] {
            let validity = Validity { not_before: start + life, not_after: start + 2 * life };
            let second = Duration::from_secs(1);
            for (now, phase) in [
                (start + life - second, ValidityPhase::NotYetValid),
                (start + life, ValidityPhase::Fresh),
                (validity.after(2, 3) - second, ValidityPhase::Fresh),
                (validity.after(2, 3), ValidityPhase::RenewalDue),
                (validity.after(5, 6) - second, ValidityPhase::RenewalDue),
                (validity.after(5, 6), ValidityPhase::RenewalOverdue),
                (start + 2 * life, ValidityPhase::RenewalOverdue),
                (start + 2 * life + second, ValidityPhase::Expired),
            ] {
                assert_eq!(validity.phase(now), phase, "{life:?} {}", date(now));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Validity::of(&bytes);
        }

        #[test]
        fn a_truncated_or_altered_certificate_is_read_or_rejected(cut in 0_usize..400, at in 0_usize..60, to: u8) {
            let mut der = certificate((2026, 1, 1), (2027, 1, 1));
            der[at] = to;
            der.truncate(cut);
            let _ = Validity::of(&der);
        }
    }
}
