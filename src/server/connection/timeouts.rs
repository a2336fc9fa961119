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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::places::Use;
use crate::server::limits::Limits;

/// The time in which the client must close after the server has closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// The server, to begin the TLS handshake.
    Accepted,
    /// The first message of the handshake.
    Hello,
    /// The rest of the handshake.
    Handshake,
    /// The first byte of a request.
    Idle,
    /// The rest of the header.
    Header,
    /// The rest of the body.
    Body,
    /// The answer of the webhook.
    Answer,
    /// The client, to read the answer.
    Response,
    /// The client, to close.
    Closing,
}

impl Phase {
    /// Every phase, each at the index of its value.
    const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Hello,
        Self::Handshake,
        Self::Idle,
        Self::Header,
        Self::Body,
        Self::Answer,
        Self::Response,
        Self::Closing,
    ];
}

/// A phase and its deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stage {
    phase: Phase,
    /// In nanoseconds since the connection began.
    deadline: u64,
}

impl Stage {
    /// The low bits of a word, which hold the phase. The others hold the deadline, and suffice for 36 years.
    const PHASE_BITS: u32 = 4;

    fn to_word(self) -> u64 {
        self.deadline.min(u64::MAX >> Self::PHASE_BITS) << Self::PHASE_BITS | self.phase as u64
    }

    fn of_word(word: u64) -> Self {
        let phase = usize::try_from(word & ((1 << Self::PHASE_BITS) - 1)).ok();
        let phase = phase.and_then(|phase| Phase::ALL.get(phase)).copied();
        Self { phase: phase.unwrap_or(Phase::Closing), deadline: word >> Self::PHASE_BITS }
    }
}

/// The phase of one connection and its deadline. Only the task of the connection changes it. At the limit of
/// connections the acceptor reads it, in one word: the phase of one moment with the deadline of another would be wrong.
pub(crate) struct ConnectionTimeouts {
    /// A [`Stage`].
    stage: AtomicU64,
    origin: Instant,
    /// Whether a part of a request's body is unread.
    unread: AtomicBool,
    /// The number of requests that the connection may still have.
    remaining: AtomicU64,
    /// The number that it may have in all.
    max_requests: u64,
    /// The age at which a request is the last one, in nanoseconds.
    max_age: u64,
    handshake: Duration,
    idle: Duration,
    header: Duration,
    arrival: Duration,
    request: Duration,
}

impl ConnectionTimeouts {
    /// Returns the timeouts of a connection that begins now. `share` reduces the limits of its age and of its requests:
    /// 0 leaves them whole, the largest value halves them.
    pub(crate) fn new(limits: &Limits, share: u32) -> Self {
        // At most half of the whole: the 32 bits of the share, and one more for the half.
        let reduction = |whole: u64| u64::try_from((u128::from(whole) * u128::from(share)) >> 33).unwrap_or(0);
        let reduced = |whole: u64| whole - reduction(whole);
        let max_requests = reduced(limits.connection_requests as u64);
        let stage = Stage { phase: Phase::Accepted, deadline: nanos(limits.handshake) };
        Self {
            stage: AtomicU64::new(stage.to_word()),
            origin: Instant::now(),
            unread: AtomicBool::new(false),
            remaining: AtomicU64::new(max_requests),
            max_requests,
            max_age: reduced(nanos(limits.connection_age)),
            handshake: limits.handshake,
            idle: limits.idle,
            header: limits.header,
            arrival: limits.arrival,
            request: limits.request,
        }
    }

    fn stage(&self) -> Stage {
        Stage::of_word(self.stage.load(Ordering::Relaxed))
    }

    fn set(&self, stage: Stage) {
        self.stage.store(stage.to_word(), Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.stage().phase
    }

    /// Returns the end of the phase.
    pub(crate) fn deadline(&self) -> Instant {
        self.at(self.stage().deadline)
    }

    fn at(&self, nanos: u64) -> Instant {
        self.origin + Duration::from_nanos(nanos)
    }

    /// Returns what the connection is used for; `None` if it closes.
    pub(crate) fn current_use(&self) -> Option<Use> {
        let Stage { phase, deadline } = self.stage();
        // A deadline is the beginning and a time limit.
        let since = |limit: Duration| self.at(deadline.saturating_sub(nanos(limit)));
        Some(match phase {
            Phase::Accepted => Use::Accepted,
            Phase::Hello => Use::Hello { since: since(self.handshake) },
            Phase::Handshake => Use::Handshake { since: since(self.handshake) },
            // Under load a client may need more than a moment from its handshake to its first request, and would lose that.
            Phase::Idle if self.is_fresh() => Use::None { since: since(self.idle) + self.arrival },
            Phase::Idle => Use::None { since: since(self.idle) },
            Phase::Header => Use::PartOfRequest { since: since(self.header) },
            Phase::Body => Use::PartOfRequest { since: since(self.header + self.request) },
            Phase::Answer | Phase::Response => Use::Request,
            Phase::Closing => return None,
        })
    }

    /// Returns the time in which a request must arrive while connections need places.
    pub(crate) fn arrival(&self) -> Duration {
        self.arrival
    }

    /// Whether no request has begun yet.
    fn is_fresh(&self) -> bool {
        self.remaining.load(Ordering::Relaxed) == self.max_requests
    }

    /// Begins the hello phase, when the task of the connection runs for the first time.
    pub(crate) fn begin_handshake(&self) {
        self.enter(Phase::Hello, self.handshake);
    }

    /// Begins the handshake phase, when the first message of the handshake is complete.
    pub(crate) fn end_hello(&self) {
        self.enter(Phase::Handshake, self.handshake);
    }

    /// Begins the idle phase, when the handshake is complete.
    pub(crate) fn end_handshake(&self) {
        self.enter(Phase::Idle, self.idle);
    }

    /// Begins the body phase, when the header is complete.
    pub(crate) fn begin_request(&self) -> RequestStart {
        let is_pipelined = self.phase() == Phase::Idle;
        if is_pipelined {
            self.enter(Phase::Header, self.header);
        }
        // Adding saves a read of the clock: the deadline is that of the header, so a request may take both times
        // together.
        let deadline = self.stage().deadline;
        self.set(Stage { phase: Phase::Body, deadline: deadline.saturating_add(nanos(self.request)) });
        let age = deadline.saturating_sub(nanos(self.header));
        let is_first = self.is_fresh();
        let remaining = self.remaining.load(Ordering::Relaxed).saturating_sub(1);
        self.remaining.store(remaining, Ordering::Relaxed);
        RequestStart {
            is_last: remaining == 0 || age >= self.max_age,
            is_pipelined,
            waited: Duration::from_nanos(if is_first { age } else { 0 }),
        }
    }

    /// Begins the answer phase, when the body is complete.
    fn end_body(&self) {
        let stage = self.stage();
        if stage.phase == Phase::Body {
            self.set(Stage { phase: Phase::Answer, ..stage });
        }
    }

    /// Begins the response phase, before the answer is written.
    pub(crate) fn begin_response(&self, unread: bool) {
        self.set(Stage { phase: Phase::Response, ..self.stage() });
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

    fn enter(&self, phase: Phase, limit: Duration) {
        self.set(Stage { phase, deadline: nanos(self.origin.elapsed() + limit) });
    }
}

/// What the connection says about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RequestStart {
    /// Whether it is the last of the connection.
    pub(crate) is_last: bool,
    /// Whether it was in the buffer already, behind the previous one.
    pub(crate) is_pipelined: bool,
    /// For the first request of the connection, the time from the accept to its first byte, else zero.
    pub(crate) waited: Duration,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The body of a request that updates the phase of its connection.
pub(crate) struct TimedBody {
    body: Incoming,
    timeouts: Arc<ConnectionTimeouts>,
}

impl TimedBody {
    pub(crate) fn new(body: Incoming, timeouts: Arc<ConnectionTimeouts>) -> Self {
        Self { body, timeouts }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.timeouts.end_body();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
        1 + std::iter::repeat_with(|| timeouts.begin_request().is_last).take_while(|is_last| !is_last).count()
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
    fn a_stage_fits_into_a_word() {
        for phase in Phase::ALL {
            for deadline in [0, 1, nanos(Duration::from_hours(24 * 365 * 30))] {
                let stage = Stage { phase, deadline };
                assert_eq!(Stage::of_word(stage.to_word()), stage);
            }
        }
        assert_eq!(Stage::of_word(Stage { phase: Phase::Idle, deadline: u64::MAX }.to_word()).phase, Phase::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_incomplete_from_its_first_byte_to_the_end_of_its_body() {
        let start = Instant::now();
        let pause = async || tokio::time::sleep(Duration::from_secs(1)).await;
        let after = |seconds| start + Duration::from_secs(seconds);
        let timeouts = ConnectionTimeouts::new(&Limits::default(), 0);
        assert_eq!(timeouts.current_use(), Some(Use::Accepted));
        pause().await;
        timeouts.begin_handshake();
        assert_eq!(timeouts.current_use(), Some(Use::Hello { since: after(1) }));
        pause().await;
        timeouts.end_hello();
        assert_eq!(timeouts.current_use(), Some(Use::Handshake { since: after(2) }));
        pause().await;
        timeouts.end_handshake();
        assert_eq!(timeouts.current_use(), Some(Use::None { since: after(3) + timeouts.arrival }));
        pause().await;
        timeouts.enter(Phase::Header, timeouts.header);
        assert_eq!(timeouts.current_use(), Some(Use::PartOfRequest { since: after(4) }));
        pause().await;
        timeouts.begin_request();
        assert_eq!(timeouts.current_use(), Some(Use::PartOfRequest { since: after(4) }));
        timeouts.end_body();
        assert_eq!(timeouts.current_use(), Some(Use::Request));
        timeouts.begin_response(false);
        assert_eq!(timeouts.current_use(), Some(Use::Request));
        timeouts.enter(Phase::Idle, timeouts.idle);
        assert_eq!(timeouts.current_use(), Some(Use::None { since: after(5) }));
        timeouts.begin_closing();
        assert_eq!(timeouts.current_use(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_request_of_a_connection_has_waited_since_the_accept() {
        let timeouts = ConnectionTimeouts::new(&Limits::default(), 0);
        for (seconds, is_pipelined) in [(3, false), (0, false), (0, true)] {
            tokio::time::advance(Duration::from_secs(3)).await;
            timeouts.enter(if is_pipelined { Phase::Idle } else { Phase::Header }, timeouts.header);
            tokio::time::advance(Duration::from_secs(1)).await;
            let start = timeouts.begin_request();
            assert_eq!(start, RequestStart { is_last: false, is_pipelined, waited: Duration::from_secs(seconds) });
        }
    }

    #[test]
    fn a_request_of_an_old_connection_is_the_last_one() {
        let young = ConnectionTimeouts::new(&limits(Duration::from_hours(1), 1000), 0);
        young.end_handshake();
        assert!(!young.begin_request().is_last);
        let old = ConnectionTimeouts::new(&limits(Duration::from_nanos(1), 1000), 0);
        old.end_handshake();
        assert!(old.begin_request().is_last);
    }
}
