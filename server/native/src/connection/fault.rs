//! A panic ends the task that it is in, and somebody hears of it.

use std::any::Any;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Run a task to its end; a panic ends it sooner, and `tell` is called with what the panic says.
///
/// What the task owns is dropped after either end: its call, or its connection.
pub fn contained<F>(task: F, tell: fn(String)) -> Contained<F>
where
    F: Future<Output = ()> + Unpin,
{
    Contained { task, tell }
}

/// See `contained`.
pub struct Contained<F> {
    task: F,
    tell: fn(String),
}

impl<F: Future<Output = ()> + Unpin> Future for Contained<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let task = Pin::new(&mut this.task);
        catch_unwind(AssertUnwindSafe(|| task.poll(context))).unwrap_or_else(|panic| {
            (this.tell)(text(panic.as_ref()));
            Poll::Ready(())
        })
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    fn tell(text: String) {
        TOLD.with(|told| told.borrow_mut().push(text));
    }

    #[test]
    fn what_a_panic_says_is_told_and_others_go_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let number = 7;
            contained(Box::pin(async {}), tell).await;
            contained(Box::pin(async { panic!("a text") }), tell).await;
            contained(Box::pin(async move { panic!("with {number}") }), tell).await;
            contained(Box::pin(async { std::panic::panic_any(7) }), tell).await;
        });
        let told = TOLD.with(|told| told.take());
        assert_eq!(told, ["a text", "with 7", "a panic without a text"]);
    }

    #[test]
    fn what_the_task_owned_is_dropped() {
        struct Owned;
        impl Drop for Owned {
            fn drop(&mut self) {
                tell("dropped".to_owned());
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let owned = Owned;
            let task = async move {
                let _owned = owned;
                tokio::task::yield_now().await;
                panic!("a text");
            };
            contained(Box::pin(task), tell).await;
        });
        let told = TOLD.with(|told| told.take());
        assert_eq!(told.len(), 2);
    }
}
