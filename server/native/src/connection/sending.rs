//! How long a caller may take to read an answer.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use tokio::time::{sleep, Sleep};

use crate::limits::allowed_time;

thread_local! {
    /// How large the answer is that the task that runs has begun to send, in bytes.
    static BEGUN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Note that an answer of so many bytes is being sent by the task that calls this.
///
/// Its caller may take as long as for a request of that size; then its stream is reset.
pub fn begin(nbytes: usize) {
    BEGUN.set(Some(nbytes));
}

/// Run the task of a stream, but drop it where its answer is not read in time.
///
/// h2 asks an answer for no more while its caller reads nothing, so it can't see the time itself.
pub fn bounded<F: Future + Unpin>(task: F) -> Bounded<F> {
    Bounded { task, timer: None }
}

/// See `bounded`.
pub struct Bounded<F> {
    task: F,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future + Unpin> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        BEGUN.set(None);
        if Pin::new(&mut this.task).poll(context).is_ready() {
            return Poll::Ready(());
        }
        // Most answers are sent at once, and need no timer.
        if let Some(nbytes) = BEGUN.take() {
            this.timer = Some(Box::pin(sleep(allowed_time(nbytes as u64))));
        }
        match &mut this.timer {
            Some(timer) => {
                ready!(timer.as_mut().poll(context));
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    fn took(task: impl Future) -> Option<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.ok().map(|runtime| {
            runtime.block_on(async {
                let began = Instant::now();
                bounded(Box::pin(task)).await;
                began.elapsed()
            })
        })
    }

    #[test]
    fn an_answer_that_nobody_reads_ends_after_the_time_for_its_size() {
        let stuck = |nbytes| async move {
            begin(nbytes);
            std::future::pending::<()>().await;
        };
        assert_eq!(took(stuck(0)), Some(Duration::from_secs(60)));
        assert_eq!(took(stuck(64 << 20)), Some(Duration::from_secs(60 + 1024)));
    }

    #[test]
    fn what_has_no_answer_yet_may_take_its_time() {
        let hour = Duration::from_secs(3600);
        assert_eq!(took(async { tokio::time::sleep(hour).await }), Some(hour));
    }
}
