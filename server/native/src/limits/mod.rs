//! What requests may take, and what a caller reads who asks for more.
//!
//! The texts are those of `ladle.server.limits`; tests/server/transport hold both together.

pub mod budget;
pub mod places;
pub mod uploads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::budget::{Budget, Claim, Full};
use crate::status::{code, Status};

/// How far a compressed message is counted past the limit, so that its refusal names its size.
pub const EXPLAINED_BYTES: u64 = 64 << 20;
/// What a message may take to arrive, whatever its size.
const SLOWEST_MESSAGE: Duration = Duration::from_secs(60);
/// What a message counts as before so much of it has come; of a shorter one, all.
const FIRST_BYTES: u64 = 16 << 10;
/// How many bytes of a message have to arrive a second, beyond that time.
const SLOWEST_BYTES_PER_S: u64 = 64 << 10;

/// Why a request was refused, whatever it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message is larger than one may be.
    TooLarge,
    /// All requests together are as large as they may be.
    NoRoom,
    /// As many calls are under way as may be.
    TooMany,
    /// The message did not arrive in time.
    TooSlow,
    /// No message came at all.
    Silent,
    /// The caller went away before anybody looked at the request.
    Gone,
    /// The bytes are no gRPC.
    Malformed,
    /// There are as many connections as may be: it is no request, but a connection.
    Connections,
    /// What had it has panicked: a call, or a connection.
    Fault,
}

/// The end of a request that no handler sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the caller reads.
    pub status: Status,
}

impl Refusal {
    /// There are `max` connections already.
    pub fn connections(max: usize) -> Self {
        Self {
            reason: Reason::Connections,
            status: Status::new(
                code::UNAVAILABLE,
                format!("there are {max} connections already"),
            ),
        }
    }

    /// A message of `nbytes`, or at least so many, is larger than `max`.
    pub fn too_large(nbytes: u64, max: u64) -> Self {
        let message = format!(
            "the request takes {nbytes} bytes, more than the {max} of --max_request_bytes: send \
             fewer rows at a time"
        );
        Self {
            reason: Reason::TooLarge,
            status: Status::new(code::RESOURCE_EXHAUSTED, message),
        }
    }

    /// A request that brings `nbytes` finds no room.
    pub fn no_room(full: &Full, limit: u64, nbytes: u64) -> Self {
        let message = format!(
            "{} bytes of requests are under way of at most {limit} (--max_inflight_bytes), and the \
             request brings {nbytes}; try again later",
            full.others
        );
        let status = Status {
            code: code::RESOURCE_EXHAUSTED,
            message,
            retry_ms: Some(100),
        };
        Self {
            reason: Reason::NoRoom,
            status,
        }
    }

    /// `max` calls are under way already.
    pub fn too_many(max: usize) -> Self {
        let message = format!(
            "{max} calls are under way already (128 for each of --grpc_max_threads); try again \
             later"
        );
        let status = Status {
            code: code::UNAVAILABLE,
            message,
            retry_ms: Some(100),
        };
        Self {
            reason: Reason::TooMany,
            status,
        }
    }

    /// No message came at all.
    pub fn silent(seconds: u64) -> Self {
        let message = format!("expected a request message within {seconds} s, got none");
        Self {
            reason: Reason::Silent,
            status: Status::new(code::DEADLINE_EXCEEDED, message),
        }
    }

    /// The message was not there after so long.
    pub fn too_slow(allowed: Duration) -> Self {
        let message = format!(
            "the request message did not arrive within {} s: expected at least {} KiB a second",
            allowed.as_secs(),
            SLOWEST_BYTES_PER_S >> 10
        );
        Self {
            reason: Reason::TooSlow,
            status: Status::new(code::DEADLINE_EXCEEDED, message),
        }
    }

    /// The message took room that others needed, and came slowly.
    pub fn in_the_way() -> Self {
        let message = format!(
            "the request message came at less than {} KiB a second while others found no room \
             (--max_inflight_bytes); try again later",
            SLOWEST_BYTES_PER_S >> 10
        );
        let status = Status {
            code: code::RESOURCE_EXHAUSTED,
            message,
            retry_ms: Some(100),
        };
        Self {
            reason: Reason::NoRoom,
            status,
        }
    }

    /// The caller went away.
    pub fn gone() -> Self {
        let status = Status::new(code::CANCELLED, "the caller went away");
        Self {
            reason: Reason::Gone,
            status,
        }
    }

    /// A panic ended a call or a connection; its text is for the log alone.
    pub fn fault(panic: String) -> Self {
        Self {
            reason: Reason::Fault,
            status: Status::new(code::INTERNAL, panic),
        }
    }

    /// What came can't be read.
    pub fn malformed(code: u16, message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Malformed,
            status: Status::new(code, message),
        }
    }
}

/// What one message may take, and all together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of one message, after decompression.
    pub max_request_bytes: u64,
    /// Of all together; None where the handler counts the message itself.
    pub budget: Option<Arc<Budget>>,
}

impl Limits {
    /// Count in the beginning of a message, whose first `at_hand` bytes have come.
    ///
    /// A message that would find no room as a whole is refused. Where there is none, uploads that
    /// come slowly make some for the next. The rest counts as it comes: a length alone takes no room
    /// from others.
    pub fn claim(
        &self,
        nbytes: u64,
        at_hand: usize,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Claim>, Refusal> {
        self.check(nbytes)?;
        let Some(budget) = &self.budget else {
            return Ok(None);
        };
        let first = nbytes.min(FIRST_BYTES.max(at_hand as u64));
        let claim = budget
            .room_for(nbytes, 0)
            .and_then(|()| Claim::new(budget, first));
        claim.map(Some).map_err(|full| {
            budget.uploads.end_slow(now());
            Refusal::no_room(&full, budget.limit(), nbytes)
        })
    }

    /// Count more of a message in, once `come` of its `nbytes` have come; of one that has come
    /// whole, all.
    pub fn come(
        &self,
        claim: &mut Option<Claim>,
        come: usize,
        nbytes: u64,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Refusal> {
        let (Some(claim), Some(budget)) = (claim, &self.budget) else {
            return Ok(());
        };
        let (come, held) = (come as u64, claim.nbytes());
        if come < held || held >= nbytes {
            return Ok(());
        }
        let wanted = nbytes.min(come.saturating_add(FIRST_BYTES.max(come)));
        claim.grow(wanted - held).map_err(|full| {
            budget.uploads.end_slow(now());
            Refusal::no_room(&full, budget.limit(), nbytes)
        })
    }

    /// Refuse a message that is too large.
    pub fn check(&self, nbytes: u64) -> Result<(), Refusal> {
        if nbytes > self.max_request_bytes {
            return Err(Refusal::too_large(nbytes, self.max_request_bytes));
        }
        Ok(())
    }
}

/// How long a message of so many bytes may take to arrive.
pub fn allowed_time(nbytes: u64) -> Duration {
    SLOWEST_MESSAGE + Duration::from_secs(nbytes / SLOWEST_BYTES_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_or_refused_whole() {
        let budget = Arc::new(Budget::new(10));
        let limits = Limits {
            max_request_bytes: 8,
            budget: Some(Arc::clone(&budget)),
        };
        assert_eq!(
            limits
                .claim(9, 9, Instant::now)
                .err()
                .map(|refusal| refusal.reason),
            Some(Reason::TooLarge)
        );
        let claim = limits.claim(8, 8, Instant::now);
        assert!(claim.is_ok());
        assert_eq!(
            limits
                .claim(3, 3, Instant::now)
                .err()
                .map(|refusal| refusal.reason),
            Some(Reason::NoRoom)
        );
        assert_eq!(budget.used(), 8);
    }

    #[test]
    fn a_length_alone_takes_no_room_from_others() {
        let budget = Arc::new(Budget::new(1 << 20));
        let limits = Limits {
            max_request_bytes: 1 << 20,
            budget: Some(Arc::clone(&budget)),
        };
        let large = 1 << 20;
        let mut claim = limits.claim(large, 0, Instant::now).ok().flatten();
        assert_eq!(budget.used(), FIRST_BYTES);
        assert!(limits.claim(large, 0, Instant::now).is_err(), "too much");
        let mut come = 0;
        while come < large as usize {
            come += 1000;
            let come = come.min(large as usize);
            assert!(limits.come(&mut claim, come, large, Instant::now).is_ok());
            let used = budget.used();
            assert!(used >= come as u64, "what has come counts");
            assert!(used <= 2 * come as u64 + FIRST_BYTES);
        }
        assert_eq!(budget.used(), large);
        drop(claim);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn of_two_that_have_no_room_together_one_ends() {
        let budget = Arc::new(Budget::new(99_999));
        let limits = Limits {
            max_request_bytes: 100_000,
            budget: Some(Arc::clone(&budget)),
        };
        let [mut one, mut other] =
            [0, 0].map(|_| limits.claim(60_000, 0, Instant::now).ok().flatten());
        assert!(limits.come(&mut one, 20_000, 60_000, Instant::now).is_ok());
        assert!(limits
            .come(&mut other, 20_000, 60_000, Instant::now)
            .is_ok());
        let refused = limits.come(&mut one, 50_000, 60_000, Instant::now);
        let full = Full { others: 40_000 };
        assert_eq!(refused, Err(Refusal::no_room(&full, 99_999, 60_000)));
        drop(one);
        assert!(limits
            .come(&mut other, 50_000, 60_000, Instant::now)
            .is_ok());
        assert_eq!(budget.used(), 60_000);
    }

    #[test]
    fn large_messages_may_take_longer() {
        assert_eq!(allowed_time(0), Duration::from_secs(60));
        assert_eq!(allowed_time(64 << 20), Duration::from_secs(60 + 1024));
    }
}
