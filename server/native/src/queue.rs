//! Where network threads leave whole lists of what happened, and Python's thread takes them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::call::Call;
use crate::limits::{Reason, Refusal};
use crate::receive::alike::Cut;
use crate::sync::{Condvar, Mutex};

/// After so many events a network thread hands over what it has, even if more is at hand.
const MOST_GATHERED: usize = 64;
/// After so many turns it hands over what there is.
const MOST_TURNS: u32 = 1;

/// Something that happened to a call.
pub enum Event {
    /// It begins, and waits to be let through.
    Arrived(Arc<Call>),
    /// It is there: a unary call with its message, or a stream.
    Begun(Arc<Call>),
    /// A unary call is there whose message may be one of many that are alike.
    Cut(Arc<Call>, Box<Cut>),
    /// A message of a stream that was asked for; None at the end of what the caller sends.
    Message(Arc<Call>, Option<Bytes>),
    /// The connection has taken a message of a stream.
    Sent(Arc<Call>),
    /// All is handed over that had come.
    Idle(Arc<Call>),
    /// It is over for its caller.
    Ended(Arc<Call>),
}

/// Requests that were refused for one reason.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The last of them.
    pub last: Refusal,
    /// How many.
    pub count: u64,
}

/// What was taken.
#[derive(Default)]
pub struct Taken {
    /// In the order in which it happened.
    pub events: Vec<Event>,
    /// An entry for each reason.
    pub refused: Vec<Refused>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    refused: Vec<Refused>,
    waiting: usize,
    closed: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.refused.is_empty()
    }
}

/// It holds a few events at most for each call that has a place, so places bound it.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

impl Queue {
    fn add(&self, events: &mut Vec<Event>, refused: &mut Vec<Refused>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.events.extend(events.drain(..));
        for each in refused.drain(..) {
            note(&mut state.refused, each);
        }
        let wanted = state.waiting > 0;
        drop(state);
        if wanted {
            self.filled.notify_one();
        }
    }

    /// Take at most `most` events; wait for the first one at most so long. None: it is closed.
    pub fn take(&self, most: usize, timeout: Duration) -> Option<Taken> {
        let until = Instant::now() + timeout;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.is_empty() {
            if state.closed {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.waiting += 1;
            state = self
                .filled
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.waiting -= 1;
        }
        let count = state.events.len().min(most);
        Some(Taken {
            events: state.events.drain(..count).collect(),
            refused: std::mem::take(&mut state.refused),
        })
    }

    /// Give out what is left, and then None to all who wait.
    pub fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.filled.notify_all();
    }
}

fn note(all: &mut Vec<Refused>, one: Refused) {
    match all
        .iter_mut()
        .find(|each| each.last.reason == one.last.reason)
    {
        Some(each) => {
            each.count += one.count;
            each.last = one.last;
        }
        None => all.push(one),
    }
}

/// What one network thread has gathered since it handed over last.
pub struct Gathered {
    queue: Arc<Queue>,
    events: RefCell<Vec<Event>>,
    refused: RefCell<Vec<Refused>>,
    /// How many turns the thread has begun since it has handed over.
    turns: Cell<u32>,
}

impl Gathered {
    /// Nothing yet.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            events: RefCell::default(),
            refused: RefCell::default(),
            turns: Cell::default(),
        }
    }

    /// Note that the thread begins another turn of its tasks.
    ///
    /// One that callers flood never rests, and what has gathered must not wait for that.
    pub fn turn(&self) {
        self.turns.set(self.turns.get() + 1);
        if self.turns.get() > MOST_TURNS {
            self.flush();
        }
    }

    /// Add an event.
    pub fn push(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        events.push(event);
        let is_full = events.len() >= MOST_GATHERED;
        drop(events);
        if is_full {
            self.flush();
        }
    }

    /// Count a request that was refused; an attacker's garbage and slowness count, too.
    pub fn refused(&self, refusal: Refusal) {
        debug_assert!(refusal.status.code != 0);
        note(
            &mut self.refused.borrow_mut(),
            Refused {
                last: refusal,
                count: 1,
            },
        );
    }

    /// Hand over what there is.
    pub fn flush(&self) {
        self.turns.set(0);
        let mut events = self.events.borrow_mut();
        let mut refused = self.refused.borrow_mut();
        if !events.is_empty() || !refused.is_empty() {
            self.queue.add(&mut events, &mut refused);
        }
    }
}

/// Whether metrics count a refusal by a reason of its own.
pub fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::TooLarge => "request_size",
        Reason::NoRoom => "inflight_bytes",
        Reason::TooMany => "calls",
        Reason::Connections => "connections",
        Reason::Fault => "fault",
        Reason::TooSlow => "deadline",
        Reason::Silent => "no_message",
        Reason::Gone | Reason::Malformed => "",
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings {
    use std::sync::atomic::{AtomicU64, Ordering};

    use shuttle::thread;

    use super::*;
    use crate::status::code;

    const EACH: u64 = 3;
    const LONG: Duration = Duration::from_secs(3600);

    fn gather(queue: Arc<Queue>) {
        let gathered = Gathered::new(queue);
        for _ in 0..EACH {
            gathered.refused(Refusal::malformed(code::INTERNAL, "x"));
            gathered.flush();
        }
    }

    #[test]
    fn what_any_thread_hands_over_is_taken_without_another_to_come() {
        let work = || {
            let queue = Arc::new(Queue::default());
            for _ in 0..2 {
                let queue = Arc::clone(&queue);
                thread::spawn(move || gather(queue));
            }
            let mut sum = 0;
            // A wake-up that gets lost leaves this waiting for ever, which shuttle finds.
            while sum < 2 * EACH {
                let taken = queue.take(1, LONG).unwrap_or_default();
                sum += taken.refused.iter().map(|each| each.count).sum::<u64>();
            }
            assert_eq!(sum, 2 * EACH);
        };
        shuttle::check_random(work, 3000);
        shuttle::check_pct(work, 3000, 4);
    }

    #[test]
    fn a_close_is_heard_by_all_who_take_and_nothing_is_taken_twice() {
        let work = || {
            let queue = Arc::new(Queue::default());
            let taken = Arc::new(AtomicU64::new(0));
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                    thread::spawn(move || {
                        while let Some(some) = queue.take(1, LONG) {
                            let count = some.refused.iter().map(|each| each.count).sum();
                            taken.fetch_add(count, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            gather(Arc::clone(&queue));
            queue.close();
            takers.into_iter().for_each(|thread| drop(thread.join()));
            assert_eq!(taken.load(Ordering::SeqCst), EACH);
        };
        shuttle::check_random(work, 3000);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::status::code;

    #[test]
    fn refusals_are_counted_by_reason() {
        let queue = Arc::new(Queue::default());
        let gathered = Gathered::new(Arc::clone(&queue));
        for _ in 0..1000 {
            gathered.refused(Refusal::gone());
            gathered.refused(Refusal::malformed(code::INTERNAL, "x"));
            gathered.flush();
        }
        let refused = queue
            .take(1, Duration::ZERO)
            .map(|taken| taken.refused)
            .unwrap_or_default();
        assert_eq!(
            refused.iter().map(|each| each.count).collect::<Vec<_>>(),
            [1000, 1000]
        );
    }

    #[test]
    fn a_thread_that_never_rests_hands_over_at_its_second_turn() {
        let queue = Arc::new(Queue::default());
        let gathered = Gathered::new(Arc::clone(&queue));
        let taken = || {
            queue
                .take(1, Duration::ZERO)
                .map(|taken| taken.refused.len())
        };
        gathered.turn();
        gathered.refused(Refusal::gone());
        assert_eq!(taken(), Some(0));
        gathered.turn();
        assert_eq!(taken(), Some(1));
    }

    #[test]
    fn a_closed_queue_gives_out_what_is_left() {
        let queue = Arc::new(Queue::default());
        Gathered::new(Arc::clone(&queue)).flush();
        assert!(queue
            .take(1, Duration::ZERO)
            .is_some_and(|taken| taken.refused.is_empty()));
        let gathered = Gathered::new(Arc::clone(&queue));
        gathered.refused(Refusal::gone());
        gathered.flush();
        queue.close();
        assert!(queue
            .take(1, Duration::MAX.min(Duration::from_secs(9)))
            .is_some());
        assert!(queue.take(1, Duration::from_secs(9)).is_none());
    }
}
