//! What a client is told whose first head cannot be read: a problem, in place of the bare status that hyper writes by itself.
//!
//! Its invariant: once a request was read, all passes through as it is. A later head that cannot be read has the bare status, since by then nothing
//! tells hyper's answer from a handler's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::problem::Problem;

/// A connection on which perhaps no request was read yet.
pub(super) struct Unread<S> {
    stream: S,
    /// Whether one was.
    read: Arc<AtomicBool>,
    /// What is written in place of hyper's answer.
    problem: Option<Bytes>,
}

impl<S: AsyncWrite + Unpin> Unread<S> {
    /// `read` is set by whoever is given a request.
    pub(super) fn new(stream: S, read: Arc<AtomicBool>) -> Self {
        Self { stream, read, problem: None }
    }

    /// Takes over what hyper answers by itself.
    fn take(&mut self, head: &[u8]) -> bool {
        if self.read.load(Ordering::Relaxed) {
            return false;
        }
        self.problem.get_or_insert_with(|| {
            let status = head.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
            problem(status.unwrap_or(StatusCode::BAD_REQUEST))
        });
        true
    }

    fn poll_problem(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.problem.as_mut().filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => rest.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn problem(status: StatusCode) -> Bytes {
    let detail = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request's head is larger than 64 KiB, or has too many headers"
        }
        StatusCode::URI_TOO_LONG => "the request's path is too long",
        _ => "this is no head of an HTTP/1.1 request",
    };
    let (head, body) = Problem::new(status, detail).written(None);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut whole =
        format!("HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-length: {}\r\n", status.as_u16(), body.len());
    for (name, value) in &head {
        whole += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    [whole.as_bytes(), b"\r\n", &body].concat().into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.take(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.take(parts.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_problem(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_problem(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
