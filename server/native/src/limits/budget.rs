//! A bound on the bytes of all requests under way, which gRPC and REST share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::limits::uploads::Uploads;

/// Counts bytes in and out.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    /// Of what is counted, what has not come yet.
    pub uploads: Uploads,
}

/// There is no room; nothing was counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    /// The bytes of all other requests.
    pub others: u64,
}

impl Budget {
    /// `limit`: bytes; a single request may be larger while there is no other.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
            uploads: Uploads::default(),
        }
    }

    /// The most that requests may take together, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that are counted now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Whether there is room for so many bytes, of which nothing is counted.
    pub fn room_for(&self, nbytes: u64, held: u64) -> Result<(), Full> {
        let used = self.used();
        let others = used.saturating_sub(held);
        if others > 0 && used.saturating_add(nbytes) > self.limit {
            return Err(Full { others });
        }
        Ok(())
    }

    /// Count bytes in. `held`: how many the same request has taken before.
    pub fn take(&self, nbytes: u64, held: u64) -> Result<(), Full> {
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            let others = used.saturating_sub(held);
            let wanted = used.saturating_add(nbytes);
            if others > 0 && wanted > self.limit {
                return Err(Full { others });
            }
            match self
                .used
                .compare_exchange_weak(used, wanted, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(now) => used = now,
            }
        }
    }

    /// Count bytes out that `take` has counted in.
    pub fn give_back(&self, nbytes: u64) {
        self.used.fetch_sub(nbytes, Ordering::AcqRel);
    }
}

/// Bytes that are counted for as long as the claim lives.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    nbytes: u64,
}

impl Claim {
    /// Count bytes in.
    pub fn new(budget: &Arc<Budget>, nbytes: u64) -> Result<Self, Full> {
        budget.take(nbytes, 0)?;
        Ok(Self {
            budget: Arc::clone(budget),
            nbytes,
        })
    }

    /// The bytes that are counted.
    pub fn nbytes(&self) -> u64 {
        self.nbytes
    }

    /// Count more bytes in for the same request.
    pub fn grow(&mut self, nbytes: u64) -> Result<(), Full> {
        self.budget.take(nbytes, self.nbytes)?;
        self.nbytes += nbytes;
        Ok(())
    }

    /// Count bytes out that are needed no longer.
    pub fn shrink(&mut self, nbytes: u64) {
        let nbytes = nbytes.min(self.nbytes);
        self.nbytes -= nbytes;
        self.budget.give_back(nbytes);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.give_back(self.nbytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_alone_may_be_larger_than_the_limit() {
        let budget = Budget::new(10);
        assert_eq!(budget.take(100, 0), Ok(()));
        assert_eq!(budget.take(1, 0), Err(Full { others: 100 }));
        assert_eq!(budget.take(1, 100), Ok(()));
        budget.give_back(101);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_claim_counts_out_what_it_counted_in() {
        let budget = Arc::new(Budget::new(10));
        let mut claim = Claim::new(&budget, 4).ok();
        if let Some(claim) = &mut claim {
            assert!(claim.grow(6).is_ok());
            claim.shrink(3);
        }
        assert_eq!(budget.used(), 7);
        assert!(Claim::new(&budget, 4).is_err());
        drop(claim);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn threads_never_count_past_the_limit() {
        let budget = Arc::new(Budget::new(8));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let budget = Arc::clone(&budget);
                std::thread::spawn(move || {
                    for _ in 0..1000 {
                        if let Ok(claim) = Claim::new(&budget, 3) {
                            assert!(budget.used() <= 8);
                            drop(claim);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        assert_eq!(budget.used(), 0);
    }
}
