//! The phase of a connection and its deadline.
//!
//! hyper has one timer for the header, which starts at the end of the previous request: it would close an idle
//! connection after the header timeout. Here the bytes on the stream distinguish idle connections from slow headers,
//! and a request reads the clock twice and needs no timer of its own.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::server::limits::Limits;

/// The time in which the client must close after the server has closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The end of the TLS handshake.
    Handshake,
    /// The first byte of a request.
    Idle,
    /// The rest of the header.
    Header,
    /// The rest of the body, and the answer of the webhook.
    Request,
    /// The client, to read the answer.
    Response,
    /// The client, to close.
    Closing,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Handshake, Self::Idle, Self::Header, Self::Request, Self::Response, Self::Closing];
}

/// The phase of one connection and its deadline. Only the task of the connection changes it; at the limit of
/// connections the acceptor reads it.
pub(crate) struct ConnectionTimeouts {
    phase: AtomicU8,
    origin: Instant,
    /// The end of the phase, in nanoseconds since `origin`.
    deadline: AtomicU64,
    /// Whether a part of a request's body is unread.
    unread: AtomicBool,
    /// The number of requests that the connection may still have.
    remaining: AtomicU64,
    /// The age at which a request is the last one, in nanoseconds.
    max_age: u64,
    handshake: Duration,
    idle: Duration,
    header: Duration,
    request: Duration,
}

impl ConnectionTimeouts {
    /// Returns the timeouts of a connection that begins now. `share` reduces the limits of its age and of its requests:
    /// 0 leaves them whole, the largest value halves them.
    pub(crate) fn new(limits: &Limits, share: u32) -> Self {
        // At most half of the whole: the 32 bits of the share, and one more for the half.
        let reduction = |whole: u64| u64::try_from((u128::from(whole) * u128::from(share)) >> 33).unwrap_or(0);
        let reduced = |whole: u64| whole - reduction(whole);
        Self {
            phase: AtomicU8::new(Phase::Handshake as u8),
            origin: Instant::now(),
            deadline: AtomicU64::new(nanos(limits.handshake)),
            unread: AtomicBool::new(false),
            remaining: AtomicU64::new(reduced(limits.connection_requests as u64)),
            max_age: reduced(nanos(limits.connection_age)),
            handshake: limits.handshake,
            idle: limits.idle,
            header: limits.header,
            request: limits.request,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Closing)
    }

    /// Returns the end of the phase.
    pub(crate) fn deadline(&self) -> Instant {
        self.origin + Duration::from_nanos(self.deadline.load(Ordering::Relaxed))
    }

    /// Returns the beginning of a phase in which the connection waits for its client; `None` for another phase.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let at_most = match self.phase() {
            Phase::Handshake => self.handshake,
            Phase::Idle => self.idle,
            Phase::Header => self.header,
            Phase::Request | Phase::Response | Phase::Closing => return None,
        };
        self.deadline().checked_sub(at_most)
    }

    /// Begins the idle phase, when the handshake is complete.
    pub(crate) fn end_handshake(&self) {
        self.enter(Phase::Idle, self.idle);
    }

    /// Begins the request phase, when the header is complete. Returns whether the request is the last of the
    /// connection.
    pub(crate) fn begin_request(&self) -> bool {
        if self.phase() == Phase::Idle {
            // The request was in the buffer already, after the previous one.
            self.enter(Phase::Header, self.header);
        }
        // Adding saves a read of the clock: the deadline is that of the header, so a request may take both times
        // together.
        let deadline = self.deadline.fetch_add(nanos(self.request), Ordering::Relaxed);
        let age = deadline.saturating_sub(nanos(self.header));
        self.phase.store(Phase::Request as u8, Ordering::Relaxed);
        let remaining = self.remaining.load(Ordering::Relaxed).saturating_sub(1);
        self.remaining.store(remaining, Ordering::Relaxed);
        remaining == 0 || age >= self.max_age
    }

    /// Begins the response phase, before the answer is written.
    pub(crate) fn begin_response(&self, unread: bool) {
        self.phase.store(Phase::Response as u8, Ordering::Relaxed);
        if unread {
            self.unread.store(true, Ordering::Relaxed);
        }
    }

    /// Begins the closing phase, before the connection is closed.
    pub(crate) fn begin_closing(&self) {
        if self.phase() != Phase::Closing {
            self.enter(Phase::Closing, CLOSING_TIMEOUT);
        }
    }

    fn enter(&self, phase: Phase, at_most: Duration) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.deadline.store(nanos(self.origin.elapsed() + at_most), Ordering::Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// A stream that updates the phase of its connection.
pub(crate) struct TimedStream<S> {
    stream: S,
    timeouts: Arc<ConnectionTimeouts>,
}

impl<S> TimedStream<S> {
    pub(crate) fn new(stream: S, timeouts: Arc<ConnectionTimeouts>) -> Self {
        Self { stream, timeouts }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.timeouts.phase() == Phase::Idle {
            self.timeouts.enter(Phase::Header, self.timeouts.header);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        slices: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes after a complete answer: the connection is idle again.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if self.timeouts.phase() == Phase::Response && flushed.is_ready() {
            self.timeouts.enter(Phase::Idle, self.timeouts.idle);
        }
        flushed
    }

    /// Closes the connection. If a part of a request's body is unread, it waits for the client to close first: the
    /// kernel resets a socket that is closed with unread bytes, and the reset can reach the client before the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.timeouts.begin_closing();
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let mut discarded = [0; 4096];
        while self.timeouts.unread.load(Ordering::Relaxed) {
            let mut buffer = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(age: Duration, requests: usize) -> Limits {
        Limits { connection_age: age, connection_requests: requests, ..Limits::default() }
    }

    /// Returns the number of requests that a connection may have.
    fn requests(share: u32, limit: usize) -> usize {
        let timeouts = ConnectionTimeouts::new(&limits(Duration::from_hours(24), limit), share);
        timeouts.end_handshake();
        1 + std::iter::repeat_with(|| timeouts.begin_request()).take_while(|is_last| !is_last).count()
    }

    #[test]
    fn a_connection_may_have_at_least_half_of_the_requests() {
        for (share, limit, expected) in
            [(0, 100, 100), (1 << 31, 100, 75), (u32::MAX, 100, 51), (u32::MAX, 1, 1), (0, 1, 1), (u32::MAX, 2, 2)]
        {
            assert_eq!(requests(share, limit), expected, "{share} of {limit}");
        }
    }

    #[test]
    fn a_request_of_an_old_connection_is_the_last_one() {
        let young = ConnectionTimeouts::new(&limits(Duration::from_hours(1), 1000), 0);
        young.end_handshake();
        assert!(!young.begin_request());
        let old = ConnectionTimeouts::new(&limits(Duration::from_nanos(1), 1000), 0);
        old.end_handshake();
        assert!(old.begin_request());
    }
}
