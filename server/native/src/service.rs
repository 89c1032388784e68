//! One request on one stream of HTTP/2, from its headers to its trailers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::timeout;

use crate::call::{Call, Head, Wish};
use crate::limits::places::{Places, SILENCE};
use crate::limits::{Limits, Refusal};
use crate::outbox::Outbox;
use crate::queue::{Event, Gathered};
use crate::receive::alike::{self, Shape};
use crate::receive::inflate::Encoding;
use crate::receive::{Lost, Messages, Received};
use crate::respond::{Answer, Guard};
use crate::status::{code, Status};

const GRPC: &[u8] = b"application/grpc";
const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");

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
    pub calls: RefCell<HashMap<*const Call, Weak<Call>>>,
    /// What there is to be told to callers.
    pub outbox: Arc<Outbox>,
}

/// Answer one request. `local`: whether the caller is on this machine.
pub async fn serve<B>(thread: Rc<Thread>, local: bool, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + 'static,
{
    if let Some(answer) = no_grpc(&request) {
        return answer;
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
    let place = match places.place(Instant::now()) {
        Ok((place, ended)) => {
            ended
                .into_iter()
                .for_each(|silent| thread.gathered.refused(silent));
            place
        }
        Err(refusal) => {
            let answer = refused(&refusal.status);
            thread.gathered.refused(refusal);
            return answer;
        }
    };
    if method.is_none() && !shared.gated {
        return unknown();
    }
    let deadline = match parts
        .headers
        .get("grpc-timeout")
        .map(|v| crate::timeout::parse(v.as_bytes()))
    {
        None => None,
        Some(Some(after)) => Instant::now().checked_add(after),
        Some(None) => {
            let message = "grpc-timeout: expected 1 to 8 digits and one of H, M, S, m, u and n";
            return refused(&Status::new(code::INTERNAL, message));
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
        return refused(&Status::new(code::UNIMPLEMENTED, message));
    }
    let head = Head {
        uri: parts.uri,
        method: method.map(|method| method.number),
        headers: parts.headers,
        deadline,
        local,
    };
    let call = Call::new(head, Arc::clone(&thread.outbox), place);
    let guard = Guard::new(Rc::clone(&thread), Arc::clone(&call));
    let kind = method.map(|method| method.kind);
    let work = answered(&thread, guard, kind, body, encoding, places);
    let answer = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await,
        None => Ok(work.await),
    };
    answer.unwrap_or_else(|_| refused(&expired()))
}

async fn answered<B>(
    thread: &Rc<Thread>,
    guard: Guard,
    kind: Option<Kind>,
    body: B,
    encoding: Option<Encoding>,
    places: &Arc<Places>,
) -> Response<Answer>
where
    B: Body<Data = Bytes> + 'static,
{
    let call = Arc::clone(guard.call());
    if thread.shared.gated {
        call.hand_over(None);
        thread.gathered.push(Event::Arrived(Arc::clone(&call)));
        poll_fn(|context| call.poll_admitted(context)).await;
        if let Some(status) = call.status_at_hand() {
            return refused(&status);
        }
    }
    match kind {
        None => return unknown(),
        Some(Kind::Unary) => {
            let limits = thread.shared.unary.clone();
            let upload = Upload(Some(thread));
            let mut messages = Messages::new(body, encoding, limits);
            let received = first(&call, places, &mut messages).await;
            upload.finish();
            match received {
                Ok(Some(request)) => hand_over(thread, &call, Some(request)),
                Ok(None) => {
                    let message = "expected exactly one request message, got none";
                    return refused(&Status::new(code::UNIMPLEMENTED, message));
                }
                Err(Lost::Refused(refusal)) => {
                    let answer = refused(&refusal.status);
                    thread.gathered.refused(refusal);
                    return answer;
                }
                Err(Lost::Ended(status)) => return refused(&status),
                Err(Lost::Gone) => {
                    let refusal = Refusal::gone();
                    let answer = refused(&refusal.status);
                    thread.gathered.refused(refusal);
                    return answer;
                }
            }
        }
        Some(Kind::Streaming) => {
            let messages = Messages::new(body, encoding, thread.shared.streaming.clone());
            hand_over(thread, &call, None);
            let (thread, call, places) = (Rc::clone(thread), Arc::clone(&call), Arc::clone(places));
            tokio::task::spawn_local(read(thread, call, messages, places));
        }
    }
    let first = poll_fn(|context| call.poll_reply(context)).await;
    Answer::beginning_with(first, guard, kind == Some(Kind::Streaming))
}

/// Read the message of a unary call, which has to begin in time.
async fn first<B: Body<Data = Bytes>>(
    call: &Arc<Call>,
    places: &Arc<Places>,
    messages: &mut Messages<B>,
) -> Result<Option<Received>, Lost> {
    let begun = {
        let mut begun = pin!(messages.begin());
        let at_hand = poll_fn(|context| Poll::Ready(begun.as_mut().poll(context))).await;
        match at_hand {
            Poll::Ready(begun) => begun,
            Poll::Pending => {
                let _silent = places.silent(call, Instant::now());
                tokio::select! {
                    begun = timeout(SILENCE, begun) => {
                        begun.unwrap_or_else(|_| Err(Refusal::silent(SILENCE.as_secs()).into()))
                    }
                    status = poll_fn(|context| call.poll_closed(context)) => {
                        Err(Lost::Ended(status))
                    }
                }
            }
        }
    };
    begun?;
    messages.next().await
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

/// Read a stream's messages when its handler asks for them, until the call is over.
async fn read<B>(
    thread: Rc<Thread>,
    call: Arc<Call>,
    mut messages: Messages<B>,
    places: Arc<Places>,
) where
    B: Body<Data = Bytes>,
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
            .unwrap_or_else(|_| Some(expired())),
        None => work.await,
    };
    if let Some(status) = ending {
        call.close(status);
    }
}

/// Wait for a message, and tell meanwhile when nothing more is at hand; None when the call is over.
async fn message<B: Body<Data = Bytes>>(
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

fn expired() -> Status {
    Status::new(code::DEADLINE_EXCEEDED, "Deadline Exceeded")
}

fn unknown() -> Response<Answer> {
    refused(&Status::new(code::UNIMPLEMENTED, "Method not found!"))
}

/// The headers of every answer.
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(ACCEPT, HeaderValue::from_static(Encoding::ACCEPTED));
    response
}

/// An answer that is a status alone.
pub fn refused(status: &Status) -> Response<Answer> {
    let mut response = head();
    status.write_to(response.headers_mut());
    response.map(|()| Answer::empty())
}

fn no_grpc<B>(request: &Request<B>) -> Option<Response<Answer>> {
    let status = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc(request.headers().get(CONTENT_TYPE)) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = status;
    Some(response)
}

fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(GRPC));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_is_taken() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(
                is_grpc(Some(&HeaderValue::from_static(value))),
                expected,
                "{value}"
            );
        }
        assert!(!is_grpc(None));
    }
}
