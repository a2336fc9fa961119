//! A double of kube-proxy: one address in front of several replicas.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::replica::Replica;

/// Passes connections to an address on to the endpoints behind it, in turn and byte by byte, as kube-proxy does.
pub(crate) struct KubeProxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

/// The endpoints and their connections. One lock guards both, so that a test which removes an endpoint knows how many
/// connections it got.
#[derive(Default)]
struct State {
    endpoints: Vec<SocketAddr>,
    accepted: usize,
    traffic: HashMap<SocketAddr, Traffic>,
}

/// The connections of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// How many connections it got.
    pub(crate) opened: usize,
    /// How many of them are still open.
    pub(crate) open: usize,
}

impl State {
    fn next(&mut self) -> Option<SocketAddr> {
        let next = *self.endpoints.get(self.accepted % self.endpoints.len().max(1))?;
        self.accepted += 1;
        let traffic = self.traffic.entry(next).or_default();
        traffic.opened += 1;
        traffic.open += 1;
        Some(next)
    }
}

impl KubeProxy {
    /// Starts on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts on an address such as that of a Service.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Without endpoints the connection is closed; kube-proxy would refuse it.
                let Some(next) = shared.lock().unwrap().next() else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    if let Ok(mut endpoint) = TcpStream::connect(next).await {
                        let _ = (stream.set_nodelay(true), endpoint.set_nodelay(true));
                        let _ = copy_bidirectional(&mut stream, &mut endpoint).await;
                    }
                    drop(stream);
                    shared.lock().unwrap().traffic.get_mut(&next).unwrap().open -= 1;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// Returns how many connections were passed on.
    pub(crate) fn accepted(&self) -> usize {
        self.state.lock().unwrap().accepted
    }

    /// Returns the connections of an endpoint.
    pub(crate) fn traffic(&self, endpoint: SocketAddr) -> Traffic {
        self.state.lock().unwrap().traffic.get(&endpoint).copied().unwrap_or_default()
    }

    /// Sends new connections to these endpoints. Open connections stay where they are.
    pub(crate) fn set_endpoints(&self, endpoints: &[SocketAddr]) {
        self.state.lock().unwrap().endpoints = endpoints.to_vec();
    }

    /// Sends new connections to these replicas.
    pub(crate) fn set_replicas(&self, replicas: &[Replica]) {
        self.set_endpoints(&replicas.iter().map(Replica::address).collect::<Vec<_>>());
    }
}
