//! An answer to come, as hyper has it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use http::Response;
use tokio::time::Sleep;

use super::answers::refused;
use crate::respond::Answer;
use crate::status::Status;

/// The answer to a request: it is there, or it is waited for.
///
/// It is small, as hyper and tokio move it about.
pub enum Serving {
    /// What the headers of the request say is enough to know it.
    Now(Option<Response<Answer>>),
    /// All else, and when its caller stops waiting.
    Later(
        Pin<Box<dyn Future<Output = Response<Answer>>>>,
        Option<Pin<Box<Sleep>>>,
    ),
}

impl Future for Serving {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(answer) => match answer.take() {
                Some(answer) => Poll::Ready(Ok(answer)),
                None => Poll::Pending, // it was given out
            },
            Self::Later(work, deadline) => {
                if let Poll::Ready(answer) = work.as_mut().poll(context) {
                    return Poll::Ready(Ok(answer));
                }
                match deadline {
                    Some(deadline) => {
                        ready!(deadline.as_mut().poll(context));
                        Poll::Ready(Ok(refused(&Status::expired())))
                    }
                    None => Poll::Pending,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_about_is_small() {
        assert!(size_of::<Serving>() <= 256);
    }
}
