//! A pair of files that somebody else renews: cert-manager or an administrator, by way of a volume.
//!
//! A pair is shown only after it was held against itself, the names and the clock. On any fault the last good pair stays,
//! and one line in the log says so: one a change, not one a look.

use std::{path::PathBuf, time::SystemTime};

use futures_util::Stream;

use super::{CertResolver, Origin, Pair, TlsError, expiry::ExpiryMonitor, read};
use crate::{
    certificates::Host,
    server::{
        health::Check,
        reload::{Taken, keep_looking},
    },
};

/// Where the pair is, and what it has to be good for.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, PEM; the server's own certificate first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// What clients call the server; a certificate that is not for all of them is refused.
    pub hosts: Vec<Host>,
}

/// What stands in the files. Not to be printed: it holds the key.
#[derive(PartialEq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// The pair, whatever the clock says.
    fn pair(&self, contents: &Contents) -> Result<Pair, TlsError> {
        let (certificate, key) = (Origin::File(self.certificate.clone()), Origin::File(self.key.clone()));
        let pair = Pair::new(&contents.certificate, &contents.key, &certificate, &key)?;
        pair.check_hosts(&self.hosts)?;
        Ok(pair)
    }

    fn pair_at(&self, contents: &Contents, now: SystemTime) -> Result<Pair, TlsError> {
        let pair = self.pair(contents)?;
        pair.check_dates(now)?;
        Ok(pair)
    }
}

/// Shows the pair of the files, and takes up what comes after it.
pub struct Keeper {
    files: Files,
    shown: CertResolver,
    taken: Taken<Contents>,
}

impl Keeper {
    /// Reads the first pair. Its dates do not matter: there is nothing better to show, and time or a renewal cures them.
    ///
    /// # Errors
    /// There is no pair in the files, or it is not for all hosts.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let shown = files.pair(&contents)?.into();
        Ok(Self { files, shown, taken: Taken(contents) })
    }

    /// What a server is to be given.
    #[must_use]
    pub fn shown(&self) -> CertResolver {
        self.shown.clone()
    }

    /// RecheckCounts at once and with every tick, until there are none any more; tells `check` how things stand.
    pub async fn keep(mut self, check: Check, clock: impl Fn() -> SystemTime, ticks: impl Stream<Item = ()>) {
        let mut expiry = ExpiryMonitor::new(self.shown.clone(), check);
        keep_looking(ticks, || self.look(&mut expiry, clock())).await;
    }

    fn look(&mut self, expiry: &mut ExpiryMonitor, now: SystemTime) {
        let files = &self.files;
        match self.taken.news(|| files.read(), |contents| files.pair_at(contents, now)) {
            Ok(Some((contents, pair))) => {
                self.shown.show(pair);
                self.taken = Taken(contents);
                expiry.replaced();
            }
            Ok(None) => expiry.clear(),
            Err(error) => expiry.refuse(error.to_string()),
        }
        expiry.tell(now);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        certificates::{self, GeneratedCertificates, validity::date},
        server::health::Readiness,
    };

    const NOW: Duration = Duration::from_hours(24 * 365 * 56);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    /// A folder with a pair in it, gone after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = Self(std::env::temp_dir().join(format!("nicplug-files-{name}-{}", std::process::id())));
            let _ = fs::remove_dir_all(&folder.0);
            fs::create_dir(&folder.0).unwrap();
            folder
        }

        fn holding(name: &str, bundle: &GeneratedCertificates) -> (Self, Keeping) {
            let folder = Self::new(name);
            folder.put(bundle);
            let keeper = Keeper::open(folder.files(&["localhost"])).unwrap();
            let readiness = Readiness::default();
            let expiry = ExpiryMonitor::new(keeper.shown(), readiness.add("certificate", "not looked at"));
            (folder, Keeping { keeper, expiry, readiness })
        }

        fn files(&self, hosts: &[&str]) -> Files {
            let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
            Files { certificate: self.0.join("tls.crt"), key: self.0.join("tls.key"), hosts }
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

    struct Keeping {
        keeper: Keeper,
        expiry: ExpiryMonitor,
        readiness: Readiness,
    }

    impl Keeping {
        /// What is told after a look.
        fn look(&mut self, now: SystemTime) -> String {
            self.keeper.look(&mut self.expiry, now);
            self.readiness.report()
        }
    }

    fn bundle(made: SystemTime) -> GeneratedCertificates {
        certificates::generate(&Host::local().unwrap(), made).unwrap()
    }

    fn until(moment: SystemTime) -> String {
        format!("until {}", date(moment + certificates::SERVER_LIFETIME))
    }

    #[test]
    fn a_new_pair_is_taken_up_and_a_pair_that_stays_is_not() {
        let (folder, mut keeping) = Folder::holding("new", &bundle(now()));
        let first = keeping.keeper.shown.pair().unwrap();
        let report = keeping.look(now());
        assert!(report.contains(&until(now())), "{report}");
        assert!(Arc::ptr_eq(&first, &keeping.keeper.shown.pair().unwrap()));
        let day = Duration::from_hours(24);
        folder.put(&bundle(now() + day));
        let report = keeping.look(now() + day);
        assert!(report.contains(&until(now() + day)) && !report.contains("refused"), "{report}");
    }

    #[test]
    fn on_every_fault_the_last_good_pair_stays_and_the_fault_is_told() {
        let day = Duration::from_hours(24);
        let (good, other) = (bundle(now()), bundle(now()));
        let (folder, mut keeping) = Folder::holding("faults", &good);
        let stranger = certificates::generate(&["elsewhere".parse().unwrap()], now()).unwrap();
        let (early, late) = (bundle(now() + day), bundle(now() - 2 * certificates::SERVER_LIFETIME));
        for (certificate, key, fault) in [
            (other.server.as_str(), good.server_key.as_str(), "does not belong"),
            (&other.server[..300], &other.server_key, "no certificate"),
            ("", &other.server_key, "no certificate"),
            (&other.server, "", "no private key"),
            (&other.server, &other.server_key[..100], "no private key"),
            (&stranger.server, &stranger.server_key, "\"localhost\""),
            (&early.server, &early.server_key, "not valid yet"),
            (&late.server, &late.server_key, "has expired"),
        ] {
            folder.write("tls.crt", certificate);
            folder.write("tls.key", key);
            let report = keeping.look(now());
            assert!(report.contains("refused") && report.contains(fault), "{fault}: {report}");
            assert!(report.contains(&until(now())) && keeping.readiness.is_ready(), "{report}");
            assert!(key.lines().skip(1).all(|line| !report.contains(line)), "{report}");
        }
        // Two of them have the same words as the one before, and so are no news.
        assert_eq!(keeping.keeper.shown.faults(), 6);
        keeping.look(now());
        assert_eq!(keeping.keeper.shown.faults(), 6, "one that lasts is counted once");
        fs::remove_file(folder.0.join("tls.key")).unwrap();
        let report = keeping.look(now());
        assert!(report.contains("cannot read"), "{report}");

        folder.put(&good);
        let report = keeping.look(now());
        assert!(!report.contains("refused"), "{report}");
    }

    /// Time cures what was early.
    #[test]
    fn a_pair_that_is_not_valid_yet_is_taken_up_when_it_is() {
        let day = Duration::from_hours(24);
        let (folder, mut keeping) = Folder::holding("early", &bundle(now()));
        folder.put(&bundle(now() + day));
        let report = keeping.look(now());
        assert!(report.contains("not valid yet"), "{report}");
        let report = keeping.look(now() + day);
        assert!(report.contains(&until(now() + day)) && !report.contains("refused"), "{report}");
    }

    #[test]
    fn age_is_told_by_the_share_of_a_life_that_is_over() {
        let (_folder, mut keeping) = Folder::holding("age", &bundle(now()));
        let life = certificates::SERVER_LIFETIME;
        for (moment, word, is_ready) in [
            (now() + life / 2, "Z\n", true),
            (now() + life / 10 * 7, "Z\n", true),
            (now() + life / 10 * 9, "should have been renewed", true),
            (now() + life + life / 10, "is over", false),
            (now() - life, "still to come", false),
            (now(), "Z\n", true),
        ] {
            let report = keeping.look(moment);
            assert!(report.contains(word), "{word}: {report}");
            assert_eq!(keeping.readiness.is_ready(), is_ready, "{report}");
        }
    }

    #[test]
    fn a_first_pair_that_is_not_for_the_names_is_refused_at_once() {
        let folder = Folder::new("names");
        folder.put(&bundle(now()));
        assert!(Keeper::open(folder.files(&["localhost", "127.0.0.1"])).is_ok());
        let error = Keeper::open(folder.files(&["localhost", "nicplug.nicplug.svc"])).err().unwrap();
        assert!(error.to_string().contains("--cert-dns-name"), "{error}");
    }
}
