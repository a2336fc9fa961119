//! A network between a client and a server. It can lose its connections without a word to either, as a NAT does that
//! forgets them, and it can be cut.

use std::{
    future,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Passes connections on to a server, byte by byte.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    /// How often the connections were lost.
    losses: watch::Sender<usize>,
    is_cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// Starts on a free port of 127.0.0.1.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let losses = watch::Sender::new(0);
        let is_cut = watch::Sender::new(false);
        let (subscriber, cutter) = (losses.clone(), is_cut.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (mut losses, mut cut) = (subscriber.subscribe(), cutter.subscribe());
                connections.spawn(async move {
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = async { cut.wait_for(|is_cut| *is_cut).await.is_ok() } => {}
                        // Both streams stay open.
                        _ = losses.changed() => future::pending().await,
                    }
                });
            }
        });
        Self { address, losses, is_cut, _tasks: tasks }
    }

    /// Loses all connections: they stay open, and no byte gets through any more. New ones work.
    pub(crate) fn lose_connections(&self) {
        self.losses.send_modify(|count| *count += 1);
    }

    /// Ends all connections, and each new one at once, until this is called with false.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}
