//! A connection as h2 reads it.

use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Frames;

/// A frame that does not come whole at once is read in pieces of so many bytes.
const PIECE: usize = 4096;
/// After so many frames other connections have their turn.
const MOST_IN_A_TURN: usize = 64;

/// A connection whose first bytes were read already, and whose authorities are replaced.
pub struct Greeted<I> {
    io: I,
    frames: Frames,
    /// What is to be read before anything else.
    ready: Vec<u8>,
    at: usize,
    /// The start of a frame whose rest has not come yet.
    held: Vec<u8>,
    /// How many frames had come when the turn began.
    turn: usize,
}

impl<I> Greeted<I> {
    /// `greeting`: the bytes that were read already.
    pub fn new(io: I, greeting: &[u8], max_frame_size: usize) -> Self {
        Self {
            io,
            frames: Frames::new(max_frame_size),
            ready: greeting.to_vec(),
            at: 0,
            held: Vec::new(),
            turn: 0,
        }
    }
}

impl<I: AsyncRead + Unpin> Greeted<I> {
    /// Read what is at hand, as long as it is this connection's turn.
    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frames.count().wrapping_sub(self.turn) > MOST_IN_A_TURN {
            self.turn = self.frames.count();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.io).poll_read(context, into);
        if read.is_pending() {
            self.turn = self.frames.count();
        }
        read
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Greeted<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        loop {
            let rest = this.ready.get(this.at..).unwrap_or_default();
            if !rest.is_empty() {
                let piece = rest.get(..into.remaining()).unwrap_or(rest);
                into.put_slice(piece);
                this.at += piece.len();
                return Poll::Ready(Ok(()));
            }
            // Frames that are replaced are rare: a caller sends its authority as text once.
            (this.ready, this.at) = (Vec::new(), 0);
            if this.held.is_empty() {
                ready!(this.poll_more(context, into))?;
                let came = into.filled().get(before..).unwrap_or_default();
                let passing = this.frames.passing(came);
                if this.frames.credit.is_spent(Instant::now) {
                    return Poll::Ready(Err(flooded()));
                }
                if passing == came.len() {
                    return Poll::Ready(Ok(()));
                }
                this.held = came.get(passing..).unwrap_or_default().to_vec();
                into.set_filled(before + passing);
            } else {
                let mut piece = [0u8; PIECE];
                let mut piece = ReadBuf::new(&mut piece);
                ready!(this.poll_more(context, &mut piece))?;
                if piece.filled().is_empty() {
                    return Poll::Ready(Ok(())); // the end, within a frame
                }
                this.held.extend_from_slice(piece.filled());
            }
            this.frames.release(&mut this.held, &mut this.ready);
            if this.frames.credit.is_spent(Instant::now) {
                return Poll::Ready(Err(flooded()));
            }
            if this.held.is_empty() {
                this.held = Vec::new();
            }
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Greeted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        self.frames.credit.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, pieces))?;
        self.frames.credit.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The end of a connection whose caller sends frames for their own sake.
fn flooded() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "more frames than requests and answers need",
    )
}
