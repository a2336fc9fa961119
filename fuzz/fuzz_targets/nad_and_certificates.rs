//! The CNI configuration of a network, the configuration of Multus, and certificates in DER and PEM: any bytes are read
//! or refused.

#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use nicplug::{
    api::cluster::ConfigMap,
    certificates::{
        Host,
        chain::{self, Certificate},
        renewal::{CaBundle, StoredCertificates},
        validity::{self, Validity},
    },
    facts::nad::{CniConfig, MultusConfig, Nad},
};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    certificate(bytes);
    for certificate in Certificate::all(bytes) {
        certificate_again(&certificate);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        network(text);
    }
});

fn network(text: &str) {
    let nad = Nad::read(text, "vendor.example/vf");
    let is_object = serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    match nad.config {
        CniConfig::OnNodes => assert!(text.trim().is_empty()),
        CniConfig::Valid => assert!(is_object),
        CniConfig::Broken(how) => assert!(!how.is_empty() && how.len() < 200, "{how}"),
    }
    let data = [("daemon-config.json".to_owned(), text.to_owned())].into();
    let _ = MultusConfig::read(&ConfigMap { data, ..ConfigMap::default() });
}

fn certificate(der: &[u8]) {
    if let Some(validity) = Validity::of(der) {
        assert!(!validity.to_string().is_empty());
        assert!(!validity::date(validity.after(2, 3)).is_empty());
        for days in [0, 20_000, 60_000] {
            let _ = validity.phase(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400));
        }
    }
    if let Some(certificate) = Certificate::of(der.to_vec().into()) {
        certificate_again(&certificate);
    }
}

/// A certificate is the same when it is written as PEM and read again.
fn certificate_again(certificate: &Certificate) {
    let pem = chain::pem([certificate]);
    assert_eq!(Certificate::all(pem.as_bytes()), std::slice::from_ref(certificate));
    for host in ["localhost", "127.0.0.1", "nicplug.nicplug-system.svc"] {
        let _ = certificate.is_valid_for(&host.parse::<Host>().expect("the host is valid"));
    }
    let _ = certificate.is_signed_by(certificate);
    let stored = StoredCertificates { cas: pem, ..StoredCertificates::default() };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
    if let Some(merged) = CaBundle::default().merged(&stored, now) {
        assert_eq!(CaBundle::of(merged.as_bytes()).merged(&stored, now), None, "a bundle is written twice");
    }
}
