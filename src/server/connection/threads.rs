//! The open connections and their threads: one thread per processor, and a connection stays on one thread. Another
//! thread accepts them.
//!
//! A runtime with several threads wakes a second thread whenever an idle one finds work, in case there is more work. An
//! answer takes less time than that, so most requests would wake a thread that finds nothing to do.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    io, iter,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, ready},
    thread,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    sync::{Notify, oneshot},
    task::{JoinHandle, yield_now},
    time::{Instant, interval, sleep},
};

use super::{
    ConnectionContext,
    places::{Place, Places, Removal},
    timeouts::ConnectionTimeouts,
};
use crate::server::connection;

/// The time between two ticks of a thread, less than each time limit of a connection. A runtime that gets a timer which
/// is due before all others wakes itself by a call of the system; three times for a connection with one request.
const TICK: Duration = Duration::from_secs(1);

/// The open connections.
pub(crate) struct Connections {
    threads: Threads,
    open: Arc<OpenConnections>,
    /// The number of the next connection.
    next: u64,
}

impl Connections {
    /// Starts the threads.
    ///
    /// # Errors
    /// The process has reached a limit of threads or of file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { threads: Threads::start()?, open: Arc::default(), next: 0 })
    }

    /// Returns the threads, which [accept](Threads::accept) connections.
    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    pub(crate) fn len(&self) -> usize {
        self.open.all().len()
    }

    /// Serves a connection on its thread.
    pub(crate) fn open(&mut self, connection: Accepted, context: &Arc<ConnectionContext>) {
        let Accepted { stream, peer, thread } = connection;
        let (remover, removed) = oneshot::channel();
        let timeouts = Arc::new(ConnectionTimeouts::new(&context.limits, fastrand::u32(..)));
        let removal = removal(removed, Arc::clone(&timeouts));
        let registration = Registration { open: Arc::clone(&self.open), number: self.next };
        let open = OpenConnection {
            _load: thread.load,
            remover: Some(remover),
            address: peer.ip().to_canonical(),
            timeouts: Arc::clone(&timeouts),
        };
        self.open.all().insert(self.next, open);
        self.next += 1;
        thread.runtime.spawn(connection::serve(stream, peer, Arc::clone(context), timeouts, removal, registration));
    }

    /// Removes the connections that are too many, as far as they wait for their clients; see [`Places::to_remove`].
    /// Returns their number.
    pub(crate) fn remove_surplus(&self, places: Places) -> usize {
        // Fewer connections cannot be too many, and they are not looked at for each new one.
        if places.suffice(self.len()) {
            return 0;
        }
        self.remove(places, usize::MAX)
    }

    /// Removes one connection that waits for its client, because the process needs its file descriptor. Returns the
    /// number of removed ones.
    pub(crate) fn remove_one(&self, places: Places) -> usize {
        self.remove(places.only_one(), 1)
    }

    fn remove(&self, places: Places, at_most: usize) -> usize {
        let mut open = self.open.all();
        let staying = open.iter().filter(|(_, connection)| connection.remover.is_some());
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
            if let Some(remover) = open.get_mut(&id).and_then(|connection| connection.remover.take()) {
                // The error says that the connection has ended.
                let _ = remover.send(removal);
            }
        }
        before - all.len()
    }

    /// Waits until a connection has ended since this was awaited the last time.
    pub(crate) async fn one_ended(&self) {
        self.open.one_ended.notified().await;
    }

    pub(crate) fn close_idle(&self) {
        for connection in self.open.all().values_mut() {
            connection.remover = None;
        }
    }

    pub(crate) async fn all_ended(&self) {
        while self.len() > 0 {
            self.one_ended().await;
        }
    }
}

/// The open connections by their numbers. Each leaves when it ends: a task that waits for it would be woken each time.
#[derive(Default)]
struct OpenConnections {
    all: Mutex<HashMap<u64, OpenConnection>>,
    one_ended: Notify,
}

impl OpenConnections {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, OpenConnection>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection.
struct OpenConnection {
    /// A reference to [`Thread::load`].
    _load: Arc<()>,
    /// Removes the connection; when it is dropped, as by [`Removal::Close`]. `None` if it was used.
    remover: Option<oneshot::Sender<Removal>>,
    address: IpAddr,
    timeouts: Arc<ConnectionTimeouts>,
}

/// The entry of an open connection, which is removed when this is dropped.
struct Registration {
    open: Arc<OpenConnections>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let ended = self.open.all().remove(&self.number);
        drop(ended);
        self.open.one_ended.notify_one();
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

/// The threads for connections. They end, and drop their connections, when all clones are dropped.
#[derive(Clone)]
pub(crate) struct Threads {
    /// The thread that accepts connections: on one that also answers requests, newcomers would wait for those.
    accepting: Thread,
    first: Thread,
    others: Vec<Thread>,
}

/// A connection that its thread does not serve yet.
pub(crate) struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    thread: Thread,
}

impl Threads {
    fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let others = (1..count).map(|_| Thread::start("connections")).collect::<io::Result<_>>()?;
        Ok(Self { accepting: Thread::start("accept")?, first: Thread::start("connections")?, others })
    }

    /// Starts a task on the thread that accepts connections.
    pub(crate) fn spawn_accepting<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.accepting.runtime.spawn(task)
    }

    /// Moves a listener to the thread that accepts connections.
    ///
    /// # Errors
    /// The process has reached a limit of the system.
    pub(crate) fn listener(&self, listener: TcpListener) -> io::Result<TcpListener> {
        let _runtime = self.accepting.runtime.enter();
        TcpListener::from_std(listener.into_std()?)
    }

    /// Returns the threads that serve connections.
    fn all(&self) -> impl Iterator<Item = &Thread> {
        iter::once(&self.first).chain(&self.others)
    }

    /// Waits for a connection, and gives it to the thread with the fewest connections. It can be dropped at any await
    /// without losing a connection.
    ///
    /// # Errors
    /// The connection is lost already, or the process has reached a limit of file descriptors.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> io::Result<Accepted> {
        poll_fn(|cx| {
            let thread = self.all().fold(&self.first, |least, other| least.with_fewer_connections(other));
            // This registers the socket with the runtime of that thread. Later that takes two calls of the system more.
            let _runtime = thread.runtime.enter();
            let (stream, peer) = ready!(listener.poll_accept(cx))?;
            Poll::Ready(Ok(Accepted { stream, peer, thread: thread.clone() }))
        })
        .await
    }
}

/// A thread with a runtime of its own.
#[derive(Clone)]
struct Thread {
    runtime: Handle,
    /// Each open connection has one reference more.
    load: Arc<()>,
    /// Ends the thread when the last clone is dropped.
    _end: Arc<oneshot::Sender<Infallible>>,
}

impl Thread {
    fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut tick = interval(TICK);
                let ticks = async {
                    loop {
                        tick.tick().await;
                    }
                };
                tokio::select! {
                    // The error says that the sender was dropped, which ends the thread.
                    _ = ended => {}
                    () = ticks => {}
                }
            });
        })?;
        Ok(Self { runtime: handle, load: Arc::default(), _end: Arc::new(end) })
    }

    fn with_fewer_connections<'t>(&'t self, other: &'t Self) -> &'t Self {
        if Arc::strong_count(&other.load) < Arc::strong_count(&self.load) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
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
        connections.threads.all().map(|thread| Arc::strong_count(&thread.load) - 1).collect()
    }

    #[tokio::test]
    async fn connections_are_distributed_over_the_threads_until_they_end() {
        let tls = tls::server_config(CertResolver::default(), None).unwrap();
        let context = Arc::new(ConnectionContext::new(tls, Router::new(), Limits::default(), Counts::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Connections::new().unwrap();
        let count = 2 * connections.threads.all().count();
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let accepted = connections.threads().accept(&listener).await.unwrap();
            connections.open(accepted, &context);
        }
        assert_eq!(loads(&connections), vec![2; count / 2]);
        while let Some(client) = clients.pop() {
            drop(client);
            while connections.len() > clients.len() {
                connections.one_ended().await;
            }
            assert_eq!(loads(&connections).iter().sum::<usize>(), clients.len());
        }
        connections.all_ended().await;
    }
}
