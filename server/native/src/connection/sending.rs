//! How long a caller may take to read an answer.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::time::{sleep_until, Instant};

use crate::limits::allowed_time;

tokio::task_local! {
    /// Until when the answer of this task's stream has to be sent.
    static UNTIL: Rc<Cell<Option<Instant>>>;
}

/// Note that an answer of so many bytes is being sent by the task that calls this.
///
/// Its caller may take as long as for a request of that size; then its stream is reset.
pub fn begin(nbytes: usize) {
    let until = Instant::now() + allowed_time(nbytes as u64);
    // Nothing is bounded outside of a connection.
    let _ = UNTIL.try_with(|slot| slot.set(Some(until)));
}

/// Run the task of a stream, but drop it where its answer is not read in time.
///
/// h2 asks an answer for no more while its caller reads nothing, so it can't see the time itself.
pub async fn bounded<F: Future>(task: F) {
    let until = Rc::new(Cell::new(None));
    let work = async {
        let mut task = pin!(task);
        let mut timer = pin!(None);
        poll_fn(|context| {
            if task.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            // Most answers are sent at once, and need no timer.
            if let (None, Some(until)) = (timer.as_ref().get_ref(), until.get()) {
                timer.set(Some(sleep_until(until)));
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(context),
                None => Poll::Pending,
            }
        })
        .await;
    };
    UNTIL.scope(Rc::clone(&until), work).await;
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn took(task: impl Future) -> Option<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.ok().map(|runtime| {
            runtime.block_on(async {
                let began = Instant::now();
                bounded(task).await;
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
