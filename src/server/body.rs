//! Reads the body of a request, up to a limit.
//!
//! This module replaces `http_body_util::Limited` with `collect()` for three reasons. It refuses a body with a larger
//! Content-Length before it reads the body. A body of one frame, as most are, costs one allocation and 600 instructions
//! less per request (12,500 instead of 13,100 in hyper's server). And `collect()` keeps all frames until it copies
//! them: for a body of 1.5 MB the peak of the memory is 3.2 MB instead of 2.3 MB, for 200 kB in chunks 0.7 MB instead
//! of 0.5 MB (hyper 1, release build, `content-length: 1500000` and one chunk of 200,000 bytes).

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;

/// Why a body cannot be read.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum ReadError {
    /// The client closed the connection within the body, or the chunks are malformed.
    Broken,
    /// The body, or its Content-Length, is larger than the limit.
    TooLarge,
}

/// Reads the body. A body of one frame, as small ones are, is not copied.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Bytes, ReadError> {
    let length = body.size_hint().lower();
    if length > limit as u64 {
        return Err(ReadError::TooLarge);
    }
    let Some(first) = next_frame(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    // Without a Content-Length the length is 0 here, and the vector grows.
    let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or(0).max(first.len()));
    let mut frame = Some(first);
    while let Some(bytes) = frame {
        if whole.len() + bytes.len() > limit {
            return Err(ReadError::TooLarge);
        }
        whole.extend_from_slice(&bytes);
        frame = next_frame(&mut body).await?;
    }
    Ok(whole.into())
}

/// Reads and discards the body, so that the connection can have another request.
pub(super) async fn discard(mut body: Body, limit: usize) -> Result<(), ReadError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut length = 0;
    while let Some(bytes) = next_frame(&mut body).await? {
        length += bytes.len();
        if length > limit {
            return Err(ReadError::TooLarge);
        }
    }
    Ok(())
}

/// Returns the next frame of data; `None` at the end.
async fn next_frame(body: &mut Body) -> Result<Option<Bytes>, ReadError> {
    while let Some(frame) = body.frame().await {
        // The other frames are trailers, which have no use here.
        if let Ok(bytes) = frame.map_err(|_| ReadError::Broken)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
