//! A background task that only the leader among the replicas runs.

use std::convert::Infallible;

use tokio::{sync::oneshot, task::JoinHandle};

use crate::controllers::leader_election::LeaderElector;

/// A task that takes part in an election, and does its work while this replica leads.
///
/// Dropped, it stops like by [`stop`](Self::stop), but unobserved.
pub(super) struct LeaderTask {
    /// Nothing is ever sent: dropping it is the signal.
    stop: Option<oneshot::Sender<Infallible>>,
    task: JoinHandle<()>,
}

impl LeaderTask {
    /// Starts the task; needs a runtime. `work` starts the work of one term, which the end of the term drops; `stopped`
    /// is called once, after the last term.
    pub(super) fn start<W>(
        elector: LeaderElector,
        work: impl FnMut() -> W + Send + 'static,
        stopped: impl FnOnce() + Send + 'static,
    ) -> Self
    where
        W: Future<Output = Infallible> + Send + 'static,
    {
        let (stop, stop_requested) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stop_requested.await;
            };
            elector.run(work, shutdown).await;
            stopped();
        });
        Self { stop: Some(stop), task }
    }

    /// Requests the end: the work stops, and the Lease is released, so that another replica leads without a wait.
    pub(super) fn stop(&mut self) {
        self.stop = None;
    }

    /// Stops the task and waits until the Lease is released.
    pub(super) async fn join(mut self) {
        self.stop();
        // An error is a panic, which the panic hook has logged.
        let _ = self.task.await;
    }
}
