//! Requests that are counted already, and whose bytes have not come yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::limits::SLOWEST_BYTES_PER_S;
use crate::sync::{Mutex, MutexGuard};

/// Nobody is called slow before.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uploads under way. Where others find no room, those that come slowly give theirs up.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    uploads: BTreeMap<u64, Arc<Upload>>,
}

#[derive(Debug)]
struct Upload {
    began: Instant,
    received: AtomicU64,
    ended: Notify,
}

impl Upload {
    fn is_slow(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.began);
        let expected = age.as_secs_f64() * SLOWEST_BYTES_PER_S as f64;
        age >= PATIENCE && (self.received.load(Ordering::Relaxed) as f64) < expected
    }
}

impl Uploads {
    /// Note an upload, until what is returned is dropped.
    pub fn begin(&self, now: Instant) -> Uploading<'_> {
        let upload = Arc::new(Upload {
            began: now,
            received: AtomicU64::new(0),
            ended: Notify::new(),
        });
        let mut state = self.locked();
        let number = state.next;
        state.next += 1;
        state.uploads.insert(number, Arc::clone(&upload));
        Uploading {
            uploads: self,
            number,
            upload,
        }
    }

    /// End those that have come at less than 64 KiB a second, as others find no room.
    pub fn end_slow(&self, now: Instant) {
        let state = self.locked();
        for upload in state.uploads.values().filter(|each| each.is_slow(now)) {
            upload.ended.notify_one();
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One upload.
pub struct Uploading<'a> {
    uploads: &'a Uploads,
    number: u64,
    upload: Arc<Upload>,
}

impl Uploading<'_> {
    /// Note that more bytes have come.
    pub fn received(&self, nbytes: usize) {
        self.upload
            .received
            .fetch_add(nbytes as u64, Ordering::Relaxed);
    }

    /// Wait until the upload is to give up its room.
    pub async fn ended(&self) {
        self.upload.ended.notified().await;
    }
}

impl Drop for Uploading<'_> {
    fn drop(&mut self) {
        self.uploads.locked().uploads.remove(&self.number);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_slow_by_what_has_come_and_not_at_once() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        let upload = uploads.begin(now);
        let second = Duration::from_secs(1);
        assert!(!upload.upload.is_slow(now + second));
        assert!(upload.upload.is_slow(now + 2 * second));
        upload.received(128 << 10);
        assert!(!upload.upload.is_slow(now + 2 * second));
        assert!(upload.upload.is_slow(now + 3 * second));
    }

    #[test]
    fn an_upload_that_has_ended_is_forgotten() {
        let uploads = Uploads::default();
        drop(uploads.begin(Instant::now()));
        assert!(uploads.locked().uploads.is_empty());
    }
}
