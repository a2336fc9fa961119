//! Reloads the certificate files, which cert-manager or an administrator renews, usually in a volume of the pod.
//!
//! A pair is used only if the key matches the certificate and the certificate is valid for all hosts and at this time.
//! Otherwise the last good pair stays in use, and the log has one line per change of the files.

use std::{path::PathBuf, time::SystemTime};

use futures_util::Stream;

use super::{CertKeyPair, CertResolver, Origin, TlsError, expiry::ExpiryMonitor, read};
use crate::{
    certificates::Host,
    server::{
        readiness::Check,
        reload::{Loaded, poll},
    },
};

/// The paths of the certificate files, and the hosts of the certificate.
#[derive(Clone, Debug)]
pub struct CertFiles {
    /// The PEM chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The PEM key.
    pub key: PathBuf,
    /// The hosts for which the certificate must be valid.
    pub hosts: Vec<Host>,
}

/// The contents of the files. It has no `Debug`, because it contains the key.
#[derive(PartialEq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl CertFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// Returns the pair without a check of its dates.
    fn pair(&self, contents: &Contents) -> Result<CertKeyPair, TlsError> {
        let (certificate, key) = (Origin::File(self.certificate.clone()), Origin::File(self.key.clone()));
        let pair = CertKeyPair::new(&contents.certificate, &contents.key, &certificate, &key)?;
        pair.check_hosts(&self.hosts)?;
        Ok(pair)
    }

    fn pair_at(&self, contents: &Contents, now: SystemTime) -> Result<CertKeyPair, TlsError> {
        let pair = self.pair(contents)?;
        pair.check_dates(now)?;
        Ok(pair)
    }
}

/// Reloads the certificate files.
pub struct CertReloader {
    files: CertFiles,
    certificates: CertResolver,
    loaded: Loaded<Contents>,
}

impl CertReloader {
    /// Reads the first pair. Its dates are not checked: there is no better pair, and a later time or a renewal can make
    /// the dates valid.
    ///
    /// # Errors
    /// The files have no matching pair, or it is not valid for all hosts.
    pub fn open(files: CertFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let certificates = files.pair(&contents)?.into();
        Ok(Self { files, certificates, loaded: Loaded(contents) })
    }

    /// Returns the serving certificate, for a server.
    #[must_use]
    pub fn certificates(&self) -> CertResolver {
        self.certificates.clone()
    }

    /// Reads the files at once and with every tick, until the ticks end, and sets `check`.
    pub async fn run(mut self, check: Check, clock: impl Fn() -> SystemTime, ticks: impl Stream<Item = ()>) {
        let mut expiry = ExpiryMonitor::new(self.certificates.clone(), check);
        poll(ticks, || self.reload(&mut expiry, clock())).await;
    }

    fn reload(&mut self, expiry: &mut ExpiryMonitor, now: SystemTime) {
        let files = &self.files;
        match self.loaded.changed(|| files.read(), |contents| files.pair_at(contents, now)) {
            Ok(Some((contents, pair))) => {
                self.certificates.set(pair);
                self.loaded = Loaded(contents);
                expiry.note_replaced();
            }
            Ok(None) => expiry.clear_error(),
            Err(error) => expiry.note_rejected(error.to_string()),
        }
        expiry.report(now);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        certificates::{self, GeneratedCertificates, validity::date},
        server::readiness::Readiness,
    };

    const NOW: Duration = Duration::from_hours(24 * 365 * 56);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    /// A folder with the files of a pair. It is deleted after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = Self(std::env::temp_dir().join(format!("nicplug-files-{name}-{}", std::process::id())));
            let _ = fs::remove_dir_all(&folder.0);
            fs::create_dir(&folder.0).unwrap();
            folder
        }

        fn with_pair(name: &str, bundle: &GeneratedCertificates) -> (Self, Reload) {
            let folder = Self::new(name);
            folder.put(bundle);
            let reloader = CertReloader::open(folder.files(&["localhost"])).unwrap();
            let readiness = Readiness::default();
            let expiry = ExpiryMonitor::new(reloader.certificates(), readiness.add("certificate", "not read yet"));
            (folder, Reload { reloader, expiry, readiness })
        }

        fn files(&self, hosts: &[&str]) -> CertFiles {
            let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
            CertFiles { certificate: self.0.join("tls.crt"), key: self.0.join("tls.key"), hosts }
        }

        fn put(&self, bundle: &GeneratedCertificates) {
            self.write("tls.crt", &bundle.server);
            self.write("tls.key", &bundle.server_key);
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A reloader with its reports.
    struct Reload {
        reloader: CertReloader,
        expiry: ExpiryMonitor,
        readiness: Readiness,
    }

    impl Reload {
        /// Reads the files, and returns the report of the checks.
        fn run(&mut self, now: SystemTime) -> String {
            self.reloader.reload(&mut self.expiry, now);
            self.readiness.report()
        }
    }

    fn bundle(created: SystemTime) -> GeneratedCertificates {
        certificates::generate(&Host::local().unwrap(), created).unwrap()
    }

    fn until(moment: SystemTime) -> String {
        format!("until {}", date(moment + certificates::SERVER_LIFETIME))
    }

    #[test]
    fn a_new_pair_is_loaded_and_an_unchanged_pair_is_not() {
        let (folder, mut reload) = Folder::with_pair("new", &bundle(now()));
        let first = reload.reloader.certificates.pair().unwrap();
        let report = reload.run(now());
        assert!(report.contains(&until(now())), "{report}");
        assert!(Arc::ptr_eq(&first, &reload.reloader.certificates.pair().unwrap()));
        let day = Duration::from_hours(24);
        folder.put(&bundle(now() + day));
        let report = reload.run(now() + day);
        assert!(report.contains(&until(now() + day)) && !report.contains("rejected"), "{report}");
    }

    #[test]
    fn on_an_error_the_last_good_pair_stays_and_the_error_is_reported() {
        let day = Duration::from_hours(24);
        let (good, other) = (bundle(now()), bundle(now()));
        let (folder, mut reload) = Folder::with_pair("errors", &good);
        let other_host = certificates::generate(&["elsewhere".parse().unwrap()], now()).unwrap();
        let (early, late) = (bundle(now() + day), bundle(now() - 2 * certificates::SERVER_LIFETIME));
        for (certificate, key, error) in [
            (other.server.as_str(), good.server_key.as_str(), "does not match"),
            (&other.server[..300], &other.server_key, "no certificate"),
            ("", &other.server_key, "no certificate"),
            (&other.server, "", "no private key"),
            (&other.server, &other.server_key[..100], "no private key"),
            (&other_host.server, &other_host.server_key, "\"localhost\""),
            (&early.server, &early.server_key, "not valid yet"),
            (&late.server, &late.server_key, "has expired"),
        ] {
            folder.write("tls.crt", certificate);
            folder.write("tls.key", key);
            let report = reload.run(now());
            assert!(report.contains("rejected") && report.contains(error), "{error}: {report}");
            assert!(report.contains(&until(now())) && reload.readiness.is_ready(), "{report}");
            assert!(key.lines().skip(1).all(|line| !report.contains(line)), "{report}");
        }
        // Two of the errors have the same text as the error before, and are not counted again.
        assert_eq!(reload.reloader.certificates.load_failures(), 6);
        reload.run(now());
        assert_eq!(reload.reloader.certificates.load_failures(), 6, "an error that lasts is counted once");
        fs::remove_file(folder.0.join("tls.key")).unwrap();
        let report = reload.run(now());
        assert!(report.contains("cannot read"), "{report}");

        folder.put(&good);
        let report = reload.run(now());
        assert!(!report.contains("rejected"), "{report}");
    }

    #[test]
    fn a_pair_that_is_not_valid_yet_is_loaded_when_it_becomes_valid() {
        let day = Duration::from_hours(24);
        let (folder, mut reload) = Folder::with_pair("early", &bundle(now()));
        folder.put(&bundle(now() + day));
        let report = reload.run(now());
        assert!(report.contains("not valid yet"), "{report}");
        let report = reload.run(now() + day);
        assert!(report.contains(&until(now() + day)) && !report.contains("rejected"), "{report}");
    }

    #[test]
    fn the_report_depends_on_the_share_of_the_lifetime_that_is_over() {
        let (_folder, mut reload) = Folder::with_pair("age", &bundle(now()));
        let life = certificates::SERVER_LIFETIME;
        for (moment, word, is_ready) in [
            (now() + life / 2, "Z\n", true),
            (now() + life / 10 * 7, "Z\n", true),
            (now() + life / 10 * 9, "should have been renewed", true),
            (now() + life + life / 10, "has expired", false),
            (now() - life, "not valid yet", false),
            (now(), "Z\n", true),
        ] {
            let report = reload.run(moment);
            assert!(report.contains(word), "{word}: {report}");
            assert_eq!(reload.readiness.is_ready(), is_ready, "{report}");
        }
    }

    #[test]
    fn a_first_pair_for_other_hosts_is_an_error() {
        let folder = Folder::new("names");
        folder.put(&bundle(now()));
        assert!(CertReloader::open(folder.files(&["localhost", "127.0.0.1"])).is_ok());
        let error = CertReloader::open(folder.files(&["localhost", "nicplug.nicplug.svc"])).err().unwrap();
        assert!(error.to_string().contains("--cert-dns-name"), "{error}");
    }
}
