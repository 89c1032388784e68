//! Connections whose callers have not yet agreed on TLS, or not yet said that they speak HTTP/2.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, Instant};

/// What a caller may take.
const SLOWEST: Duration = Duration::from_secs(20);
/// What a caller may take while there are more such connections than `FEW`.
const SLOWEST_IN_A_CROWD: Duration = Duration::from_secs(1);
/// So many keep descriptors from nobody.
const FEW: usize = 256;

/// Counts such connections, in all threads together.
#[derive(Clone, Default)]
pub struct Greetings(Arc<AtomicUsize>);

impl Greetings {
    /// Count a connection in.
    pub fn begin(&self) -> Greeting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Greeting {
            of: self.clone(),
            began: Instant::now(),
        }
    }
}

/// One of them; it counts for as long as it lives.
pub struct Greeting {
    of: Greetings,
    began: Instant,
}

impl Greeting {
    /// Wait until the caller has taken too long.
    pub async fn too_long(&self) {
        loop {
            sleep(SLOWEST_IN_A_CROWD).await;
            let is_crowded = self.of.0.load(Ordering::Relaxed) > FEW;
            if is_crowded || self.began.elapsed() >= SLOWEST {
                return;
            }
        }
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.of.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn in_runtime<T>(work: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(work)
    }

    #[test]
    fn a_lone_caller_has_its_time() {
        in_runtime(async {
            let greeting = Greetings::default().begin();
            let began = Instant::now();
            greeting.too_long().await;
            assert_eq!(began.elapsed(), SLOWEST);
        });
    }

    #[test]
    fn in_a_crowd_callers_have_a_second_until_there_are_few() {
        in_runtime(async {
            let greetings = Greetings::default();
            let patient = greetings.begin();
            let mut others: Vec<_> = (0..FEW).map(|_| greetings.begin()).collect();
            let began = Instant::now();
            patient.too_long().await;
            assert_eq!(began.elapsed(), SLOWEST_IN_A_CROWD);

            others.pop();
            let began = Instant::now();
            others.first().unwrap().too_long().await;
            assert_eq!(began.elapsed(), SLOWEST - SLOWEST_IN_A_CROWD);
        });
    }
}
