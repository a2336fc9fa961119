//! A socket from which TLS records are read.
//!
//! rustls asks for 4 KiB at once, and most requests are longer, so this reads a whole record with one call of the system.
//! In contrast to `tokio::io::BufReader` it has no buffer while no bytes wait in it: an idle connection needs less memory.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The size of a TLS record, in bytes.
const RECORD: usize = 16 << 10;

/// A socket, and the bytes that were read ahead.
#[derive(Debug)]
pub(super) struct RecordStream {
    socket: TcpStream,
    ahead: Vec<u8>,
    /// The number of bytes of `ahead` that rustls has.
    taken: usize,
}

impl RecordStream {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, ahead: Vec::new(), taken: 0 }
    }

    /// Whether the client has closed the connection without further bytes, as far as the runtime knows. This costs no
    /// call of the system unless there is something to read.
    pub(super) async fn has_closed(&mut self) -> bool {
        if self.taken < self.ahead.len() {
            return false;
        }
        let mut none = ReadBuf::new(&mut []);
        poll_fn(|cx| Poll::Ready(matches!(self.poll_record(cx, &mut none), Poll::Ready(Ok(0) | Err(_))))).await
    }

    /// Reads a record while no bytes wait. Keeps what does not fit into the buffer, and returns the length of the record.
    fn poll_record(&mut self, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<usize>> {
        let mut record = [const { MaybeUninit::uninit() }; RECORD];
        let mut record = ReadBuf::uninit(&mut record);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut record))?;
        let record = record.filled();
        let (now, later) = record.split_at(record.len().min(buffer.remaining()));
        buffer.put_slice(now);
        (self.ahead, self.taken) = (later.to_vec(), 0);
        Poll::Ready(Ok(record.len()))
    }
}

impl AsyncRead for RecordStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(left) = this.ahead.get(this.taken..).filter(|left| !left.is_empty()) {
            let (now, later) = left.split_at(left.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.taken += now.len();
            if later.is_empty() {
                (this.ahead, this.taken) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() >= RECORD {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        this.poll_record(cx, buffer).map_ok(|_| ())
    }
}

impl AsyncWrite for RecordStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        slices: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
