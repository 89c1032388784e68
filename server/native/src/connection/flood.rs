//! How many frames a caller may send that bring no request.
//!
//! SETTINGS and PING have to be answered, and PRIORITY, WINDOW_UPDATE and frames of no known kind
//! to be read. h2 does so for as long as they come, and other connections of the thread wait
//! meanwhile. Honest callers send such frames for requests and answers, and now and then for the
//! sake of the connection: these are what earns them here. A call that its caller resets before any
//! message earns nothing. Frames that only headers and bodies are made of are bounded by h2 itself.

use std::time::Instant;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
/// Length, kind, flags and stream.
const FRAME_HEAD: usize = 9;
/// What is taken for a frame, in bytes of answers: one of 24 bytes is worth three frames.
const COST: i64 = 8;
/// What a frame earns that brings a request, or a part of it.
const EARNED: i64 = 256;
/// What the reset of a call costs, beyond what its headers have earned.
const RESET: i64 = 4 * COST;
/// What a caller has from the beginning, and the most that it may have: some 2,000 frames.
const MOST: i64 = 16 << 10;
/// What a second earns: 240 PING frames, which need an answer each.
const EARNED_PER_S: f64 = 6000.0;

/// What one connection has earned, and not spent.
#[derive(Debug)]
pub struct Credit {
    left: i64,
    /// Since when no time has been counted.
    since: Instant,
}

impl Credit {
    /// That of a connection that begins.
    pub fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            since: now,
        }
    }

    /// Note that a frame came, of so many bytes with its head.
    pub fn came(&mut self, kind: u8, flags: u8, nbytes: usize) {
        match kind {
            DATA | HEADERS if nbytes > FRAME_HEAD => self.earn(EARNED),
            RST_STREAM => self.left -= EARNED + RESET,
            // What is written for them earns nothing.
            SETTINGS if flags & ACK == 0 => self.left -= COST + FRAME_HEAD as i64,
            PING if flags & ACK == 0 => self.left -= COST + nbytes as i64,
            _ => self.left -= COST,
        }
    }

    /// Note that so many bytes were written.
    pub fn wrote(&mut self, nbytes: usize) {
        self.earn(i64::try_from(nbytes).unwrap_or(MOST));
    }

    /// Return whether the caller has sent more such frames than it has earned.
    pub fn is_spent(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left >= 0 {
            return false;
        }
        let now = now();
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.earn((passed * EARNED_PER_S) as i64);
        self.left < 0
    }

    fn earn(&mut self, bytes: i64) {
        self.left = self.left.saturating_add(bytes).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;

    /// How many of these frames may come at once, where each is answered with so many bytes.
    fn most(kind: u8, nbytes: usize, answer: usize) -> Option<usize> {
        let now = Instant::now();
        let mut credit = Credit::new(now);
        (0..100_000).find(|_| {
            credit.came(kind, 0, nbytes);
            credit.wrote(answer);
            credit.is_spent(|| now)
        })
    }

    #[test]
    fn frames_for_their_own_sake_are_bounded_whatever_they_are_answered_with() {
        assert_eq!(most(SETTINGS, 9, 9), Some(2048));
        assert_eq!(most(PING, 17, 17), Some(2048));
        assert_eq!(most(PRIORITY, 14, 0), Some(2048));
        assert_eq!(most(WINDOW_UPDATE, 13, 0), Some(2048));
        assert_eq!(most(0xfe, 9, 0), Some(2048));
        assert_eq!(most(DATA, 9, 0), Some(2048), "an empty one");
    }

    #[test]
    fn calls_without_a_message_that_are_reset_are_bounded_and_others_are_not() {
        let now = Instant::now();
        let resets = |message: bool| {
            let mut credit = Credit::new(now);
            (0..100_000).find(|_| {
                credit.came(HEADERS, 0, 50);
                if message {
                    credit.came(DATA, 0, 20);
                }
                credit.came(RST_STREAM, 0, 13);
                credit.is_spent(|| now)
            })
        };
        assert!(resets(false).is_some_and(|count| count < 600));
        assert_eq!(resets(true), None);
    }

    #[test]
    fn requests_are_not_bounded() {
        assert_eq!(most(HEADERS, 50, 0), None);
        assert_eq!(most(DATA, 10, 0), None);
    }

    #[test]
    fn a_caller_may_acknowledge_and_measure_each_small_answer() {
        let now = Instant::now();
        let mut credit = Credit::new(now);
        for _ in 0..100_000 {
            credit.wrote(FRAME_HEAD + 5 + 10); // a message of ten bytes
            credit.came(WINDOW_UPDATE, 0, 13);
            credit.came(WINDOW_UPDATE, 0, 13);
            credit.came(PING, 0, 17);
            credit.wrote(17);
            assert!(!credit.is_spent(|| now));
        }
    }

    #[test]
    fn an_idle_caller_may_ask_for_signs_of_life_for_ever() {
        let began = Instant::now();
        let mut credit = Credit::new(began);
        for number in 0..100_000 {
            credit.came(PING, 0, 17);
            credit.wrote(17);
            assert!(!credit.is_spent(|| began + number * Duration::from_millis(5)));
        }
    }
}
