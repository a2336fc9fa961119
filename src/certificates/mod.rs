//! A certificate authority and the server certificates that it signs, made in memory.
//!
//! For development, for the demo, and for clusters without an issuer of their own. Nothing here knows what time it is:
//! that is told.

pub mod chain;
pub mod renewal;
pub mod validity;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Validity of the authority: ten years.
pub const CA_LIFETIME: Duration = days(3650);
/// Validity of the server certificate: one year.
pub const SERVER_LIFETIME: Duration = days(365);

/// The subject of every CA, and so the issuer of every server certificate. It must never change: a new server certificate
/// may be signed with the key of a CA that an older version created, and the names of the two have to match.
const CA_NAME: &str = "nicplug authority";

/// How far dates begin in the past, since the clock of whoever checks them may be late.
const BACKDATE: Duration = Duration::from_mins(5);

/// A name or an address that a client may call the server by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host(SanType);

impl Host {
    /// The hosts of a server on this machine: `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// Never in practice: `localhost` is a valid name.
    pub fn local() -> Result<Vec<Self>, CertificateError> {
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let mut hosts = vec!["localhost".parse()?];
        hosts.extend(addresses.map(|address| Self(SanType::IpAddress(address))));
        Ok(hosts)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            SanType::IpAddress(address) => address.fmt(formatter),
            SanType::DnsName(name) => name.as_str().fmt(formatter),
            // Nothing makes one of another kind.
            _ => Ok(()),
        }
    }
}

impl std::str::FromStr for Host {
    type Err = CertificateError;

    fn from_str(text: &str) -> Result<Self, CertificateError> {
        if let Ok(address) = text.parse() {
            return Ok(Self(SanType::IpAddress(address)));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if !name.split('.').all(is_label) {
            return Err(CertificateError::Host(text.to_owned()));
        }
        let name = text.try_into().map_err(|_| CertificateError::Host(text.to_owned()))?;
        Ok(Self(SanType::DnsName(name)))
    }
}

/// A label of a DNS name (RFC 1123, section 2.1).
fn is_label(label: &str) -> bool {
    let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// An authority and a server pair, in PEM.
pub struct Bundle {
    /// The certificate of the authority.
    pub ca: String,
    /// The key of the authority.
    pub ca_key: String,
    /// The certificate of the server.
    pub server: String,
    /// The key of the server.
    pub server_key: String,
}

/// Makes a new authority and a server certificate for `hosts`, valid from (a little before) `now`.
///
/// # Errors
/// There is no randomness to be had, or `now` is beyond the dates that a certificate can hold.
pub fn make(hosts: &[Host], now: SystemTime) -> Result<Bundle, CertificateError> {
    let ca = CertificateAndKey::ca(now, now + CA_LIFETIME)?;
    let server = CertificateAndKey::server(hosts, now, now + SERVER_LIFETIME, &ca.key)?;
    Ok(Bundle { ca: ca.certificate, ca_key: ca.key, server: server.certificate, server_key: server.key })
}

/// A certificate and its key, in PEM. Not to be printed.
pub struct CertificateAndKey {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl CertificateAndKey {
    /// Makes a new authority, valid from (a little before) `now` until `end`.
    ///
    /// # Errors
    /// As [`make`].
    pub fn ca(now: SystemTime, end: SystemTime) -> Result<Self, CertificateError> {
        let ca = CertifiedIssuer::self_signed(valid(ca(), now, end), KeyPair::generate()?)?;
        Ok(Self { certificate: ca.pem(), key: ca.key().serialize_pem() })
    }

    /// Makes a server certificate that is signed by the authority with this key.
    ///
    /// # Errors
    /// As [`make`], or `ca_key` is no key in PEM.
    pub fn server(hosts: &[Host], now: SystemTime, end: SystemTime, ca_key: &str) -> Result<Self, CertificateError> {
        // All authorities have one name: the rest of what a signature takes from them is in their key.
        let issuer = Issuer::new(ca(), KeyPair::from_pem(ca_key)?);
        let key = KeyPair::generate()?;
        let certificate = valid(server(hosts), now, end).signed_by(&key, &issuer)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn ca() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(CA_NAME);
    // It signs servers and nothing else, above all no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server(hosts: &[Host]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("nicplug");
    params.subject_alt_names = hosts.iter().map(|host| host.0.clone()).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn valid(mut params: CertificateParams, now: SystemTime, end: SystemTime) -> CertificateParams {
    params.not_before = (now - BACKDATE).into();
    params.not_after = end.into();
    params
}

const fn days(count: u64) -> Duration {
    Duration::from_hours(24 * count)
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A host that is neither an address nor a DNS name.
    #[error("{0:?} is no host: write a DNS name such as nicplug.nicplug.svc, or an IP address")]
    Host(String),
    /// The certificate or its key could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for text in ["localhost", "nicplug.nicplug.svc", "*.example.org", "127.0.0.1", "::1"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
        }
        for text in ["", "a b", "a..b", "-a", "https://a", "a:8443", "ä.example.org"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_bundle_has_keys_of_its_own() {
        let hosts = Host::local().unwrap();
        let (one, other) = (make(&hosts, SystemTime::now()).unwrap(), make(&hosts, SystemTime::now()).unwrap());
        assert_ne!(one.server_key, other.server_key);
        assert_ne!(one.ca_key, other.ca_key);
        assert_ne!(one.ca_key, one.server_key);
    }
}
