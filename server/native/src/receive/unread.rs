//! What comes of a request that is answered already.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::timeout;

/// More is not waited for: the stream is reset.
const MOST_BYTES: usize = 64 << 10;
const LONGEST: Duration = Duration::from_secs(10);

/// Read what is left of a request, and forget it.
///
/// h2 resets a stream whose body nobody reads. Frames that come later for streams that it has
/// forgotten count against their connection, which ends after some 1,000 of them. So a caller whose
/// requests are refused would lose the connection, and all calls on it.
pub async fn unread<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut left = MOST_BYTES;
    let to_the_end = async {
        while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whether it came or not, nothing is left to be done.
    drop(timeout(LONGEST, to_the_end).await);
}
