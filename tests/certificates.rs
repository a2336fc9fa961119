//! The life of certificates: how others failed at it, one test a failure.
//!
//! Nothing here waits for a time to pass: the clock and the ticks are the tests' own, and they wait for events.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::{
    fs,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::stream;
use nicplug::{
    admission::Reviewer,
    certificates::{self, Bundle, Host},
    facts::NoFacts,
    server::{
        Config, Drain, Limits, Server,
        health::Readiness,
        tls::files::{Files, Keeper},
    },
    settings::Settings,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(3), Box::pin(test)).await.expect("the awaited event never came")
}

// === Clients ===

fn bundle() -> Bundle {
    certificates::make(&Host::local().unwrap(), SystemTime::now()).unwrap()
}

/// A handshake with a server, by a client that trusts the authorities of this PEM text.
async fn shake_hands(address: SocketAddr, authorities: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

// === Files ===

/// A volume as the kubelet mounts a Secret: `tls.crt` is a link to `..data/tls.crt`, and `..data` one to a folder.
struct Volume {
    path: PathBuf,
    swaps: usize,
}

impl Volume {
    fn holding(name: &str, bundle: &Bundle) -> Self {
        let path = std::env::temp_dir().join(format!("nicplug-volume-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), path.join(file)).unwrap();
        }
        let mut volume = Self { path, swaps: 0 };
        volume.swap(&bundle.server, &bundle.server_key);
        volume
    }

    /// A new folder, a new link in the place of the old one, and the old folder is gone.
    fn swap(&mut self, certificate: &str, key: &str) {
        let before = fs::read_link(self.path.join("..data"));
        self.swaps += 1;
        let folder = format!("..2026_11_25_{}", self.swaps);
        fs::create_dir(self.path.join(&folder)).unwrap();
        fs::write(self.path.join(&folder).join("tls.crt"), certificate).unwrap();
        fs::write(self.path.join(&folder).join("tls.key"), key).unwrap();
        symlink(&folder, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        if let Ok(before) = before {
            fs::remove_dir_all(self.path.join(before)).unwrap();
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A server that shows what a volume holds, and looks when it is told to.
struct Replica {
    address: SocketAddr,
    readiness: Readiness,
    ticks: mpsc::UnboundedSender<()>,
}

impl Replica {
    async fn start(volume: &Volume) -> Self {
        let (certificate, key) = (volume.path.join("tls.crt"), volume.path.join("tls.key"));
        let keeper = Keeper::open(Files { certificate, key, hosts: Host::local().unwrap() }).unwrap();
        let config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            health_listen: None,
            certificate: keeper.shown(),
            client_authorities: None,
            limits: Limits::default(),
            drain: Drain::default(),
        };
        let server = Server::bind(config, Reviewer::new(Arc::new(NoFacts), Settings::default())).await.unwrap();
        let (address, readiness) = (server.local_addr(), server.readiness().clone());
        let (ticks, mut ticked) = mpsc::unbounded_channel();
        let check = readiness.add("certificate", "not looked at yet");
        tokio::spawn(keeper.keep(check, SystemTime::now, stream::poll_fn(move |cx| ticked.poll_recv(cx))));
        tokio::spawn(server.run(std::future::pending()));
        let replica = Self { address, readiness, ticks };
        replica.reports("[+]certificate ok").await;
        replica
    }

    /// Lets the server look, until it reports this.
    async fn reports(&self, text: &str) {
        while !self.readiness.report().contains(text) {
            self.ticks.send(()).unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Lets the server look, until it shows a certificate of this authority.
    async fn shows(&self, bundle: &Bundle) {
        while shake_hands(self.address, &bundle.authority).await.is_err() {
            self.ticks.send(()).unwrap();
        }
    }
}

/// linkerd2#7519, #6940, #5888, #5551. A watch on the file would hear of the first swap at most.
#[tokio::test]
async fn new_files_are_served_without_a_restart_and_broken_ones_never() {
    guarded(async {
        let [first, second, third] = [bundle(), bundle(), bundle()];
        let mut volume = Volume::holding("swaps", &first);
        let replica = Replica::start(&volume).await;
        shake_hands(replica.address, &first.authority).await.unwrap();

        volume.swap(&second.server, &second.server_key);
        replica.shows(&second).await;
        assert!(shake_hands(replica.address, &first.authority).await.is_err());

        volume.swap(&third.server, &second.server_key);
        replica.reports("does not belong to the certificate").await;
        assert!(replica.readiness.is_ready(), "the pair that is shown is as good as it was");
        shake_hands(replica.address, &second.authority).await.unwrap();

        volume.swap(&third.server, &third.server_key);
        replica.shows(&third).await;
        assert!(!replica.readiness.report().contains("refused"));
    })
    .await;
}
