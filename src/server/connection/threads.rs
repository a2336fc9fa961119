//! The open connections and their threads: one thread per processor, and a connection stays on one thread.
//!
//! A runtime with several threads wakes a second thread whenever an idle one finds work, in case there is more work. An
//! answer takes less time than that, so most requests would wake a thread that finds nothing to do.

use std::{
    collections::HashMap,
    convert::Infallible,
    future, io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    sync::Arc,
    thread,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
    task::{Id, JoinSet, yield_now},
    time::{Instant, sleep},
};

use super::{
    ConnectionContext,
    places::{Place, Places, Removal},
    timeouts::ConnectionTimeouts,
};
use crate::server::connection;

/// The open connections.
pub(crate) struct Connections {
    threads: Vec<Arc<Thread>>,
    tasks: JoinSet<()>,
    open: HashMap<Id, OpenConnection>,
}

/// An open connection.
struct OpenConnection {
    _thread: Arc<Thread>,
    /// Removes the connection; when it is dropped, as by [`Removal::Close`]. `None` if it was used.
    remover: Option<oneshot::Sender<Removal>>,
    address: IpAddr,
    timeouts: Arc<ConnectionTimeouts>,
}

impl Connections {
    /// Starts the threads.
    ///
    /// # Errors
    /// The process has reached a limit of threads or of file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (0..count).map(|_| Thread::start().map(Arc::new)).collect::<io::Result<_>>()?;
        Ok(Self { threads, tasks: JoinSet::new(), open: HashMap::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Serves a connection on the thread with the fewest connections.
    ///
    /// # Errors
    /// The connection cannot be moved to the thread, and is closed.
    pub(crate) fn open(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        context: &Arc<ConnectionContext>,
    ) -> io::Result<()> {
        // Each open connection holds one reference to its thread.
        let fewest = self.threads.iter().min_by_key(|thread| Arc::strong_count(thread));
        let thread = fewest.ok_or_else(|| io::Error::other("no threads for connections"))?;
        // Registers the socket with the runtime of that thread.
        let _runtime = thread.runtime.enter();
        let stream = TcpStream::from_std(stream.into_std()?)?;
        let (remover, removed) = oneshot::channel();
        let timeouts = Arc::new(ConnectionTimeouts::new(&context.limits, fastrand::u32(..)));
        let removal = removal(removed, Arc::clone(&timeouts));
        let serve = connection::serve(stream, peer, Arc::clone(context), Arc::clone(&timeouts), removal);
        let task = self.tasks.spawn(serve);
        let open = OpenConnection {
            _thread: Arc::clone(thread),
            remover: Some(remover),
            address: peer.ip().to_canonical(),
            timeouts,
        };
        self.open.insert(task.id(), open);
        Ok(())
    }

    /// Removes the connections that are too many, as far as they wait for their clients; see [`Places::to_remove`].
    /// Returns their number.
    pub(crate) fn remove_surplus(&mut self, places: Places) -> usize {
        // Fewer connections cannot be too many, and they are not looked at for each new one.
        if places.suffice(self.len()) {
            return 0;
        }
        self.remove(places, usize::MAX)
    }

    /// Removes one connection that waits for its client, because the process needs its file descriptor. Returns the
    /// number of removed ones.
    pub(crate) fn remove_one(&mut self, places: Places) -> usize {
        self.remove(places.only_one(), 1)
    }

    fn remove(&mut self, places: Places, at_most: usize) -> usize {
        let staying = self.open.iter().filter(|(_, connection)| connection.remover.is_some());
        let mut all: Vec<_> = staying
            .filter_map(|(&id, connection)| {
                let used_for = connection.timeouts.current_use()?;
                Some(Place { id, address: connection.address, used_for })
            })
            .collect();
        let (now, before) = (Instant::now(), all.len());
        while before - all.len() < at_most
            && let Some((id, removal)) = places.to_remove(&all, now)
        {
            all.retain(|place| place.id != id);
            if let Some(remover) = self.open.get_mut(&id).and_then(|connection| connection.remover.take()) {
                // The error says that the connection has ended.
                let _ = remover.send(removal);
            }
        }
        before - all.len()
    }

    /// Waits until a connection has ended; forever if there is none.
    pub(crate) async fn one_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => self.open.remove(&id),
            Some(Err(error)) => self.open.remove(&error.id()),
            None => future::pending().await,
        };
    }

    pub(crate) fn close_idle(&mut self) {
        self.open.clear();
    }

    pub(crate) async fn all_ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Waits until a connection is removed, and returns how.
async fn removal(removed: oneshot::Receiver<Removal>, timeouts: Arc<ConnectionTimeouts>) -> Removal {
    let removal = removed.await.unwrap_or(Removal::Close);
    // On a busy thread the client's bytes may have arrived without notice. After this the runtime knows of them, and the
    // task reads them before it ends the connection.
    let phase = timeouts.phase();
    yield_now().await;
    if removal == Removal::Abort && timeouts.phase() != phase {
        // A client that has just sent something is not slow: it gets time for the rest.
        sleep(timeouts.arrival()).await;
    }
    removal
}

/// A thread for connections. When it is dropped, the thread ends and drops its tasks.
struct Thread {
    runtime: Handle,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<Infallible>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("connections".to_owned()).spawn(move || {
            // The error says that the sender was dropped, which ends the thread.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { runtime: handle, _end: end })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::{
        Counts, Limits,
        tls::{self, CertResolver},
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_read_meanwhile_is_removed_later() {
        let limits = Limits::default();
        for (is_read, expected) in [(false, Duration::ZERO), (true, limits.arrival)] {
            let start = Instant::now();
            let timeouts = Arc::new(ConnectionTimeouts::new(&limits, 0));
            timeouts.begin_handshake();
            let (remover, removed) = oneshot::channel();
            remover.send(Removal::Abort).unwrap();
            if is_read {
                let timeouts = Arc::clone(&timeouts);
                tokio::spawn(async move { timeouts.end_hello() });
            }
            assert_eq!(removal(removed, timeouts).await, Removal::Abort);
            assert_eq!(start.elapsed(), expected);
        }
    }

    fn loads(connections: &Connections) -> Vec<usize> {
        connections.threads.iter().map(|thread| Arc::strong_count(thread) - 1).collect()
    }

    #[tokio::test]
    async fn connections_are_distributed_over_the_threads_until_they_end() {
        let tls = tls::server_config(CertResolver::default(), None).unwrap();
        let context = Arc::new(ConnectionContext::new(tls, Router::new(), Limits::default(), Counts::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Connections::new().unwrap();
        let threads = connections.threads.len();
        let mut clients = Vec::new();
        for _ in 0..2 * threads {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (stream, peer) = listener.accept().await.unwrap();
            connections.open(stream, peer, &context).unwrap();
        }
        assert_eq!(loads(&connections), vec![2; threads]);
        drop(clients);
        for left in (0..2 * threads).rev() {
            connections.one_ended().await;
            assert_eq!((connections.len(), loads(&connections).iter().sum()), (left, left));
        }
    }
}
