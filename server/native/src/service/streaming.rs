//! A stream: its messages are read as its handler asks for them.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::time::timeout;

use super::{hand_over, let_through, Thread};
use crate::call::{Call, Wish};
use crate::connection::fault::contained;
use crate::limits::places::{Places, SILENCE};
use crate::limits::Refusal;
use crate::queue::Event;
use crate::receive::{Lost, Messages, Received};
use crate::respond::{Answer, Guard};
use crate::server::tell_fault;
use crate::status::Status;

/// Answer a stream.
pub async fn streaming<B>(
    guard: Guard,
    messages: Messages<B>,
    places: Arc<Places>,
) -> Response<Answer>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    if let Some(answer) = let_through(&guard).await {
        return answer;
    }
    let (thread, call) = (Rc::clone(guard.thread()), Arc::clone(guard.call()));
    hand_over(&thread, &call, None);
    tokio::task::spawn_local(contained(
        Box::pin(read(thread, call, messages, places)),
        tell_fault,
    ));
    let first = poll_fn(|context| guard.call().poll_reply(context)).await;
    Answer::beginning_with(first, guard, true)
}

/// Read a stream's messages when its handler asks for them, until the call is over.
async fn read<B>(
    thread: Rc<Thread>,
    call: Arc<Call>,
    mut messages: Messages<B>,
    places: Arc<Places>,
) where
    B: Body<Data = Bytes> + Unpin,
{
    let work = async {
        let mut silent = Some(places.silent(&call, Instant::now()));
        loop {
            match poll_fn(|context| call.poll_wish(context)).await {
                Wish::Nothing => return None,
                Wish::Idle => idle(&thread, &call).await,
                Wish::Message => {
                    let next = message(&thread, &call, &mut messages);
                    let next = if silent.is_some() {
                        match timeout(SILENCE, next).await {
                            Ok(next) => next,
                            Err(_) => Some(Err(Refusal::silent(SILENCE.as_secs()).into())),
                        }
                    } else {
                        next.await
                    };
                    silent = None;
                    let message = match next {
                        Some(Ok(message)) => message.map(|received| received.message),
                        Some(Err(Lost::Refused(refusal))) => {
                            let status = refusal.status.clone();
                            thread.gathered.refused(refusal);
                            return Some(status);
                        }
                        Some(Err(Lost::Ended(_) | Lost::Gone)) | None => return None,
                    };
                    call.message_granted();
                    thread
                        .gathered
                        .push(Event::Message(Arc::clone(&call), message));
                }
            }
        }
    };
    let ending = match call.head.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Some(Status::expired())),
        None => work.await,
    };
    if let Some(status) = ending {
        call.close(status);
    }
}

/// Wait for a message, and tell meanwhile when nothing more is at hand; None when the call is over.
async fn message<B: Body<Data = Bytes> + Unpin>(
    thread: &Thread,
    call: &Arc<Call>,
    messages: &mut Messages<B>,
) -> Option<Result<Option<Received>, Lost>> {
    let mut next = pin!(messages.next());
    loop {
        tokio::select! {
            biased;
            received = &mut next => return Some(received),
            wish = poll_fn(|context| call.poll_idle_wanted(context)) => {
                if matches!(wish, Wish::Nothing) {
                    return None;
                }
            }
        }
        // What the connection has read by then comes first.
        for _ in 0..2 {
            tokio::task::yield_now().await;
            let at_hand = poll_fn(|context| {
                Poll::Ready(match next.as_mut().poll(context) {
                    Poll::Ready(received) => Some(received),
                    Poll::Pending => None,
                })
            });
            if let Some(received) = at_hand.await {
                return Some(received);
            }
        }
        call.idle_granted();
        thread.gathered.push(Event::Idle(Arc::clone(call)));
    }
}

async fn idle(thread: &Thread, call: &Arc<Call>) {
    tokio::task::yield_now().await;
    call.idle_granted();
    thread.gathered.push(Event::Idle(Arc::clone(call)));
}
