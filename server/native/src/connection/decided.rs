//! Streams whose answer the headers of the request have decided: they need no task of their own.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::task::spawn_local;

type Stream = Pin<Box<dyn Future<Output = ()>>>;

/// Those of one thread, until its next turn.
///
/// They don't end at once: h2 resets a stream that ends before its body was read, and counts frames
/// that come for it later against the connection.
#[derive(Default)]
pub struct Decided {
    is_next: Cell<bool>,
    streams: RefCell<Vec<Stream>>,
    /// What is still to come of requests that are answered.
    rests: RefCell<Vec<Stream>>,
    filled: Notify,
}

impl Decided {
    /// Note that the stream that begins next is such a one.
    pub fn expect(&self) {
        self.is_next.set(true);
    }

    /// Wait for the rest of a request that is answered: most often it is there at the next turn.
    pub fn leave(&self, rest: impl Future<Output = ()> + 'static) {
        self.rests.borrow_mut().push(Box::pin(rest));
        self.filled.notify_one();
    }

    /// Run a stream that begins.
    pub fn begin(&self, stream: impl Future<Output = ()> + 'static) {
        if !self.is_next.take() {
            spawn_local(stream);
            return;
        }
        let mut streams = self.streams.borrow_mut();
        streams.push(Box::pin(stream));
        if streams.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// End them, for ever.
    pub async fn run(&self) {
        loop {
            self.filled.notified().await;
            for mut each in self.streams.take().into_iter().chain(self.rests.take()) {
                let mut context = Context::from_waker(Waker::noop());
                if each.as_mut().poll(&mut context).is_pending() {
                    spawn_local(each);
                }
            }
        }
    }

    /// Give up those that there are.
    pub fn clear(&self) {
        drop(self.streams.take());
        drop(self.rests.take());
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{yield_now, LocalSet};

    use super::*;

    #[test]
    fn each_stream_ends_but_none_before_the_next_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        LocalSet::new().block_on(&runtime.unwrap(), async {
            let decided = Rc::new(Decided::default());
            let running = Rc::clone(&decided);
            spawn_local(async move { running.run().await });
            yield_now().await;
            let ended = Rc::new(RefCell::new(Vec::new()));
            for (number, is_decided, waits) in [
                (0, true, false),
                (1, false, true),
                (2, true, false),
                (3, true, true),
            ] {
                if is_decided {
                    decided.expect();
                }
                let ended = Rc::clone(&ended);
                decided.begin(async move {
                    if waits {
                        yield_now().await;
                    }
                    ended.borrow_mut().push(number);
                });
            }
            assert!(ended.borrow().is_empty());
            for _ in 0..4 {
                yield_now().await;
            }
            ended.borrow_mut().sort_unstable();
            assert_eq!(*ended.borrow(), [0, 1, 2, 3]);
        });
    }
}
