//! Where `nicplug serve` gets its certificate from: files that another program renews, or a Secret that nicplug renews.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use clap::Args;

use super::{
    leader_task::LeaderTask,
    replica::{environment, identity},
    source::SourceArgs,
};
use crate::{
    certificates::{Host, renewal::CertificatePlan},
    cli::values::HumanDuration,
    controllers::{
        certificates::{CertificateController, ObjectNames},
        leader_election::{LeaderElector, Timings},
    },
    server::{
        readiness::Check,
        reload::{self, every},
        tls::{
            CertResolver,
            files::{CertFiles, CertReloader},
            self_signed,
        },
    },
};

/// The file in a pod that holds the namespace of the pod.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The interval at which the leader checks whether a certificate must be renewed; it also checks after each change.
const LEADER_INTERVAL: Duration = Duration::from_secs(10);

/// The flags of the serving certificate.
#[derive(Args, Debug)]
pub(super) struct CertificateArgs {
    /// files: another program writes the certificate to files. self-signed: nicplug creates it in a Secret that all
    /// replicas share, and writes its CA to the caBundle of the webhook configurations.
    #[arg(long, value_name = "files|self-signed", env = "NICPLUG_CERT_SOURCE", default_value_t)]
    #[arg(help_heading = "Certificate")]
    cert_source: CertSource,
    /// For files: the certificate chain of the server, PEM, with the server's own certificate first.
    #[arg(long, value_name = "FILE", env = "NICPLUG_TLS_CERT", help_heading = "Certificate")]
    #[arg(required_unless_present_any = ["cert_secret"])]
    tls_cert: Option<PathBuf>,
    /// For files: the key of the server, PEM.
    #[arg(long, value_name = "FILE", env = "NICPLUG_TLS_KEY", help_heading = "Certificate")]
    #[arg(required_unless_present_any = ["cert_secret"])]
    tls_key: Option<PathBuf>,
    /// For files: how often to check them for a new pair. An invalid pair is not used; the last valid pair stays.
    #[arg(long, value_name = "TIME", env = "NICPLUG_TLS_POLL", default_value_t = HumanDuration(reload::INTERVAL))]
    #[arg(help_heading = "Certificate")]
    tls_poll: HumanDuration,
    /// A DNS name or IP address that clients use for the server, such as nicplug.nicplug.svc; may be repeated. The
    /// certificate must be valid for all of them.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CERT_DNS_NAME", value_delimiter = ',')]
    #[arg(help_heading = "Certificate")]
    cert_dns_name: Vec<Host>,
    /// For self-signed: the Secret that holds the certificate. The Lease that elects the leader has the same name.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CERT_SECRET", help_heading = "Certificate")]
    cert_secret: Option<String>,
    /// For self-signed: the namespace of the Secret [default: $POD_NAMESPACE, else the namespace of the pod].
    #[arg(long, value_name = "NAMESPACE", env = "NICPLUG_CERT_NAMESPACE", help_heading = "Certificate")]
    cert_namespace: Option<String>,
    /// For self-signed: the name of the ValidatingWebhookConfiguration and of the MutatingWebhookConfiguration.
    #[arg(long, value_name = "NAME", env = "NICPLUG_WEBHOOK_CONFIG", help_heading = "Certificate")]
    webhook_config: Option<String>,
}

/// Who creates the certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum CertSource {
    /// Another program, which writes files.
    #[default]
    Files,
    /// nicplug, with a CA of its own.
    SelfSigned,
}

/// The value of `--cert-source` is not known.
#[derive(Debug, thiserror::Error)]
#[error("write files or self-signed")]
struct UnknownCertSource;

impl FromStr for CertSource {
    type Err = UnknownCertSource;

    fn from_str(text: &str) -> Result<Self, UnknownCertSource> {
        match text {
            "files" => Ok(Self::Files),
            "self-signed" => Ok(Self::SelfSigned),
            _ => Err(UnknownCertSource),
        }
    }
}

impl fmt::Display for CertSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Files => "files",
            Self::SelfSigned => "self-signed",
        })
    }
}

/// A certificate whose flags are checked, and that nothing keeps up to date yet.
pub(super) enum Certificate {
    /// In files, whose first pair is read.
    Files { reloader: CertReloader, poll: Duration },
    /// In a Secret of the cluster.
    SelfSigned { names: ObjectNames, plan: CertificatePlan, resolver: CertResolver },
}

impl CertificateArgs {
    /// Reads the pair of the files, or checks that all flags are given that a self-signed certificate needs.
    pub(super) fn open(&self) -> anyhow::Result<Certificate> {
        match self.cert_source {
            CertSource::Files => {
                let certificate = self.tls_cert.clone().context("--cert-source files needs --tls-cert")?;
                let key = self.tls_key.clone().context("--cert-source files needs --tls-key")?;
                let reloader = CertReloader::open(CertFiles { certificate, key, hosts: self.cert_dns_name.clone() });
                let reloader = reloader.context("--tls-cert and --tls-key")?;
                Ok(Certificate::Files { reloader, poll: self.tls_poll.0 })
            }
            CertSource::SelfSigned => {
                ensure!(!self.cert_dns_name.is_empty(), "--cert-source self-signed needs --cert-dns-name");
                let names = ObjectNames {
                    namespace: self.namespace(Path::new(NAMESPACE_FILE))?,
                    secret: self.cert_secret.clone().context("--cert-source self-signed needs --cert-secret")?,
                    webhooks: self
                        .webhook_config
                        .clone()
                        .context("--cert-source self-signed needs --webhook-config")?,
                };
                let plan = CertificatePlan::new(self.cert_dns_name.clone());
                Ok(Certificate::SelfSigned { names, plan, resolver: CertResolver::default() })
            }
        }
    }

    fn namespace(&self, file: &Path) -> anyhow::Result<String> {
        let given = self.cert_namespace.clone().or_else(|| environment("POD_NAMESPACE"));
        let given = given.or_else(|| fs::read_to_string(file).ok().map(|text| text.trim().to_owned()));
        given.context("--cert-source self-signed needs --cert-namespace or POD_NAMESPACE outside of a pod")
    }
}

impl Certificate {
    /// Returns the resolver by which a server gets the current certificate.
    pub(super) fn resolver(&self) -> CertResolver {
        match self {
            Self::Files { reloader, .. } => reloader.certificates(),
            Self::SelfSigned { resolver, .. } => resolver.clone(),
        }
    }

    /// Keeps the certificate up to date in the background, and reports its state to `check`. Returns the task of the
    /// leader, if the certificate needs one.
    pub(super) async fn start(self, check: Check, cluster: &SourceArgs) -> anyhow::Result<Option<LeaderTask>> {
        match self {
            Self::Files { reloader, poll } => {
                tokio::spawn(reloader.run(check, SystemTime::now, every(poll)));
                Ok(None)
            }
            Self::SelfSigned { names, plan, resolver } => {
                let client = cluster.client().await.context("--cert-source self-signed needs a cluster")?;
                let elector = LeaderElector::new(
                    client.clone(),
                    &names.namespace,
                    &names.secret,
                    &identity(),
                    Timings::default(),
                );
                let controller = Arc::new(CertificateController::new(client, names, plan, SystemTime::now));
                tokio::spawn(self_signed::run(
                    resolver,
                    controller.serving_cert(),
                    check,
                    SystemTime::now,
                    every(self_signed::CHECK_INTERVAL),
                ));
                let watching = Arc::clone(&controller);
                tokio::spawn(async move { watching.watch().await });
                let work = move || {
                    let controller = Arc::clone(&controller);
                    async move { controller.lead(every(LEADER_INTERVAL)).await }
                };
                Ok(Some(LeaderTask::start(elector, work, || ())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        certificates: CertificateArgs,
    }

    /// Returns the error that these flags cause; empty without one.
    fn error_of(flags: &[&str]) -> String {
        let line = match Line::try_parse_from(["nicplug"].iter().chain(flags)) {
            Ok(line) => line,
            Err(error) => return error.to_string(),
        };
        line.certificates.open().err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn the_error_for_a_missing_certificate_names_the_flag_and_the_file() {
        let error = error_of(&["--tls-cert", "missing.crt", "--tls-key", "missing.key"]);
        assert!(error.contains("--tls-cert") && error.contains("missing.crt"), "{error}");
    }

    #[test]
    fn each_source_names_the_flags_that_it_needs() {
        for flags in [vec![], vec!["--cert-source", "files"], vec!["--tls-cert", "a"]] {
            assert!(error_of(&flags).contains("--tls-key"), "{flags:?}");
        }
        let mut flags = vec!["--cert-source", "self-signed", "--cert-secret", "certificates", "--cert-namespace", "n"];
        assert!(error_of(&flags).contains("--cert-dns-name"));
        flags.extend(["--cert-dns-name", "nicplug.nicplug.svc"]);
        assert!(error_of(&flags).contains("--webhook-config"));
        flags.extend(["--webhook-config", "nicplug"]);
        assert_eq!(error_of(&flags), "");
        assert!(error_of(&["--cert-source", "other"]).contains("files or self-signed"));
    }
}
