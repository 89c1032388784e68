//! The `grpc-timeout` header.
//!
//! `cases.json` has what is read and what is not.

use std::time::{Duration, Instant};

/// Who waits for longer, waits for ever: clocks of Python's can't be asked to wait for so long.
const LONGEST: Duration = Duration::from_secs(3_000_000_000);

/// Read 1 to 8 digits and a unit; None if the header is not of that form.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Return when a caller stops waiting that has sent this header; None: it never does.
pub fn deadline(after: Duration, now: Instant) -> Option<Instant> {
    if after > LONGEST {
        return None;
    }
    now.checked_add(after)
}
