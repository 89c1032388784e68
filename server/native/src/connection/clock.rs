//! The time as hyper reads it.

use std::cell::Cell;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

thread_local! {
    /// When the thread began the turn of its tasks that goes on.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Note that the thread begins another turn of its tasks.
pub fn turn() {
    TURN.set(Some(Instant::now()));
}

/// tokio's timer, but with the time at which the turn has begun.
///
/// hyper asks at each frame, to know of a connection how long it has been silent.
#[derive(Clone, Default)]
pub struct Clock(TokioTimer);

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.sleep_until(deadline)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.reset(sleep, deadline);
    }

    fn now(&self) -> Instant {
        TURN.get().unwrap_or_else(|| self.0.now())
    }
}
