//! Creates a CA and the server certificates that it signs, in memory.
//!
//! For development, for the demo, and for clusters without their own issuer. The caller passes the current time.

pub mod chain;
pub mod crypto;
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

/// The lifetime of the CA: ten years.
pub const CA_LIFETIME: Duration = days(3650);
/// The lifetime of the server certificate: one year.
pub const SERVER_LIFETIME: Duration = days(365);

/// The subject of every CA, and so the issuer of every server certificate. It must never change: a new server
/// certificate may be signed with the key of a CA that an older version created, and the names of the two have to
/// match.
const CA_NAME: &str = "nicplug authority";

/// How far `notBefore` lies in the past, because the clock of a client may be slow.
const BACKDATE: Duration = Duration::from_mins(5);

/// A DNS name or an IP address by which clients call the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host(SanType);

impl Host {
    /// Returns the hosts of a server on this machine: `localhost`, `127.0.0.1` and `::1`.
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
            // No constructor creates another kind.
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

/// A CA and a server certificate with their keys, in PEM.
pub struct GeneratedCertificates {
    /// The certificate of the CA.
    pub ca: String,
    /// The key of the CA.
    pub ca_key: String,
    /// The certificate of the server.
    pub server: String,
    /// The key of the server.
    pub server_key: String,
}

/// Creates a CA and a server certificate for `hosts`, valid from slightly before `now`.
///
/// # Errors
/// There is no source of randomness, or `now` is beyond the dates that a certificate can hold.
pub fn generate(hosts: &[Host], now: SystemTime) -> Result<GeneratedCertificates, CertificateError> {
    let ca = CertificateAndKey::ca(now, now + CA_LIFETIME)?;
    let server = CertificateAndKey::server(hosts, now, now + SERVER_LIFETIME, &ca.key)?;
    Ok(GeneratedCertificates { ca: ca.certificate, ca_key: ca.key, server: server.certificate, server_key: server.key })
}

/// A certificate and its key, in PEM. Has no `Debug`, so that the key does not get into a log.
pub struct CertificateAndKey {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl CertificateAndKey {
    /// Creates a CA, valid from slightly before `now` until `end`.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn ca(now: SystemTime, end: SystemTime) -> Result<Self, CertificateError> {
        let ca = CertifiedIssuer::self_signed(with_dates(ca_params(), now, end), KeyPair::generate()?)?;
        Ok(Self { certificate: ca.pem(), key: ca.key().serialize_pem() })
    }

    /// Creates a server certificate that is signed by the CA with this key.
    ///
    /// # Errors
    /// As [`generate`], or `ca_key` is not a key in PEM.
    pub fn server(hosts: &[Host], now: SystemTime, end: SystemTime, ca_key: &str) -> Result<Self, CertificateError> {
        // All CAs have the same name, so their key is all that signing needs.
        let issuer = Issuer::new(ca_params(), KeyPair::from_pem(ca_key)?);
        let key = KeyPair::generate()?;
        let certificate = with_dates(server_params(hosts), now, end).signed_by(&key, &issuer)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(CA_NAME);
    // It may sign server certificates only, and no other CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(hosts: &[Host]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("nicplug");
    params.subject_alt_names = hosts.iter().map(|host| host.0.clone()).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn distinguished_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn with_dates(mut params: CertificateParams, now: SystemTime, end: SystemTime) -> CertificateParams {
    params.not_before = (now - BACKDATE).into();
    params.not_after = end.into();
    params
}

const fn days(count: u64) -> Duration {
    Duration::from_hours(24 * count)
}

/// The reason why a certificate was not created.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The host is neither an IP address nor a DNS name.
    #[error("{0:?} is not a host; write a DNS name such as nicplug.nicplug.svc, or an IP address")]
    Host(String),
    /// The certificate or its key could not be created.
    #[error("cannot create a certificate")]
    Create(#[from] rcgen::Error),
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
        let (one, other) = (generate(&hosts, SystemTime::now()).unwrap(), generate(&hosts, SystemTime::now()).unwrap());
        assert_ne!(one.server_key, other.server_key);
        assert_ne!(one.ca_key, other.ca_key);
        assert_ne!(one.ca_key, one.server_key);
    }
}
