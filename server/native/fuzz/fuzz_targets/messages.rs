//! Messages are read alike however their bytes are cut, and all that is counted is counted out.
#![no_main]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use ladle_native::limits::budget::Budget;
use ladle_native::limits::Limits;
use ladle_native::receive::inflate::Encoding;
use ladle_native::receive::{Lost, Messages};
use libfuzzer_sys::fuzz_target;

const MAX_REQUEST: u64 = 4096;

struct Pieces(std::vec::IntoIter<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }
}

/// The messages, and how the reading ended.
fn read(body: &[u8], size: usize, encoding: Option<Encoding>) -> (Vec<Bytes>, String) {
    let budget = Arc::new(Budget::new(2 * MAX_REQUEST));
    let limits = Limits {
        max_request_bytes: MAX_REQUEST,
        budget: Some(Arc::clone(&budget)),
    };
    let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let body = StreamBody::new(Pieces(pieces.into_iter()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut messages = Messages::new(body, encoding, limits);
    let read = runtime.block_on(async {
        let mut all = Vec::new();
        loop {
            match messages.next().await {
                Ok(Some(received)) => {
                    assert!(received.message.len() as u64 <= MAX_REQUEST);
                    all.push(received.message);
                }
                Ok(None) => return (all, "the end".to_owned()),
                Err(Lost::Refused(refusal)) => return (all, format!("{:?}", refusal.status)),
                Err(Lost::Ended(_) | Lost::Gone) => return (all, "lost".to_owned()),
            }
        }
    });
    assert_eq!(budget.used(), 0);
    read
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (size, encoding, body) = input;
    let encoding = match encoding % 4 {
        0 => Some(Encoding::Identity),
        1 => Some(Encoding::Gzip),
        2 => Some(Encoding::Deflate),
        _ => None,
    };
    let whole = read(body, body.len().max(1), encoding);
    assert_eq!(read(body, usize::from(size).max(1), encoding), whole);
});
