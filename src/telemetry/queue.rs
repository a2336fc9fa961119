//! The queue of log lines: a thread writes them, so that a slow reader of the log delays no answer.
//!
//! Standard error is often a pipe, and a write to a full pipe waits for its reader. A line that does not fit into the
//! queue, or that cannot be written because a disk is full, is dropped and counted instead. One line says how many were
//! dropped, once others are written again.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// The most bytes that wait: some four thousand lines. As many more may be in the hands of the thread.
const CAPACITY: usize = 1 << 20;

/// The size above which a buffer is not kept once it is written.
const KEPT: usize = 64 << 10;

/// The lines that wait to be written. Clones share the queue.
#[derive(Clone, Debug)]
pub struct LogQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a line arrives while the thread waits.
    arrived: Condvar,
    /// Notified when all lines are written.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    /// The number of lines that were dropped since the last line about it.
    dropped: u64,
    /// Whether the thread is not writing.
    is_idle: bool,
}

impl LogQueue {
    /// Starts the thread, which writes to `output`.
    ///
    /// # Errors
    /// The process has reached a limit of threads.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self::without_writer();
        let shared = Arc::clone(&queue.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_to(output))?;
        Ok(queue)
    }

    /// Returns a queue whose lines are not written.
    pub(crate) fn without_writer() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Returns the number of lines that were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, but not longer than `at_most`.
    pub(crate) fn flush(&self, at_most: Duration) {
        let end = Instant::now() + at_most;
        let mut state = self.0.lock();
        while !(state.is_idle && state.pending.is_empty()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.pending.len() + line.len() > CAPACITY {
            state.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.pending.extend_from_slice(line);
        if mem::take(&mut state.is_idle) {
            self.arrived.notify_one();
        }
    }

    fn write_to(&self, mut output: impl Write) {
        let mut lines = Vec::new();
        // The lines that were dropped since the last line about it.
        let mut dropped = 0;
        loop {
            dropped += self.take(&mut lines);
            let is_written = output.write_all(&lines).is_ok();
            if !is_written {
                let lost = lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
                self.dropped.fetch_add(lost, Ordering::Relaxed);
                dropped += lost;
            }
            if lines.capacity() > KEPT {
                lines = Vec::new();
            }
            lines.clear();
            // While nothing can be written, this line would be lost too, and the next one about it.
            if is_written && dropped > 0 {
                tracing::warn!(dropped, "log lines were dropped: standard error was full, or its reader too slow");
                dropped = 0;
            }
        }
    }

    /// Waits for lines and takes them; returns the number of lines that were dropped since the last call.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        while state.pending.is_empty() {
            state.is_idle = true;
            self.written.notify_all();
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_idle = false;
        mem::swap(&mut state.pending, lines);
        mem::take(&mut state.dropped)
    }
}

/// Adds each line to the queue. The subscriber writes a whole line at once.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'q> MakeWriter<'q> for LogQueue {
    type Writer = &'q Self;

    fn make_writer(&'q self) -> &'q Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes each batch to a channel without a buffer, so that a write waits until the test receives it.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Fails to write each batch before the last one.
    struct FullDisk(mpsc::Sender<Vec<u8>>);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            if bytes.ends_with(b"last\n") { Ok(bytes.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (sender, tried) = mpsc::channel();
        let queue = LogQueue::start(FullDisk(sender)).unwrap();
        for line in ["one\n", "two\n", "last\n"] {
            (&queue).write_all(line.as_bytes()).unwrap();
            queue.flush(Duration::from_mins(1));
            assert_eq!(tried.recv().unwrap(), line.as_bytes());
        }
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted_while_the_output_is_blocked() {
        let (sender, pipe) = mpsc::sync_channel(0);
        let queue = LogQueue::start(Pipe(sender)).unwrap();
        let line = [b'x'; 1024];
        // The thread may hold one batch, and the queue holds another one.
        for _ in 0..4 * CAPACITY / line.len() {
            (&queue).write_all(&line).unwrap();
        }
        let dropped = queue.dropped();
        assert!(dropped >= (2 * CAPACITY / line.len()) as u64, "{dropped}");
        queue.flush(Duration::from_millis(1));

        let mut read = 0;
        while read < 4 * CAPACITY / line.len() - usize::try_from(dropped).unwrap() {
            read += pipe.recv().unwrap().len() / line.len();
        }
        (&queue).write_all(b"last\n").unwrap();
        assert_eq!(pipe.recv().unwrap(), b"last\n");
        assert_eq!(queue.dropped(), dropped);
        queue.flush(Duration::from_mins(1));
    }
}
