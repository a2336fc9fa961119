//! The open connections, and the threads that they live on: one for each processor, and a connection stays on its own.
//!
//! A runtime of many threads wakes a second one whenever the first finds something to do after a pause, in case there is
//! more. An answer is made in less time than that takes, so a request would mostly pay for a thread that comes, finds
//! nothing and lies down again.

use std::{collections::HashMap, convert::Infallible, future, io, net::SocketAddr, num::NonZero, sync::Arc, thread};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
    task::{Id, JoinSet},
};

use super::Common;
use crate::server::connection;

/// The connections that are open.
pub(crate) struct Connections {
    threads: Vec<Arc<Thread>>,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
}

/// A connection.
struct Open {
    _thread: Arc<Thread>,
    /// Dropped, it asks the connection to close when it has no request under way.
    _closer: oneshot::Sender<Infallible>,
}

impl Connections {
    /// None yet, and the threads for them.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (0..count).map(|_| Thread::start().map(Arc::new)).collect::<io::Result<_>>()?;
        Ok(Self { threads, tasks: JoinSet::new(), open: HashMap::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Serves a connection, on the thread that has the fewest.
    ///
    /// # Errors
    /// The connection cannot be handed over: it is lost.
    pub(crate) fn open(&mut self, stream: TcpStream, peer: SocketAddr, common: &Arc<Common>) -> io::Result<()> {
        // Each open connection holds its thread once.
        let fewest = self.threads.iter().min_by_key(|thread| Arc::strong_count(thread));
        let thread = fewest.ok_or_else(|| io::Error::other("there are no threads for connections"))?;
        let _inside = thread.runtime.enter();
        // Whoever waits for its events is the thread that it lives on.
        let stream = TcpStream::from_std(stream.into_std()?)?;
        let (closer, closing) = oneshot::channel();
        let task = self.tasks.spawn(connection::serve(stream, peer, Arc::clone(common), closing));
        self.open.insert(task.id(), Open { _thread: Arc::clone(thread), _closer: closer });
        Ok(())
    }

    /// Waits for the end of a connection; for ever when there is none.
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

/// A thread for connections. It ends with this value, and what still runs on it is dropped.
struct Thread {
    runtime: Handle,
    /// Dropped, it ends the thread.
    _end: oneshot::Sender<Infallible>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("connections".to_owned()).spawn(move || {
            // An error is the end: the sender was dropped.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { runtime: handle, _end: end })
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

    fn loads(connections: &Connections) -> Vec<usize> {
        connections.threads.iter().map(|thread| Arc::strong_count(thread) - 1).collect()
    }

    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_leave_them_when_they_end() {
        let tls = tls::server_config(CertResolver::default(), None).unwrap();
        let common = Arc::new(Common::new(tls, Router::new(), Limits::default(), Counts::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Connections::new().unwrap();
        let threads = connections.threads.len();
        let mut clients = Vec::new();
        for _ in 0..2 * threads {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (stream, peer) = listener.accept().await.unwrap();
            connections.open(stream, peer, &common).unwrap();
        }
        assert_eq!(loads(&connections), vec![2; threads]);
        drop(clients);
        for left in (0..2 * threads).rev() {
            connections.one_ended().await;
            assert_eq!((connections.len(), loads(&connections).iter().sum()), (left, left));
        }
    }
}
