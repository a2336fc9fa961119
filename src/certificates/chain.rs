//! Certificates as they are stored, and what they say of each other: who signed whom, for whom, and with which key.

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{Host, validity::Validity};

/// A certificate and its dates. Two are equal when their bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    validity: Validity,
}

impl Certificate {
    /// A certificate in DER; `None` when it is none.
    #[must_use]
    pub fn of(der: CertificateDer<'static>) -> Option<Self> {
        Validity::of(&der).map(|validity| Self { der, validity })
    }

    /// All certificates of a PEM text. Whatever else stands in it is passed over, as the API server does it.
    #[must_use]
    pub fn all(pem: &[u8]) -> Vec<Self> {
        CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(Self::of).collect()
    }

    /// From when until when it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether clients may call a server that shows it by this name.
    #[must_use]
    pub fn is_for(&self, host: &Host) -> bool {
        is_for(&self.der, host)
    }

    /// Whether it is a server's, with a signature of this authority. The dates do not matter.
    #[must_use]
    pub fn is_signed_by(&self, ca: &Self) -> bool {
        let mut roots = RootCertStore::empty();
        let Ok(certificate) = ParsedCertificate::try_from(&self.der) else { return false };
        let Ok(start) = self.validity.not_before.duration_since(std::time::UNIX_EPOCH) else { return false };
        // A moment at which it is valid by itself.
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(start.as_secs()));
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        roots.add(ca.der.clone()).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], moment, algorithms).is_ok()
    }

    /// Whether this key, in PEM, is its own.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else { return false };
        CertifiedKey::from_der(vec![self.der.clone()], key, &ring::default_provider()).is_ok()
    }
}

/// Whether clients may call a server that shows this certificate by this name.
pub(crate) fn is_for(certificate: &CertificateDer, host: &Host) -> bool {
    let (Ok(certificate), Ok(name)) =
        (ParsedCertificate::try_from(certificate), ServerName::try_from(host.to_string()))
    else {
        return false;
    };
    verify_server_name(&certificate, &name).is_ok()
}

/// PEM text of certificates, one after the other.
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
    use crate::certificates::{Bundle, make};

    fn bundle() -> Bundle {
        make(&Host::local().unwrap(), SystemTime::now()).unwrap()
    }

    fn one(pem: &str) -> Certificate {
        Certificate::all(pem.as_bytes()).remove(0)
    }

    #[test]
    fn a_text_of_certificates_is_read_as_it_was_written_and_the_rest_is_passed_over() {
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
    fn a_certificate_is_signed_by_its_own_authority_alone_though_all_have_one_name() {
        let (ours, theirs) = (bundle(), bundle());
        assert!(one(&ours.server).is_signed_by(&one(&ours.ca)));
        assert!(!one(&ours.server).is_signed_by(&one(&theirs.ca)));
        assert!(!one(&ours.ca).is_signed_by(&one(&ours.ca)), "a CA is not a server certificate");
    }

    #[test]
    fn a_certificate_knows_its_key_and_its_hosts() {
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
        assert!(one(&ours.server).is_for(&"localhost".parse().unwrap()));
        assert!(!one(&ours.server).is_for(&"elsewhere".parse().unwrap()));
    }
}
