//! One request on one stream of HTTP/2, from its headers to its trailers.

mod answers;
mod serving;
mod streaming;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use slab::Slab;
use tokio::time::{sleep_until, timeout};

use crate::call::{Call, Head};
use crate::connection::decided::Decided;
use crate::limits::places::{Places, SILENCE};
use crate::limits::{Limits, Refusal};
use crate::outbox::Outbox;
use crate::queue::{Event, Gathered};
use crate::receive::alike::{self, Shape};
use crate::receive::inflate::Encoding;
use crate::receive::unread::unread;
use crate::receive::{Lost, Messages, Received};
use crate::respond::{Answer, Guard};
use crate::status::{code, Status};
pub use answers::{head, refused};
use answers::{no_grpc, unknown};
pub use serving::Serving;
use streaming::streaming;

/// What kind of calls a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One message each way.
    Unary,
    /// Any number of messages each way.
    Streaming,
}

/// A method in the table.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    /// What names it to the other side.
    pub number: usize,
    /// What calls it takes.
    pub kind: Kind,
    /// Whether calls to other methods leave it room.
    pub has_own_room: bool,
}

/// What all network threads know.
pub struct Shared {
    /// The methods that there are, each with its number.
    pub methods: HashMap<String, Registered>,
    /// Of each method by its number: which of its requests are alike. None: they come one by one.
    pub alike: Vec<Option<Shape>>,
    /// Of unary calls.
    pub unary: Limits,
    /// Of the messages of streams, whose handlers count them themselves.
    pub streaming: Limits,
    /// Whether each call waits to be let through before its message is read.
    pub gated: bool,
    /// Whether compressed messages are taken.
    pub compressed: bool,
    /// Of all calls but those to methods that have room of their own.
    pub places: Arc<Places>,
    /// Of calls to these.
    pub own_places: Arc<Places>,
    /// How many calls have begun.
    pub begun: AtomicU64,
}

/// What one network thread works with.
pub struct Thread {
    /// What all of them know.
    pub shared: Arc<Shared>,
    /// What is to be handed over.
    pub gathered: Gathered,
    /// The calls that have not ended.
    pub calls: RefCell<Slab<Weak<Call>>>,
    /// The streams that need no task.
    pub decided: Rc<Decided>,
    /// What there is to be told to callers.
    pub outbox: Arc<Outbox>,
}

/// Answer one request. `local`: whether the caller is on this machine.
pub fn serve<B>(thread: &Rc<Thread>, local: bool, request: Request<B>) -> Serving
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let now = |body: B, answer| {
        leave(thread, body);
        thread.decided.expect();
        Serving::Now(Some(answer))
    };
    if let Some(answer) = no_grpc(&request) {
        return now(request.into_body(), answer);
    }
    let shared = &thread.shared;
    shared.begun.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let method = shared.methods.get(parts.uri.path()).copied();
    let has_own_room = method.is_some_and(|method| method.has_own_room);
    let places = if has_own_room {
        &shared.own_places
    } else {
        &shared.places
    };
    let place = match places.place(Instant::now) {
        Ok((place, ended)) => {
            ended
                .into_iter()
                .for_each(|silent| thread.gathered.refused(silent));
            place
        }
        Err(refusal) => {
            let answer = refused(&refusal.status);
            thread.gathered.refused(refusal);
            return now(body, answer);
        }
    };
    if method.is_none() && !shared.gated {
        return now(body, unknown());
    }
    let deadline = match parts
        .headers
        .get("grpc-timeout")
        .map(|v| crate::timeout::parse(v.as_bytes()))
    {
        None => None,
        Some(Some(after)) if after.is_zero() => return now(body, refused(&Status::expired())),
        Some(Some(after)) => crate::timeout::deadline(after, Instant::now()),
        Some(None) => {
            let message = "grpc-timeout: expected 1 to 8 digits and one of H, M, S, m, u and n";
            return now(body, refused(&Status::new(code::INTERNAL, message)));
        }
    };
    let encoding = parts
        .headers
        .get("grpc-encoding")
        .map_or(Some(Encoding::Identity), |name| {
            Encoding::named(name.as_bytes())
        });
    if !shared.compressed && encoding != Some(Encoding::Identity) {
        let message = "grpc-encoding: expected identity, as compressed requests are not taken \
                       (--grpc_compressed_requests)";
        return now(body, refused(&Status::new(code::UNIMPLEMENTED, message)));
    }
    let head = Head {
        uri: parts.uri,
        method: method.map(|method| method.number),
        headers: parts.headers,
        deadline,
        local,
    };
    let guard = Guard::new(
        Rc::clone(thread),
        Call::new(head, Arc::clone(&thread.outbox), place),
    );
    let limits = match method.map(|method| method.kind) {
        Some(Kind::Streaming) => &shared.streaming,
        _ => &shared.unary,
    };
    let messages = Messages::new(body, encoding, limits.clone());
    let places = Arc::clone(places);
    let work: Pin<Box<dyn Future<Output = _>>> = match method.map(|method| method.kind) {
        None => Box::pin(nowhere(guard, messages)),
        Some(Kind::Unary) => Box::pin(unary(guard, messages, places)),
        Some(Kind::Streaming) => Box::pin(streaming(guard, messages, places)),
    };
    let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
    Serving::Later(work, deadline)
}

/// Wait until a call is let through, where each has to be; returns its answer if it is not.
async fn let_through(guard: &Guard) -> Option<Response<Answer>> {
    let (thread, call) = (guard.thread(), guard.call());
    if !thread.shared.gated {
        return None;
    }
    call.hand_over(None);
    thread.gathered.push(Event::Arrived(Arc::clone(call)));
    poll_fn(|context| call.poll_admitted(context)).await;
    call.status_at_hand().map(|status| refused(&status))
}

/// Answer a call to a method that there is not, once it is let through.
async fn nowhere<B>(guard: Guard, messages: Messages<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let answer = let_through(&guard).await.unwrap_or_else(unknown);
    leave(guard.thread(), messages.into_body());
    answer
}

/// Have the rest of a request that is answered read, if it has not come.
fn leave<B: Body<Data = Bytes> + Unpin + 'static>(thread: &Thread, body: B) {
    if !body.is_end_stream() {
        thread.decided.leave(unread(body));
    }
}

async fn unary<B>(guard: Guard, mut messages: Messages<B>, places: Arc<Places>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    if let Some(answer) = let_through(&guard).await {
        leave(guard.thread(), messages.into_body());
        return answer;
    }
    let received = {
        let upload = Upload(Some(guard.thread()));
        let received = first(guard.call(), &places, &mut messages).await;
        upload.finish();
        received
    };
    match received {
        Ok(Some(request)) => hand_over(guard.thread(), guard.call(), Some(request)),
        lost => {
            leave(guard.thread(), messages.into_body());
            return not_received(guard.thread(), lost.err());
        }
    }
    let first = poll_fn(|context| guard.call().poll_reply(context)).await;
    Answer::beginning_with(first, guard, false)
}

/// The answer to a call whose message did not come; None: its caller sent none.
fn not_received(thread: &Thread, lost: Option<Lost>) -> Response<Answer> {
    let refusal = match lost {
        None => return refused(&Status::no_message()),
        Some(Lost::Ended(status)) => return refused(&status),
        Some(Lost::Refused(refusal)) => refusal,
        Some(Lost::Gone) => Refusal::gone(),
    };
    let answer = refused(&refusal.status);
    thread.gathered.refused(refusal);
    answer
}

/// Read the message of a unary call, which has to begin in time.
async fn first<B: Body<Data = Bytes> + Unpin>(
    call: &Arc<Call>,
    places: &Arc<Places>,
    messages: &mut Messages<B>,
) -> Result<Option<Received>, Lost> {
    match poll_fn(|context| Poll::Ready(messages.poll_begin(context))).await {
        Poll::Ready(begun) => begun?,
        Poll::Pending => Box::pin(begun(call, places, messages)).await?,
    }
    messages.next().await
}

/// Wait until the message of a unary call begins.
async fn begun<B: Body<Data = Bytes> + Unpin>(
    call: &Arc<Call>,
    places: &Arc<Places>,
    messages: &mut Messages<B>,
) -> Result<(), Lost> {
    let _silent = places.silent(call, Instant::now());
    tokio::select! {
        begun = timeout(SILENCE, poll_fn(|context| messages.poll_begin(context))) => {
            begun.unwrap_or_else(|_| Err(Refusal::silent(SILENCE.as_secs()).into()))
        }
        status = poll_fn(|context| call.poll_closed(context)) => Err(Lost::Ended(status)),
    }
}

/// Counts a request whose caller goes away, or whose deadline passes, before its message is there.
struct Upload<'a>(Option<&'a Thread>);

impl Upload<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if let Some(thread) = self.0 {
            thread.gathered.refused(Refusal::gone());
        }
    }
}

fn hand_over(thread: &Thread, call: &Arc<Call>, request: Option<Received>) {
    let cut = request.as_ref().and_then(|request| {
        let method = call.head.method?;
        let shape = thread.shared.alike.get(method)?.as_ref()?;
        alike::cut(shape, method, &call.head.headers, &request.message)
    });
    call.hand_over(request);
    let call = Arc::clone(call);
    thread.gathered.push(match cut {
        Some(cut) => Event::Cut(call, Box::new(cut)),
        None => Event::Begun(call),
    });
}
