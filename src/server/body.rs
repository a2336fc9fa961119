//! The body of a request, read whole within a bound.

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;

/// Why there is no whole body.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Unreadable {
    /// The client went away in the middle of it, or its chunks are malformed.
    Broken,
    /// It has, or says it has, more bytes than the limit.
    TooLarge,
}

/// Reads the body. One that came in a single piece, as small ones do, is not copied.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Bytes, Unreadable> {
    let length = body.size_hint().lower();
    if length > limit as u64 {
        return Err(Unreadable::TooLarge);
    }
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    // Without a Content-Length the length is 0 here, and the vector grows.
    let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or(0).max(first.len()));
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > limit {
            return Err(Unreadable::TooLarge);
        }
        whole.extend_from_slice(&bytes);
        piece = next(&mut body).await?;
    }
    Ok(whole.into())
}

/// Reads the body and forgets it: its connection can be used again afterwards.
pub(super) async fn discard(mut body: Body, limit: usize) -> Result<(), Unreadable> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Unreadable::TooLarge);
    }
    let mut length = 0;
    while let Some(bytes) = next(&mut body).await? {
        length += bytes.len();
        if length > limit {
            return Err(Unreadable::TooLarge);
        }
    }
    Ok(())
}

/// The next piece of data; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Unreadable> {
    while let Some(frame) = body.frame().await {
        // What is no data are trailers, which nobody here asked for.
        if let Ok(bytes) = frame.map_err(|_| Unreadable::Broken)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
