//! A connection of which all that has come is taken at once.
//!
//! TLS gives one of its records at a time, 16 KiB at most, and who waits for what a server sends would be woken for each. What is not here: what
//! is done with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
#[derive(Debug)]
pub(super) struct Eager<S> {
    inner: S,
    /// What came after the last bytes, and was not told yet.
    failed: Option<io::Error>,
}

impl<S> Eager<S> {
    pub(super) fn new(inner: S) -> Eager<S> {
        Eager { inner, failed: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Eager<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let begun = buffer.filled().len();
        loop {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
            let has_some = before > begun;
            match polled {
                Poll::Ready(Ok(())) if buffer.filled().len() > before && buffer.remaining() > 0 => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) if has_some => {
                    self.failed = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if has_some => return Poll::Ready(Ok(())),
                other => return other,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Eager<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;

    /// Says these, one a call; then that nothing is there.
    struct Says(VecDeque<io::Result<&'static str>>);

    impl AsyncRead for Says {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.pop_front() {
                None => Poll::Pending,
                Some(Err(error)) => Poll::Ready(Err(error)),
                Some(Ok(text)) => {
                    let (now, later) = text.split_at(text.len().min(buffer.remaining()));
                    buffer.put_slice(now.as_bytes());
                    if !later.is_empty() {
                        self.0.push_front(Ok(later));
                    }
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    /// What one who has room for four bytes gets of it, a call after the other, until there is nothing.
    fn heard(said: impl IntoIterator<Item = io::Result<&'static str>>) -> Vec<Result<String, String>> {
        let mut eager = Eager::new(Says(said.into_iter().collect()));
        let mut heard = Vec::new();
        loop {
            let mut room = [0; 4];
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut eager).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Pending => return heard,
                Poll::Ready(Ok(())) => {
                    heard.push(Ok(String::from_utf8(buffer.filled().to_vec()).unwrap()));
                }
                Poll::Ready(Err(error)) => heard.push(Err(error.to_string())),
            }
        }
    }

    #[test]
    fn what_came_in_parts_is_taken_at_once_as_far_as_there_is_room() {
        let said = ["a", "b", "cdef", "g"].map(Ok);
        assert_eq!(heard(said), ["abcd", "efg"].map(|text| Ok(text.to_owned())));
        assert!(heard([]).is_empty());
    }

    #[test]
    fn an_end_and_an_error_are_told_after_what_came_before_them() {
        let error = || Err(io::Error::other("gone"));
        assert_eq!(heard([Ok("ab"), error()]), [Ok("ab".to_owned()), Err("gone".to_owned())]);
        assert_eq!(heard([error(), Ok("ab")]), [Err("gone".to_owned()), Ok("ab".to_owned())]);
        assert_eq!(heard([Ok("ab"), Ok(""), Ok("c")]), ["ab", "c"].map(|text| Ok(text.to_owned())));
        assert_eq!(heard([Ok("")]), [Ok(String::new())]);
    }
}
