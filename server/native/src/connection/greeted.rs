//! A connection as h2 reads it.
//!
//! h2 reads 8 KiB at most at a time, and copies what it has of a frame that does not end there.
//! So more is read at once here, and h2 gets whole frames, or the head of a frame and then its
//! rest, for which it has made room by then.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::authority::Frames;
use super::portions::Portions;

/// So much is read at a time. What is left of a larger frame goes to h2 without a copy.
const READ_BYTES: usize = 32 << 10;
/// What a frame that is larger, and has to be whole, grows by at a time.
const PIECE: usize = 4096;
/// After so many frames other connections have their turn.
const MOST_IN_A_TURN: usize = 64;

thread_local! {
    /// A buffer for the next connection that reads: few of them hold one at the same time.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection whose first bytes were read already, and whose authorities are replaced.
pub struct Greeted<I> {
    io: I,
    frames: Frames,
    portions: Portions,
    /// What was read, and has not all gone to h2.
    buffer: Vec<u8>,
    /// How much of it has gone.
    at: usize,
    /// How much of it may go.
    cleared: usize,
}

impl<I> Greeted<I> {
    /// `greeting`: the bytes that were read already.
    pub fn new(io: I, greeting: &[u8], max_frame_size: usize) -> Self {
        Self {
            io,
            frames: Frames::new(max_frame_size),
            portions: Portions::after(greeting.len()),
            buffer: greeting.to_vec(),
            at: 0,
            cleared: greeting.len(),
        }
    }

    /// Have room in the buffer, behind what is left in it.
    fn make_room(&mut self) {
        if self.buffer.capacity() < READ_BYTES {
            let mut spare = SPARE.take();
            if spare.capacity() < READ_BYTES {
                spare = Vec::with_capacity(READ_BYTES);
            }
            spare.extend_from_slice(self.buffer.get(self.at..).unwrap_or_default());
            self.buffer = spare;
        } else {
            self.buffer.drain(..self.at);
        }
        self.cleared -= self.at;
        self.at = 0;
        if self.buffer.len() == self.buffer.capacity() {
            self.buffer.reserve(PIECE);
        }
    }

    /// Keep no more memory than what is left takes, as the caller sends nothing just now.
    fn rest(&mut self) {
        let mut spare = std::mem::take(&mut self.buffer);
        if let Some(left @ [_, ..]) = spare.get(self.at..) {
            self.buffer = left.to_vec();
        }
        self.cleared -= self.at;
        self.at = 0;
        if spare.capacity() < 2 * READ_BYTES {
            spare.clear();
            SPARE.set(spare);
        }
    }
}

impl<I: AsyncRead + Unpin> Greeted<I> {
    /// Read what has come; the number of bytes is 0 at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let read = pin!(self.io.read_buf(&mut self.buffer)).poll(context);
        if read.is_pending() {
            self.portions.begin_count();
            self.rest();
        }
        let count = ready!(read)?;
        self.cleared = self.frames.mend(&mut self.buffer, self.cleared);
        if self.frames.credit.is_spent(Instant::now) {
            return Poll::Ready(Err(flooded()));
        }
        Poll::Ready(Ok(count))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Greeted<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.portions.count() > MOST_IN_A_TURN {
            this.portions.begin_count();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let ready = this.buffer.get(this.at..this.cleared).unwrap_or_default();
            let count = this.portions.next(ready, into.remaining());
            if let Some(portion @ [_, ..]) = ready.get(..count) {
                into.put_slice(portion);
                this.at += count;
                return Poll::Ready(Ok(()));
            }
            let left = this.portions.left();
            if this.at == this.buffer.len() && left.min(into.remaining()) >= READ_BYTES {
                let before = into.filled().len();
                let mut io = (&mut this.io).take(left as u64);
                let read = Pin::new(&mut io).poll_read(context, into);
                if read.is_pending() {
                    this.portions.begin_count();
                }
                ready!(read)?;
                let count = into.filled().len() - before;
                this.frames.passed(count);
                this.portions.passed(count);
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_fill(context))? == 0 {
                return Poll::Ready(Ok(())); // the end, perhaps within a frame
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

#[cfg(all(test, not(feature = "shuttle")))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const PREFACE: &[u8] = b"preface";

    fn frame(length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        let body = (0..length).map(|at| at as u8);
        [a, b, c, 0, 0, 0, 0, 0, 1]
            .into_iter()
            .chain(body)
            .collect()
    }

    /// Send pieces, and read them with so much room at a time.
    fn through(sent: &[u8], piece: usize, room: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut caller, server) = tokio::io::duplex(piece);
            let mut greeted = Greeted::new(server, PREFACE, 1 << 20);
            let sending = async {
                caller.write_all(sent).await.unwrap();
                drop(caller);
            };
            let reading = async {
                let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
                loop {
                    let mut into = ReadBuf::new(&mut buffer);
                    poll_fn(|context| Pin::new(&mut greeted).poll_read(context, &mut into))
                        .await
                        .unwrap();
                    if into.filled().is_empty() {
                        return all;
                    }
                    all.extend_from_slice(into.filled());
                }
            };
            tokio::join!(reading, sending).0
        })
    }

    #[test]
    fn bytes_pass_in_their_order_however_they_come_and_whatever_room_there_is() {
        let frames = [3, 0, 9000, 0, 40_000, 100, 200_000, 8192, 32_768, 1];
        let sent = frames.map(frame).concat();
        let expected = [PREFACE, &sent].concat();
        for piece in [1000, 5000, 1 << 16, 1 << 20] {
            for room in [1, 4, 5000, 8192, 1 << 16, 1 << 19] {
                let read = through(&sent, piece, room);
                assert!(read == expected, "pieces of {piece}, room of {room}");
            }
        }
    }

    #[test]
    fn a_connection_that_rests_keeps_what_is_left_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut caller, server) = tokio::io::duplex(1 << 16);
            let mut greeted = Greeted::new(server, PREFACE, 1 << 20);
            caller.write_all(&frame(1)[..7]).await.unwrap();
            let mut buffer = [0; 100];
            let mut into = ReadBuf::new(&mut buffer);
            for expected in [Poll::Ready(()), Poll::Pending] {
                let read = poll_fn(|context| {
                    let read = Pin::new(&mut greeted).poll_read(context, &mut into);
                    Poll::Ready(read.map(Result::unwrap))
                });
                assert_eq!(read.await, expected);
            }
            assert_eq!((greeted.buffer.len(), greeted.buffer.capacity()), (7, 7));
        });
    }
}
