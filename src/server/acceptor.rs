//! Accepts connections, and holds their number to its limit.
//!
//! The task has a thread of its own, which waits for the connections itself: on a thread with requests it would wait for
//! those, and on a runtime with several threads two would be woken for each connection.

use std::{convert::Infallible, future::Future, io, panic, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinError,
    time::{self, Instant},
};

use super::{
    RETRY_DELAYS,
    connection::{
        ConnectionContext,
        places::Places,
        threads::{Accepted, Connections, Threads},
    },
    counts::Counts,
    in_flight::LogLimit,
    open_files,
};
use crate::k8s::backoff::Backoff;

/// The pause after which the server looks again for connections that are too many: a handshake that ends, or a
/// connection that becomes idle, is not an event for it.
const PLACE_PAUSE: Duration = Duration::from_millis(100);

/// A listener with its open connections.
pub(super) struct Acceptor {
    listener: TcpListener,
    connections: Connections,
    context: Arc<ConnectionContext>,
    counts: Counts,
}

impl Acceptor {
    /// # Errors
    /// The listener cannot be moved to the runtime of its thread.
    pub(super) fn new(
        listener: TcpListener,
        connections: Connections,
        context: Arc<ConnectionContext>,
        counts: Counts,
    ) -> io::Result<Self> {
        let listener = connections.threads().listener(listener)?;
        Ok(Self { listener, connections, context, counts })
    }

    pub(super) fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Returns the open connections, and closes the listener.
    pub(super) fn into_connections(self) -> Connections {
        self.connections
    }

    /// Accepts connections until `end`.
    pub(super) async fn accept_until(self, end: impl Future<Output = ()>) -> Self {
        // The task ends too if this future is dropped.
        let (stop, stopped) = oneshot::channel();
        let threads = self.connections.threads().clone();
        let mut task = threads.spawn_accepting(self.accept(stopped));
        tokio::select! {
            () = end => drop(stop),
            result = &mut task => return of_task(result),
        }
        of_task(task.await)
    }

    /// Accepts connections until the sender of `stopped` is dropped.
    async fn accept(mut self, mut stopped: oneshot::Receiver<Infallible>) -> Self {
        let mut backoff = Backoff::new(RETRY_DELAYS);
        let mut retry_at = None;
        let limit = self.context.limits.connections;
        let places = Places::new(&self.context.limits);
        let full = LogLimit::new();
        let threads = self.connections.threads().clone();
        loop {
            let removed = self.connections.remove_surplus(places);
            let open = self.connections.len();
            let is_full = open >= places.most();
            if removed > 0 || is_full {
                self.counts.removed().add(removed);
                if let Some(suppressed) = full.pass() {
                    tracing::warn!(
                        limit,
                        open,
                        removed,
                        suppressed,
                        "the limit of connections is reached (--max-connections)"
                    );
                }
            }
            tokio::select! {
                _ = &mut stopped => return self,
                () = self.connections.one_ended(), if !places.suffice(open) => {}
                () = time::sleep(PLACE_PAUSE), if !places.suffice(open) => {}
                accepted = accept(&self.listener, &threads, retry_at), if !is_full => match accepted {
                    Ok(connection) => {
                        backoff.reset();
                        retry_at = None;
                        self.connections.open(connection, &self.context);
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        if open_files::is_exhausted(&error) {
                            self.counts.removed().add(self.connections.remove_one(places));
                        }
                        let pause = backoff.next_delay();
                        retry_at = Some(Instant::now() + pause);
                        tracing::error!(%error, ?pause, "cannot accept connections");
                    }
                }
            }
        }
    }
}

/// Returns the result of the task, or panics as it did.
fn of_task(result: Result<Acceptor, JoinError>) -> Acceptor {
    result.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))
}

/// Waits until the end of the pause, then for a connection. It can be dropped at any await without losing a connection.
async fn accept(listener: &TcpListener, threads: &Threads, pause: Option<Instant>) -> io::Result<Accepted> {
    if let Some(end) = pause {
        time::sleep_until(end).await;
    }
    threads.accept(listener).await
}

/// Whether the client closed the connection before it was accepted. Any other error concerns the process or the
/// machine, and lasts.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
