//! Where a connection is in the life of a request, and until when it may stay there.
//!
//! hyper has one timer for the header and counts it from the end of the last request: it would close an idle
//! connection after the header timeout. Here idle connections and slow headers are told apart by the bytes that pass,
//! and a request costs two looks at the clock and no timer.

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

/// How long a closed connection may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of the header.
    Header,
    /// The rest of the body, and our answer.
    Request,
    /// The client, to take the answer.
    Response,
    /// The client, to close.
    Closing,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Idle, Self::Header, Self::Request, Self::Response, Self::Closing];
}

/// The phase of one connection. Only the task of that connection touches it: the atomics cost nothing, and are there
/// because the task may move from thread to thread.
pub(crate) struct ConnectionTimeouts {
    phase: AtomicU8,
    origin: Instant,
    /// Nanoseconds since `origin`.
    due: AtomicU64,
    /// A part of a request's body was left unread.
    unread: AtomicBool,
    /// How many requests may still come.
    left: AtomicU64,
    /// Nanoseconds since `origin` from which on a request is the last one.
    retirement: u64,
    idle: Duration,
    header: Duration,
    request: Duration,
}

impl ConnectionTimeouts {
    /// `share` says which part of the longest life this connection may have: from a half to the whole, as it goes from
    /// 0 to the largest number.
    pub(crate) fn new(limits: &Limits, share: u32) -> Self {
        // Half of the whole times the share, and never more than half of it.
        let less = |whole: u64| u64::try_from((u128::from(whole) * u128::from(share)) >> 33).unwrap_or(0);
        let part = |whole: u64| whole - less(whole);
        let timeouts = Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            origin: Instant::now(),
            due: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            left: AtomicU64::new(part(limits.connection_requests as u64)),
            retirement: part(nanos(limits.connection_age)),
            idle: limits.idle,
            header: limits.header,
            request: limits.request,
        };
        timeouts.due.store(nanos(limits.idle), Ordering::Relaxed);
        timeouts
    }

    pub(crate) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Closing)
    }

    /// When the phase has lasted too long.
    pub(crate) fn due(&self) -> Instant {
        self.origin + Duration::from_nanos(self.due.load(Ordering::Relaxed))
    }

    /// The header of a request is complete. Tells whether this is to be the last one of the connection.
    pub(crate) fn begin_request(&self) -> bool {
        if self.phase() == Phase::Idle {
            // The request was in the buffer already, behind the last one.
            self.enter(Phase::Header, self.header);
        }
        // No further look at the clock: a request may take both times together, and its first byte came just now.
        let due = self.due.fetch_add(nanos(self.request), Ordering::Relaxed);
        let age = due.saturating_sub(nanos(self.header));
        self.phase.store(Phase::Request as u8, Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed).saturating_sub(1);
        self.left.store(left, Ordering::Relaxed);
        left == 0 || age >= self.retirement
    }

    /// The answer is about to be written.
    pub(crate) fn begin_response(&self, unread: bool) {
        self.phase.store(Phase::Response as u8, Ordering::Relaxed);
        if unread {
            self.unread.store(true, Ordering::Relaxed);
        }
    }

    /// The connection is about to be closed.
    pub(crate) fn leave(&self) {
        if self.phase() != Phase::Closing {
            self.enter(Phase::Closing, FAREWELL);
        }
    }

    fn enter(&self, phase: Phase, at_most: Duration) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.due.store(nanos(self.origin.elapsed() + at_most), Ordering::Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// A stream that tells the pulse what passes through it.
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

    /// hyper flushes when an answer is complete: then the connection is idle again.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if self.timeouts.phase() == Phase::Response && flushed.is_ready() {
            self.timeouts.enter(Phase::Idle, self.timeouts.idle);
        }
        flushed
    }

    /// Says goodbye, and where a request's body was left unread, waits for the client to close: a socket that is closed
    /// over unread bytes is reset, and the reset can overtake the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.timeouts.leave();
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let mut scrap = [0; 4096];
        while self.timeouts.unread.load(Ordering::Relaxed) {
            let mut buffer = ReadBuf::new(&mut scrap);
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

    /// How many requests a connection is given.
    fn requests(share: u32, most: usize) -> usize {
        let timeouts = ConnectionTimeouts::new(&limits(Duration::from_hours(24), most), share);
        1 + std::iter::repeat_with(|| timeouts.begin_request()).take_while(|is_last| !is_last).count()
    }

    #[test]
    fn a_connection_is_given_from_a_half_to_the_whole_of_the_requests() {
        for (share, most, given) in
            [(0, 100, 100), (1 << 31, 100, 75), (u32::MAX, 100, 51), (u32::MAX, 1, 1), (0, 1, 1), (u32::MAX, 2, 2)]
        {
            assert_eq!(requests(share, most), given, "{share} of {most}");
        }
    }

    #[test]
    fn a_request_is_the_last_one_when_the_connection_is_old() {
        let young = ConnectionTimeouts::new(&limits(Duration::from_hours(1), 1000), 0);
        assert!(!young.begin_request());
        let old = ConnectionTimeouts::new(&limits(Duration::from_nanos(1), 1000), 0);
        assert!(old.begin_request());
    }
}
