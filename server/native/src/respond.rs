//! The body of an answer: messages, and the status in its trailers.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};

use crate::call::{Call, Reply};
use crate::connection::sending;
use crate::queue::Event;
use crate::service::{head, refused, Thread};
use crate::status::Status;

/// h2 keeps a piece whole as soon as its caller has room for a byte; of the rest of an answer, none.
const PIECE_BYTES: usize = 64 << 10;

/// Ends a call when its stream is over, for whatever reason.
pub struct Guard {
    thread: Rc<Thread>,
    call: Arc<Call>,
    /// Its place among the calls of the thread.
    place: usize,
}

impl Guard {
    /// Watch over a call.
    pub fn new(thread: Rc<Thread>, call: Arc<Call>) -> Self {
        let place = thread.calls.borrow_mut().insert(Arc::downgrade(&call));
        Self {
            thread,
            call,
            place,
        }
    }

    /// The thread that has the call.
    pub fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// The call.
    pub fn call(&self) -> &Arc<Call> {
        &self.call
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.thread.calls.borrow_mut().remove(self.place);
        if self.call.end() {
            self.thread
                .gathered
                .push(Event::Ended(Arc::clone(&self.call)));
        }
        self.call.wake(); // who reads its messages
    }
}

/// What is sent after the headers.
pub struct Answer {
    guard: Option<Guard>,
    is_stream: bool,
    /// What was taken from the call, and is not sent yet.
    next: Option<Bytes>,
    is_sending: bool,
}

impl Answer {
    /// Nothing: the headers say it all.
    pub fn empty() -> Self {
        Self {
            guard: None,
            is_stream: false,
            next: None,
            is_sending: false,
        }
    }

    /// The answer to a call, as soon as its first part is known.
    pub fn beginning_with(first: Reply, guard: Guard, is_stream: bool) -> Response<Self> {
        match first {
            Reply::Status(status) => refused(&status),
            Reply::Message(message) => {
                if !is_stream {
                    sending::begin(guard.call().outgoing_len() + message.len());
                }
                head().map(|()| Self {
                    guard: Some(guard),
                    is_stream,
                    next: Some(message),
                    is_sending: false,
                })
            }
        }
    }

    /// The next piece of what is at hand.
    fn piece(&mut self) -> Option<Bytes> {
        let next = self.next.as_mut()?;
        self.is_sending = true;
        if next.len() > PIECE_BYTES {
            return Some(next.split_to(PIECE_BYTES));
        }
        self.next.take()
    }

    fn trailers(&mut self, status: &Status) -> Frame<Bytes> {
        self.guard = None;
        let mut trailers = HeaderMap::with_capacity(2);
        status.write_to(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(piece) = self.piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(guard) = &self.guard else {
            return Poll::Ready(None);
        };
        match guard.call.poll_reply(context) {
            Poll::Ready(Reply::Message(next)) => {
                self.next = Some(next);
                Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
            }
            Poll::Ready(Reply::Status(status)) => Poll::Ready(Some(Ok(self.trailers(&status)))),
            Poll::Pending => {
                // HTTP/2 asks for more only once the connection has taken what came before.
                if self.is_stream && self.is_sending {
                    guard
                        .thread
                        .gathered
                        .push(Event::Sent(Arc::clone(&guard.call)));
                }
                self.is_sending = false;
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.guard.is_none() && self.next.is_none()
    }
}
