//! How many calls there may be, and whose place the next one takes where there is none left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::call::Call;
use crate::limits::Refusal;
use crate::sync::{Mutex, MutexGuard};

/// Callers send their message with the headers; what takes longer is a slow network.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Where there is no place left, a call that was silent for so long makes room for the next.
const LEAST: Duration = Duration::from_secs(1);

/// Counts the calls under way.
#[derive(Default)]
pub struct Places {
    most: usize,
    taken: AtomicUsize,
    silent: Mutex<SilentCalls>,
}

#[derive(Default)]
struct SilentCalls {
    next: u64,
    /// Those that have sent no message, the oldest first, and since when.
    calls: BTreeMap<u64, (Instant, Weak<Call>)>,
}

impl Places {
    /// `most`: how many calls may be under way.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            ..Self::default()
        })
    }

    /// How many calls are under way.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Take a place for a call; where there is none, that of one that was silent for long.
    ///
    /// Also returns the status that the evicted call ended with.
    pub fn place(
        self: &Arc<Self>,
        now: impl FnOnce() -> Instant,
    ) -> Result<(Place, Option<Refusal>), Refusal> {
        let place = Place(Arc::clone(self));
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.most {
            return Ok((place, None));
        }
        match self.end_silent(now()) {
            Some(ended) => Ok((place, Some(ended))),
            None => Err(Refusal::too_many(self.most)),
        }
    }

    /// Note that a call waits for its first message, until what is returned is dropped.
    pub fn silent(self: &Arc<Self>, call: &Arc<Call>, now: Instant) -> Silent {
        let mut silent = self.locked();
        let number = silent.next;
        silent.next += 1;
        silent.calls.insert(number, (now, Arc::downgrade(call)));
        Silent {
            places: Arc::clone(self),
            number,
        }
    }

    fn end_silent(&self, now: Instant) -> Option<Refusal> {
        let oldest = {
            let mut silent = self.locked();
            let oldest = silent.calls.first_entry()?;
            if now.saturating_duration_since(oldest.get().0) < LEAST {
                return None;
            }
            oldest.remove().1
        };
        let refusal = Refusal::silent(LEAST.as_secs());
        oldest.upgrade()?.close(refusal.status.clone());
        Some(refusal)
    }

    fn locked(&self) -> MutexGuard<'_, SilentCalls> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place, until it is dropped.
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call that waits for its first message.
pub struct Silent {
    places: Arc<Places>,
    number: u64,
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.places.locked().calls.remove(&self.number);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderMap, Uri};

    use super::*;
    use crate::call::Head;
    use crate::outbox::Outbox;

    fn call(place: Place) -> Arc<Call> {
        let head = Head {
            uri: Uri::from_static("/a/B"),
            method: Some(0),
            headers: HeaderMap::new(),
            deadline: None,
            local: true,
        };
        Call::new(head, Outbox::new(), place)
    }

    #[test]
    fn there_are_as_many_places_as_said() {
        let (places, now) = (Places::new(1), Instant::now());
        let first = places.place(|| now);
        assert!(first.is_ok());
        assert_eq!(places.place(|| now).err(), Some(Refusal::too_many(1)));
        drop(first);
        assert!(places.place(|| now).is_ok());
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn a_silent_call_gives_its_place_to_the_next_one() {
        let (places, now) = (Places::new(1), Instant::now());
        let quiet = call(places.place(|| now).ok().unwrap().0);
        let silence = places.silent(&quiet, now);
        assert!(
            places.place(|| now).is_err(),
            "its message may be on its way"
        );
        assert!(places.place(|| now + LEAST).is_ok());
        assert_eq!(quiet.status_at_hand(), Some(Refusal::silent(1).status));
        assert!(places.place(|| now + LEAST).is_err(), "it was the only one");
        drop(silence);
    }

    #[test]
    fn a_call_that_has_spoken_keeps_its_place() {
        let (places, now) = (Places::new(1), Instant::now());
        let speaking = call(places.place(|| now).ok().unwrap().0);
        drop(places.silent(&speaking, now));
        assert!(places.place(|| now + LEAST).is_err());
    }
}
