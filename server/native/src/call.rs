//! One call, between the network thread that has it and the threads that answer it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Uri};

use crate::limits::places::Place;
use crate::outbox::Outbox;
use crate::receive::Received;
use crate::status::Status;
use crate::sync::{Mutex, MutexGuard};

/// What is called once when a call is over.
pub type Callback = Box<dyn FnOnce() + Send>;

/// What the caller sent before its messages.
#[derive(Debug)]
pub struct Head {
    /// The full method path.
    pub uri: Uri,
    /// The method's number in the table of methods; None if the server has no such method.
    pub method: Option<usize>,
    /// Metadata.
    pub headers: HeaderMap,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Whether the caller is on this machine.
    pub local: bool,
}

/// A call. All of it may be used from any thread; nothing here waits.
pub struct Call {
    /// What the caller sent before its messages.
    pub head: Head,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
}

/// How far a call has come; see the methods of `Call`.
#[derive(Default)]
struct State {
    place: Option<Place>,
    /// Whether an event of the call waits in the queue, or the call was never handed over.
    taken: bool,
    /// Whether the other side knows the call.
    known: bool,
    admitted: bool,
    request: Option<Received>,
    callbacks: Vec<Callback>,
    wants_message: bool,
    wants_idle: bool,
    outgoing: VecDeque<Bytes>,
    status: Option<Status>,
    ended: bool,
    /// Whether an answer ended it that was to follow at once.
    settled: bool,
    /// Whether the network thread has nothing more to do for the call.
    left: bool,
    responder: Option<Waker>,
    reader: Option<Waker>,
}

/// What the network thread does next for the caller.
pub enum Reply {
    /// Send this message.
    Message(Bytes),
    /// End the call with this status.
    Status(Status),
}

/// What the handler of a stream asks for.
pub enum Wish {
    /// The next message.
    Message,
    /// To be told when all is handed over that has come by now.
    Idle,
    /// Nothing any more: the call is over.
    Nothing,
}

impl Call {
    /// A call that nobody knows yet.
    pub fn new(head: Head, outbox: Arc<Outbox>, place: Place) -> Arc<Self> {
        let state = State {
            place: Some(place),
            ..State::default()
        };
        Arc::new(Self {
            head,
            outbox,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the network thread.

    /// Note that the call is going to be handed over, with its message if it has one.
    pub fn hand_over(&self, request: Option<Received>) {
        let mut state = self.state();
        state.known = true;
        state.taken = false;
        state.request = request;
    }

    /// End the call for its caller, as its stream is over; returns whether the other side has to be told.
    pub fn end(&self) -> bool {
        let mut state = self.state();
        state.left = true;
        // A call in the queue keeps its place, or callers that come and go could fill the queue.
        let place = if state.taken || !state.known {
            state.place.take()
        } else {
            None
        };
        let is_news = !state.ended && state.known;
        let request = state.finish();
        drop(state);
        drop((place, request));
        is_news
    }

    /// Return whether the call was let through, once it is known; an end counts as known, too.
    pub fn poll_admitted(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.admitted || state.status.is_some() {
            return Poll::Ready(());
        }
        state.responder = Some(context.waker().clone());
        Poll::Pending
    }

    /// Return once the call is to end without an answer.
    pub fn poll_closed(&self, context: &Context<'_>) -> Poll<Status> {
        let mut state = self.state();
        if let Some(status) = state.status.clone() {
            return Poll::Ready(status);
        }
        state.responder = Some(context.waker().clone());
        Poll::Pending
    }

    /// Return what is to be sent next.
    pub fn poll_reply(&self, context: &Context<'_>) -> Poll<Reply> {
        let mut state = self.state();
        if let Some(message) = state.outgoing.pop_front() {
            return Poll::Ready(Reply::Message(message));
        }
        if let Some(status) = state.status.clone() {
            return Poll::Ready(Reply::Status(status));
        }
        state.responder = Some(context.waker().clone());
        Poll::Pending
    }

    /// The bytes that wait to be sent.
    pub fn outgoing_len(&self) -> usize {
        self.state().outgoing.iter().map(Bytes::len).sum()
    }

    /// Return the status if nothing else is to be sent before it.
    pub fn status_at_hand(&self) -> Option<Status> {
        let state = self.state();
        if state.outgoing.is_empty() {
            state.status.clone()
        } else {
            None
        }
    }

    /// Return what the handler of a stream asks for next.
    pub fn poll_wish(&self, context: &Context<'_>) -> Poll<Wish> {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return Poll::Ready(Wish::Nothing);
        }
        // The message that was asked for goes out before the end of the stream does: both may be due.
        if state.wants_message {
            return Poll::Ready(Wish::Message);
        }
        if state.wants_idle {
            return Poll::Ready(Wish::Idle);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Return whether the handler waits for silence, while a message is waited for.
    pub fn poll_idle_wanted(&self, context: &Context<'_>) -> Poll<Wish> {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return Poll::Ready(Wish::Nothing);
        }
        if state.wants_idle {
            return Poll::Ready(Wish::Idle);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Note that the message that was asked for is there.
    pub fn message_granted(&self) {
        self.state().wants_message = false;
    }

    /// Note that the silence that was asked for is there.
    pub fn idle_granted(&self) {
        self.state().wants_idle = false;
    }

    /// Wake the tasks of the call, in the thread that runs them.
    pub fn wake(&self) {
        let mut state = self.state();
        let wakers = [state.responder.take(), state.reader.take()];
        drop(state);
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    // For the threads that answer.

    /// Note that the call was taken from the queue; returns whether its caller is still there.
    pub fn take(&self) -> bool {
        let mut state = self.state();
        state.taken = true;
        let place = if state.left { state.place.take() } else { None };
        let alive = !state.ended;
        drop(state);
        drop(place);
        alive
    }

    /// Whether the call is over for its caller.
    pub fn is_over(&self) -> bool {
        self.state().ended
    }

    /// The request's size in bytes, as long as it is there.
    pub fn request_len(&self) -> usize {
        self.state()
            .request
            .as_ref()
            .map_or(0, |request| request.message.len())
    }

    /// The request message as long as it is there, which stays where it is.
    pub fn request(&self) -> Bytes {
        let state = self.state();
        let request = state.request.as_ref();
        request.map(|r| r.message.clone()).unwrap_or_default()
    }

    /// Take the request message out; its bytes stay counted until the call is over.
    pub fn take_request(&self) -> Bytes {
        self.state()
            .request
            .as_mut()
            .map(|r| std::mem::take(&mut r.message))
            .unwrap_or_default()
    }

    /// Let through a call that waits for that.
    pub fn admit(self: &Arc<Self>) {
        self.state().admitted = true;
        self.outbox.put(self);
    }

    /// Ask for one message of a stream.
    pub fn want_message(self: &Arc<Self>) {
        self.state().wants_message = true;
        self.outbox.put(self);
    }

    /// Ask to be told when nothing more is at hand.
    pub fn want_idle(self: &Arc<Self>) {
        self.state().wants_idle = true;
        self.outbox.put(self);
    }

    /// Send a message of a stream, in pieces; returns whether it is going to be sent.
    pub fn send(self: &Arc<Self>, pieces: impl IntoIterator<Item = Bytes>) -> bool {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return false;
        }
        state.outgoing.extend(pieces);
        drop(state);
        self.outbox.put(self);
        true
    }

    /// End a stream, after what is being sent.
    pub fn close(self: &Arc<Self>, status: Status) {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return;
        }
        state.status = Some(status);
        drop(state);
        self.outbox.put(self);
    }

    /// Answer or refuse a unary call, which is over with that; the callbacks are to be called.
    ///
    /// It keeps its place until the answer is sent, or who never reads could fill the memory.
    pub fn answer(
        self: &Arc<Self>,
        pieces: impl IntoIterator<Item = Bytes>,
        status: Status,
    ) -> Vec<Callback> {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return Vec::new();
        }
        state.outgoing.extend(pieces);
        state.status = Some(status);
        let request = state.finish();
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        drop(request);
        self.outbox.put(self);
        callbacks
    }

    /// Take a unary call for an answer that follows at once; returns whether it was still open.
    ///
    /// It is over with that: neither its caller's going nor another answer ends it any more, and
    /// its callbacks are not called.
    pub fn settle(&self) -> bool {
        let mut state = self.state();
        if state.ended || state.status.is_some() {
            return false;
        }
        state.settled = true;
        let request = state.finish();
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        drop((request, callbacks));
        true
    }

    /// Answer or refuse calls that were settled; each network thread is woken once.
    pub fn reply_all(replies: impl IntoIterator<Item = (Arc<Self>, Option<Bytes>, Status)>) {
        let mut calls = Vec::new();
        for (call, message, status) in replies {
            let mut state = call.state();
            state.outgoing.extend(message);
            state.status = Some(status);
            drop(state);
            calls.push(call);
        }
        while let Some(outbox) = calls.first().map(|call| Arc::clone(&call.outbox)) {
            let of_thread = |call: &Arc<Self>| Arc::ptr_eq(&call.outbox, &outbox);
            let (its, others) = calls.into_iter().partition::<Vec<_>, _>(of_thread);
            outbox.put_all(its);
            calls = others;
        }
    }

    /// Have a callback called when the call ends before it is settled; it is given back if it has.
    pub fn on_leaving(&self, callback: Callback) -> Option<Callback> {
        // Under one lock: an answer may come in between.
        let mut state = self.state();
        if !state.settled && state.ended {
            return Some(callback);
        }
        if !state.settled {
            state.callbacks.push(callback);
        }
        None
    }

    /// Have a callback called when the call is over; it is given back if that is so already.
    pub fn on_end(&self, callback: Callback) -> Option<Callback> {
        let mut state = self.state();
        if state.ended {
            return Some(callback);
        }
        state.callbacks.push(callback);
        None
    }

    /// Return the callbacks of a call that is over.
    pub fn take_callbacks(&self) -> Vec<Callback> {
        std::mem::take(&mut self.state().callbacks)
    }
}

impl State {
    /// Mark the end, and return what must be dropped without the lock.
    fn finish(&mut self) -> Option<Received> {
        self.ended = true;
        self.request.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::limits::places::Places;

    fn call(places: &Arc<Places>) -> Option<Arc<Call>> {
        let head = Head {
            uri: Uri::from_static("/a/B"),
            method: Some(0),
            headers: HeaderMap::new(),
            deadline: None,
            local: true,
        };
        let (place, _) = places.place(Instant::now).ok()?;
        Some(Call::new(head, Outbox::new(), place))
    }

    #[cfg(not(feature = "shuttle"))]
    #[test]
    fn a_call_in_the_queue_keeps_its_place_although_its_caller_has_gone() {
        let places = Places::new(1);
        let call = call(&places).unwrap();
        call.hand_over(None);
        assert!(call.end());
        assert_eq!(places.taken(), 1);
        assert!(!call.take());
        assert_eq!(places.taken(), 0);
    }

    #[cfg(feature = "shuttle")]
    #[test]
    fn in_all_interleavings_a_call_ends_once_and_gives_its_place_back() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let work = || {
            let places = Places::new(1);
            let call = call(&places).unwrap();
            call.hand_over(None);
            let told = Arc::new(AtomicUsize::new(0));
            let taking = {
                let (call, told) = (Arc::clone(&call), Arc::clone(&told));
                shuttle::thread::spawn(move || {
                    if !call.take() {
                        return;
                    }
                    let counted = Arc::clone(&told);
                    let callback: Callback = Box::new(move || {
                        counted.fetch_add(1, Ordering::SeqCst);
                    });
                    if let Some(callback) = call.on_end(callback) {
                        callback();
                    }
                    let callbacks = call.answer(None, Status::ok());
                    callbacks.into_iter().for_each(|callback| callback());
                })
            };
            let was_alive = call.end();
            drop(taking.join());
            // As Python does when it takes the event of the end.
            call.take_callbacks()
                .into_iter()
                .for_each(|callback| callback());
            assert!(call.is_over());
            assert_eq!(places.taken(), 0);
            let told = told.load(Ordering::SeqCst);
            assert!(told == 1 || (told == 0 && was_alive), "{told}");
        };
        shuttle::check_random(work, 3000);
    }

    #[cfg(feature = "shuttle")]
    #[test]
    fn in_all_interleavings_a_member_of_a_group_is_settled_or_has_left() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let work = || {
            let places = Places::new(1);
            let call = call(&places).unwrap();
            call.hand_over(None);
            let left = Arc::new(AtomicUsize::new(0));
            let taking = {
                let (call, left) = (Arc::clone(&call), Arc::clone(&left));
                shuttle::thread::spawn(move || {
                    if !call.take() {
                        return None;
                    }
                    let leaving: Callback = Box::new(move || {
                        left.fetch_add(1, Ordering::SeqCst);
                    });
                    // The batch may run before anybody asks to hear of the member's leaving.
                    let running = {
                        let call = Arc::clone(&call);
                        shuttle::thread::spawn(move || {
                            let is_settled = call.settle();
                            if is_settled {
                                Call::reply_all([(call, None, Status::ok())]);
                            }
                            is_settled
                        })
                    };
                    if let Some(leaving) = call.on_leaving(leaving) {
                        leaving();
                    }
                    Some(running.join().unwrap())
                })
            };
            let is_news = call.end();
            let settled = taking.join().unwrap();
            // As Python does when it takes the event of the end.
            if is_news {
                let callbacks = call.take_callbacks();
                callbacks.into_iter().for_each(|callback| callback());
            }
            assert!(call.is_over());
            assert_eq!(places.taken(), 0);
            let left = left.load(Ordering::SeqCst);
            match settled {
                Some(settled) => assert_eq!(left + usize::from(settled), 1),
                None => assert!(is_news && left == 0),
            }
        };
        shuttle::check_random(work, 3000);
    }

    #[cfg(not(feature = "shuttle"))]
    #[test]
    fn a_member_that_was_settled_is_over_and_nobody_hears_of_its_leaving() {
        let places = Places::new(1);
        let call = call(&places).unwrap();
        call.hand_over(None);
        assert!(call.take());
        assert!(call.on_leaving(Box::new(|| ())).is_none());
        assert!(call.settle());
        assert!(!call.settle());
        assert!(call.take_callbacks().is_empty());
        assert!(call.on_leaving(Box::new(|| ())).is_none());
        Call::reply_all([(Arc::clone(&call), None, Status::ok())]);
        assert_eq!(places.taken(), 1, "the answer is not sent yet");
        assert!(!call.end(), "that is no news");
        assert_eq!(places.taken(), 0);
    }

    #[cfg(not(feature = "shuttle"))]
    #[test]
    fn a_call_ends_once() {
        let places = Places::new(1);
        let call = call(&places).unwrap();
        call.hand_over(None);
        assert!(call.take());
        assert!(call.on_end(Box::new(|| ())).is_none());
        assert_eq!(call.answer(None, Status::ok()).len(), 1);
        assert_eq!(places.taken(), 1, "the answer is not sent yet");
        assert!(!call.end());
        assert_eq!(places.taken(), 0);
        assert!(call.answer(None, Status::ok()).is_empty());
        assert!(call.on_end(Box::new(|| ())).is_some());
        assert_eq!(places.taken(), 0);
    }
}
