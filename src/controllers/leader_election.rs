//! Leader election among replicas with a Lease (`coordination.k8s.io/v1`), as in client-go.
//!
//! The leader's work is a future that is dropped as soon as another replica has taken the Lease, or could have taken
//! it. The same task checks the time before each poll of the work, so the work stops even if the API server does not
//! answer. A request that the work has sent may still arrive afterwards, and after a Lease is deleted by hand two
//! replicas may lead for a short time; the work must do no harm in both cases.

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
use crate::k8s::{api_error::ApiError, backoff::lengthened, log_once::LogOnce};

/// How long a leader may take to release the Lease: without the release, the others only wait longer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The leader election of one replica.
pub struct LeaderElector {
    leases: Api<Lease>,
    name: String,
    timings: Timings,
    election: Election,
    /// The Lease as last read or written.
    lease: Option<Lease>,
    is_leader: watch::Sender<bool>,
    /// Avoids a log line for each retry.
    log_once: LogOnce,
}

/// How a term as leader ended.
enum TermEnd {
    /// Another replica has the Lease, or may have it.
    Lost,
    Shutdown,
}

impl LeaderElector {
    /// Prepares the election for the Lease of a name. Each replica needs a different identity.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            timings,
            election: Election::new(identity.to_owned(), timings),
            lease: None,
            is_leader: watch::Sender::new(false),
            log_once: LogOnce::default(),
        }
    }

    /// Returns whether this replica leads, as a value that changes. It is for display only: work that only one replica
    /// may do belongs into [`run`](Self::run).
    #[must_use]
    pub fn is_leader(&self) -> watch::Receiver<bool> {
        self.is_leader.subscribe()
    }

    /// Takes part in the election until `shutdown`, then releases the Lease. Each term has its own future from `work`,
    /// which does not end by itself.
    pub async fn run<W: Future<Output = Infallible>>(
        mut self,
        mut work: impl FnMut() -> W,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                // The last attempt may be stored although its response was lost.
                () = &mut shutdown => return self.release().await,
                () = self.acquire() => {}
            }
            tracing::info!(lease = self.name, "leading");
            self.is_leader.send_replace(true);
            let end = self.lead(work(), shutdown.as_mut()).await;
            self.election.end_term();
            self.is_leader.send_replace(false);
            match end {
                TermEnd::Lost => tracing::warn!(lease = self.name, "no longer leading"),
                TermEnd::Shutdown => return self.release().await,
            }
        }
    }

    /// Waits until this replica holds the Lease.
    async fn acquire(&mut self) {
        loop {
            self.attempt().await;
            if self.election.leads_until().is_some_and(|end| Instant::now() < end) {
                return;
            }
            time::sleep(lengthened(self.timings.retry)).await;
        }
    }

    /// Runs the work and renews the Lease until the term ends, and drops the work.
    async fn lead(
        &mut self,
        work: impl Future<Output = Infallible>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> TermEnd {
        let mut work = pin!(work);
        while let Some(end) = self.election.leads_until() {
            let renewal = async {
                time::sleep(lengthened(self.timings.retry)).await;
                self.attempt().await;
            };
            tokio::select! {
                biased;
                () = reached(end) => return TermEnd::Lost,
                () = &mut shutdown => return TermEnd::Shutdown,
                () = renewal => {}
                never = &mut work => match never {},
            }
        }
        TermEnd::Lost
    }

    /// Reads the Lease if it is unknown, and writes it if the rules of the election allow. An error changes neither the
    /// leader nor the end of its term.
    async fn attempt(&mut self) {
        let limit = self.timings.renew / 2;
        let result = time::timeout(limit, self.try_once()).await.unwrap_or(Err(ApiError::TimedOut(limit)));
        if let Some(error) = self.log_once.changed(result.err().map(|error| error.to_string())) {
            tracing::warn!(lease = self.name, error, "cannot read or write the Lease");
        }
    }

    async fn try_once(&mut self) -> Result<(), ApiError> {
        // The leader knows the Lease as it wrote it: its next write fails if another replica wrote it since.
        if self.election.leads_until().is_none() || self.lease.is_none() {
            self.lease = self.leases.get_opt(&self.name).await?;
        }
        match self.election.observe(self.lease.as_ref(), Instant::now()) {
            Action::Wait => {
                if self.election.leads_until().is_some() {
                    tracing::warn!(lease = self.name, holder = self.election.holder(), "another replica has the Lease");
                    self.election.end_term();
                }
                Ok(())
            }
            Action::Create => self.write(true).await,
            Action::Renew | Action::Take => self.write(false).await,
        }
    }

    async fn write(&mut self, is_new: bool) -> Result<(), ApiError> {
        let mut record = self.election.record(self.lease.as_ref(), Timestamp::now());
        record.metadata.name = Some(self.name.clone());
        let sent = Instant::now();
        let written = if is_new {
            self.leases.create(&PostParams::default(), &record).await
        } else {
            self.leases.replace(&self.name, &PostParams::default(), &record).await
        };
        match written.map_err(ApiError::from) {
            Ok(lease) => {
                self.election.note_write(&lease, sent);
                self.lease = Some(lease);
                Ok(())
            }
            // Another replica wrote the Lease, or it was deleted: the next attempt reads it.
            Err(error) if error.is_conflict() => {
                self.lease = None;
                Ok(())
            }
            Err(error) => {
                // The write may be stored nevertheless.
                self.lease = None;
                Err(error)
            }
        }
    }

    /// Releases the Lease, so that another replica can lead at once.
    async fn release(&mut self) {
        let release = async {
            let Some(lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if self.election.observe(Some(&lease), Instant::now()) == Action::Renew {
                let record = lease::released(&lease, Timestamp::now());
                self.leases.replace(&self.name, &PostParams::default(), &record).await?;
                tracing::info!(lease = self.name, "Lease released");
            }
            Ok::<(), ApiError>(())
        };
        let released = time::timeout(RELEASE_TIMEOUT, release).await;
        if let Err(error) = released.unwrap_or(Err(ApiError::TimedOut(RELEASE_TIMEOUT))) {
            tracing::warn!(lease = self.name, %error, "cannot release the Lease");
        }
    }
}

/// Waits until a time. Polled after that time, it ends at once even if the timer has not fired: the leader's work is
/// polled after this future.
async fn reached(end: Instant) {
    let mut sleep = pin!(time::sleep_until(end.into()));
    future::poll_fn(|context| if Instant::now() >= end { Poll::Ready(()) } else { sleep.as_mut().poll(context) }).await;
}
