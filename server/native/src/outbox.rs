//! What any thread has to tell a network thread.

use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use crate::call::Call;
use crate::sync::Mutex;

/// Calls of one network thread that something new is known of.
#[derive(Default)]
pub struct Outbox {
    calls: Mutex<Vec<Arc<Call>>>,
    filled: Notify,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Have the network thread look at a call; it is woken only if it does not know of others yet.
    pub fn put(&self, call: &Arc<Call>) {
        self.put_all([Arc::clone(call)]);
    }

    /// Have the network thread look at calls, and wake it once for all of them.
    pub fn put_all(&self, some: impl IntoIterator<Item = Arc<Call>>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = calls.is_empty();
        calls.extend(some);
        let is_news = was_empty && !calls.is_empty();
        drop(calls);
        if is_news {
            self.filled.notify_one();
        }
    }

    /// Wake the tasks of all calls that are put in, for ever.
    pub async fn deliver(&self) {
        let mut taken = Vec::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(
                &mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner),
                &mut taken,
            );
            for call in taken.drain(..) {
                call.wake();
            }
        }
    }
}
