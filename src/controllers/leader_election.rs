//! One leader among replicas, by a Lease (`coordination.k8s.io/v1`), as client-go elects one.
//!
//! The work of a leader is a future that only the leader polls: it is dropped as soon as the Lease was taken by another,
//! or could have been. That is looked at before each step of the work, in the same task, so the work stops even if the
//! API server does not answer. What the work has sent may still arrive later, and a Lease that somebody deletes by hand
//! has nobody's word any more; the work has to be such that this does no harm.

mod lease;

use std::{
    convert::Infallible,
    future::{self, Future},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time};

pub use self::lease::Timings;
use self::lease::{Action, Election};
use crate::k8s::{backoff::jittered, log_once::LogOnce};

/// How long the farewell of a leader may take: it saves the others their wait, and no more.
const FAREWELL: Duration = Duration::from_secs(2);

/// A replica that wants to lead.
pub struct LeaderElector {
    leases: Api<Lease>,
    name: String,
    timings: Timings,
    election: Election,
    /// The Lease as it was last read or written.
    lease: Option<Lease>,
    leads: watch::Sender<bool>,
    /// What was logged last, so that it is not logged every two seconds.
    log_once: LogOnce,
}

/// How a time in office ended.
enum End {
    Lost,
    Shutdown,
}

impl LeaderElector {
    /// A candidate for the Lease of a name. No two replicas may have the same identity.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            timings,
            election: Election::new(identity.to_owned(), timings),
            lease: None,
            leads: watch::Sender::new(false),
            log_once: LogOnce::default(),
        }
    }

    /// Whether this replica leads, now and later. Only for others to see: work that must not be done twice is given to
    /// [`run`](Self::run).
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Stands for election, again and again, until `shutdown`; then gives the Lease back. Each time in office has a
    /// `work` of its own, which does not end by itself.
    pub async fn run<W: Future<Output = Infallible>>(
        mut self,
        mut work: impl FnMut() -> W,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                // The last attempt may have been stored unnoticed.
                () = &mut shutdown => return self.give_back().await,
                () = self.acquire() => {}
            }
            tracing::info!(lease = self.name, "leading");
            self.leads.send_replace(true);
            let end = self.lead(work(), shutdown.as_mut()).await;
            self.election.resign();
            self.leads.send_replace(false);
            match end {
                End::Lost => tracing::warn!(lease = self.name, "not leading any more"),
                End::Shutdown => return self.give_back().await,
            }
        }
    }

    /// Waits until the Lease is ours.
    async fn acquire(&mut self) {
        loop {
            self.attempt().await;
            if self.election.leads_until().is_some_and(|end| Instant::now() < end) {
                return;
            }
            time::sleep(jittered(self.timings.retry)).await;
        }
    }

    /// Works, and renews the Lease. Returns, with the work dropped, when it is lost or not to be had any longer.
    async fn lead(
        &mut self,
        work: impl Future<Output = Infallible>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let mut work = pin!(work);
        while let Some(end) = self.election.leads_until() {
            let renewal = async {
                time::sleep(jittered(self.timings.retry)).await;
                self.attempt().await;
            };
            tokio::select! {
                biased;
                () = passed(end) => return End::Lost,
                () = &mut shutdown => return End::Shutdown,
                () = renewal => {}
                never = &mut work => match never {},
            }
        }
        End::Lost
    }

    /// Reads the Lease where it is not known, and writes it where that is our turn. An error is no news: neither who
    /// leads nor until when changes by it.
    async fn attempt(&mut self) {
        let attempt = time::timeout(self.timings.renew / 2, self.try_once()).await;
        let trouble = match attempt {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = self.log_once.changed(trouble) {
            tracing::warn!(lease = self.name, error, "the lease cannot be read or written");
        }
    }

    async fn try_once(&mut self) -> Result<(), kube::Error> {
        // A leader knows the Lease as it wrote it, and needs no further look unless somebody else wrote it too.
        if self.election.leads_until().is_none() || self.lease.is_none() {
            self.lease = self.leases.get_opt(&self.name).await?;
        }
        match self.election.see(self.lease.as_ref(), Instant::now()) {
            Action::Wait => {
                if self.election.leads_until().is_some() {
                    tracing::warn!(lease = self.name, holder = self.election.holder(), "another took the lease");
                    self.election.resign();
                }
                Ok(())
            }
            Action::Create => self.write(true).await,
            Action::Renew | Action::Take => self.write(false).await,
        }
    }

    async fn write(&mut self, is_new: bool) -> Result<(), kube::Error> {
        let mut record = self.election.record(self.lease.as_ref(), Timestamp::now());
        record.metadata.name = Some(self.name.clone());
        let sent = Instant::now();
        let written = if is_new {
            self.leases.create(&PostParams::default(), &record).await
        } else {
            self.leases.replace(&self.name, &PostParams::default(), &record).await
        };
        match written {
            Ok(lease) => {
                self.election.wrote(&lease, sent);
                self.lease = Some(lease);
                Ok(())
            }
            // Somebody was faster, or deleted it: the next attempt reads it anew.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                self.lease = None;
                Ok(())
            }
            Err(error) => {
                // It may be stored all the same.
                self.lease = None;
                Err(error)
            }
        }
    }

    /// Lets the next one in at once. Whatever goes wrong here costs the others their wait.
    async fn give_back(&mut self) {
        let release = async {
            let Some(lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if self.election.see(Some(&lease), Instant::now()) == Action::Renew {
                let record = lease::release(&lease, Timestamp::now());
                self.leases.replace(&self.name, &PostParams::default(), &record).await?;
                tracing::info!(lease = self.name, "gave the lease back");
            }
            Ok::<(), kube::Error>(())
        };
        match time::timeout(FAREWELL, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "the lease was not given back"),
            Err(_) => tracing::warn!(lease = self.name, "the lease was not given back in time"),
        }
    }
}

/// Waits for a moment. Asked after it, this is over at once, even if the timer has not run yet: the work of a leader is
/// asked after this.
async fn passed(end: Instant) {
    let mut sleep = pin!(time::sleep_until(end.into()));
    future::poll_fn(|context| if Instant::now() >= end { Poll::Ready(()) } else { sleep.as_mut().poll(context) }).await;
}
