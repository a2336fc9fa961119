//! Stored certificates and the relations between them: which CA signed which, for which hosts, and with which key.

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{Host, crypto::provider, validity::Validity};

/// A certificate and its dates. Two are equal if their bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    validity: Validity,
}

impl Certificate {
    /// Reads a certificate in DER; `None` if it is not one.
    #[must_use]
    pub fn of(der: CertificateDer<'static>) -> Option<Self> {
        Validity::of(&der).map(|validity| Self { der, validity })
    }

    /// Reads all certificates of a PEM text. Skips everything else in it, as the API server does.
    #[must_use]
    pub fn all(pem: &[u8]) -> Vec<Self> {
        CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(Self::of).collect()
    }

    /// Returns its dates.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether the certificate is valid for the host.
    #[must_use]
    pub fn is_valid_for(&self, host: &Host) -> bool {
        is_valid_for(&self.der, host)
    }

    /// Whether this is a server certificate with a signature of the CA. The dates are not checked.
    #[must_use]
    pub fn is_signed_by(&self, ca: &Self) -> bool {
        let mut roots = RootCertStore::empty();
        let Ok(certificate) = ParsedCertificate::try_from(&self.der) else { return false };
        let Ok(start) = self.validity.not_before.duration_since(std::time::UNIX_EPOCH) else { return false };
        // A time at which it is valid.
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(start.as_secs()));
        let algorithms = provider().signature_verification_algorithms.all;
        roots.add(ca.der.clone()).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], moment, algorithms).is_ok()
    }

    /// Whether the key, in PEM, belongs to this certificate.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else { return false };
        CertifiedKey::from_der(vec![self.der.clone()], key, &provider()).is_ok()
    }
}

/// Whether a certificate is valid for the host.
pub(crate) fn is_valid_for(certificate: &CertificateDer, host: &Host) -> bool {
    let (Ok(certificate), Ok(name)) =
        (ParsedCertificate::try_from(certificate), ServerName::try_from(host.to_string()))
    else {
        return false;
    };
    verify_server_name(&certificate, &name).is_ok()
}

/// Returns the certificates as PEM text.
#[must_use]
pub fn pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = BASE64.encode(&certificate.der);
        for line in base64.as_bytes().chunks(64) {
            // Writing to a string cannot fail, and base64 is ASCII.
            let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::certificates::{GeneratedCertificates, generate};

    fn bundle() -> GeneratedCertificates {
        generate(&Host::local().unwrap(), SystemTime::now()).unwrap()
    }

    fn one(pem: &str) -> Certificate {
        Certificate::all(pem.as_bytes()).remove(0)
    }

    #[test]
    fn certificates_are_read_as_written_and_other_text_is_skipped() {
        let (one, other) = (bundle(), bundle());
        let text = format!("# two\n{}{}{}", one.ca, one.ca_key, other.ca);
        let certificates = Certificate::all(text.as_bytes());
        assert_eq!(certificates.len(), 2);
        assert_eq!(Certificate::all(pem(&certificates).as_bytes()), certificates);
        for text in
            ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----"]
        {
            assert!(Certificate::all(text.as_bytes()).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_signed_by_its_own_ca_only_although_all_have_one_name() {
        let (ours, theirs) = (bundle(), bundle());
        assert!(one(&ours.server).is_signed_by(&one(&ours.ca)));
        assert!(!one(&ours.server).is_signed_by(&one(&theirs.ca)));
        assert!(!one(&ours.ca).is_signed_by(&one(&ours.ca)), "a CA is not a server certificate");
    }

    #[test]
    fn a_certificate_has_its_key_and_its_hosts() {
        let (ours, theirs) = (bundle(), bundle());
        for (certificate, key, fits) in [
            (&ours.server, ours.server_key.as_str(), true),
            (&ours.ca, &ours.ca_key, true),
            (&ours.server, &theirs.server_key, false),
            (&ours.ca, &ours.server_key, false),
            (&ours.server, "", false),
        ] {
            assert_eq!(one(certificate).has_key(key), fits);
        }
        assert!(one(&ours.server).is_valid_for(&"localhost".parse().unwrap()));
        assert!(!one(&ours.server).is_valid_for(&"elsewhere".parse().unwrap()));
    }
}
