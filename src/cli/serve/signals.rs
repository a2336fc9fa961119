//! The signals of `serve`, for each platform.

use std::io;

use tokio::sync::oneshot;

/// Returns futures that end with the first and with the second signal to stop: SIGTERM or SIGINT, and on Windows Ctrl-C,
/// Ctrl-Break or the end of the console.
///
/// # Errors
/// A signal cannot be received.
pub(super) fn stops() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut stop = platform::Stop::new()?;
    let (first, shutdown) = oneshot::channel();
    let (second, force_shutdown) = oneshot::channel();
    tokio::spawn(async move {
        stop.received().await;
        // The receivers are gone if the server has ended.
        let _ = first.send(());
        stop.received().await;
        let _ = second.send(());
    });
    Ok((received(shutdown), received(force_shutdown)))
}

async fn received(signal: oneshot::Receiver<()>) {
    let _ = signal.await;
}

pub(super) use platform::Hangup;

#[cfg(unix)]
mod platform {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// SIGTERM and SIGINT.
    pub(super) struct Stop {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Stop {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }

        pub(super) async fn received(&mut self) {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }

    /// SIGHUP, which ends a process that does not handle it.
    pub(in super::super) struct Hangup(Signal);

    impl Hangup {
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self(signal(SignalKind::hangup())?))
        }

        pub(in super::super) async fn received(&mut self) {
            // `None` comes only when the runtime ends.
            let _ = self.0.recv().await;
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::{future, io};

    use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

    /// Ctrl-C, Ctrl-Break and the end of the console.
    pub(super) struct Stop {
        interrupt: CtrlC,
        ctrl_break: CtrlBreak,
        close: CtrlClose,
    }

    impl Stop {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self { interrupt: ctrl_c()?, ctrl_break: ctrl_break()?, close: ctrl_close()? })
        }

        pub(super) async fn received(&mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.ctrl_break.recv() => {}
                _ = self.close.recv() => {}
            }
        }
    }

    /// Windows has no SIGHUP: files are read again at intervals only.
    pub(in super::super) struct Hangup;

    impl Hangup {
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(in super::super) async fn received(&mut self) {
            future::pending().await
        }
    }
}
