//! gRPC's messages in the body of a request.

pub mod alike;
mod fields;
pub mod inflate;
pub mod unread;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::time::Instant;

use crate::limits::budget::Claim;
use crate::limits::uploads::Uploading;
use crate::limits::{allowed_time, Limits, Refusal};
use crate::status::{code, Status};
use inflate::{inflate, Encoding};

/// The flag and the length before each message.
pub const PREFIX_BYTES: usize = 5;
/// A compressed message that is larger is inflated by another thread.
const MAX_INLINE_INFLATE: usize = 16 << 10;

/// A message, and its place in the budget.
#[derive(Debug)]
pub struct Received {
    /// The message, decompressed.
    pub message: Bytes,
    /// None where the limits count nothing.
    pub claim: Option<Claim>,
}

/// Why there is no message.
#[derive(Debug)]
pub enum Lost {
    /// The server will not have it.
    Refused(Refusal),
    /// The call was ended meanwhile, by somebody who counts it.
    Ended(Status),
    /// The connection is gone, or the caller has given the call up.
    Gone,
}

impl From<Refusal> for Lost {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads messages one at a time; nothing is read ahead of what was asked for, but a chunk.
///
/// Each call has one, and most messages are at hand at once: what waits is in boxes of its own.
pub struct Messages<B> {
    body: B,
    rest: Bytes,
    encoding: Option<Encoding>,
    limits: Limits,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    /// `encoding`: what `grpc-encoding` names; None if the server does not know it.
    pub fn new(body: B, encoding: Option<Encoding>, limits: Limits) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            encoding,
            limits,
        }
    }

    /// Give the body back; what was read of it is lost.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Ready once the next message begins, or the caller has finished.
    pub fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while self.rest.is_empty() {
            match ready!(self.poll_chunk(context))? {
                Some(chunk) => self.rest = chunk,
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Return the next message; None at the end of what the caller sends.
    ///
    /// Dropped and called again, it loses nothing as long as no byte of the message had come.
    pub async fn next(&mut self) -> Result<Option<Received>, Lost> {
        poll_fn(|context| self.poll_begin(context)).await?;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let head = match self.rest.split_first_chunk() {
            Some((head, _)) => {
                let head = *head;
                self.rest.advance(PREFIX_BYTES);
                head
            }
            None => Box::pin(self.head()).await?,
        };
        let (packed, nbytes) = prefix(head)?;
        let mut claim = self.limits.claim(nbytes, self.rest.len(), now)?;
        let message = if self.rest.len() as u64 >= nbytes {
            self.rest.split_to(nbytes as usize)
        } else {
            Box::pin(self.body_of(nbytes, &mut claim, now())).await?
        };
        if !packed {
            return Ok(Some(Received { message, claim }));
        }
        Box::pin(self.unpacked(message, claim)).await.map(Some)
    }

    async fn unpacked(&self, message: Bytes, mut claim: Option<Claim>) -> Result<Received, Lost> {
        let encoding = self.encoding.ok_or_else(|| {
            let known = Encoding::ACCEPTED;
            Refusal::malformed(
                code::UNIMPLEMENTED,
                format!("grpc-encoding: expected one of {known}, got another"),
            )
        })?;
        let limits = self.limits.clone();
        let nbytes = message.len();
        let work = move || {
            let inflated = inflate(encoding, &message, &limits, &mut claim);
            inflated.map(|message| Received { message, claim })
        };
        if nbytes <= MAX_INLINE_INFLATE {
            return Ok(work()?);
        }
        // It fails where the runtime ends, or the work panicked.
        let inflated = tokio::task::spawn_blocking(work).await;
        Ok(inflated.map_err(|_| Lost::Gone)??)
    }

    /// Read what is before a message, and comes in pieces.
    async fn head(&mut self) -> Result<[u8; PREFIX_BYTES], Lost> {
        let mut head = [0u8; PREFIX_BYTES];
        for byte in &mut head {
            while self.rest.is_empty() {
                let allowed = allowed_time(0);
                let chunk = tokio::time::timeout(allowed, self.chunk()).await;
                self.rest = chunk
                    .map_err(|_| Refusal::too_slow(allowed))??
                    .ok_or_else(cut_off)?;
            }
            *byte = self.rest.get_u8();
        }
        Ok(head)
    }

    /// Read a message that is not at hand, as long as it comes fast enough.
    async fn body_of(
        &mut self,
        nbytes: u64,
        claim: &mut Option<Claim>,
        now: std::time::Instant,
    ) -> Result<Bytes, Lost> {
        let allowed = allowed_time(nbytes);
        let budget = self.limits.budget.clone();
        let upload = budget.as_ref().map(|budget| budget.uploads.begin(now));
        let in_the_way = async {
            match &upload {
                Some(upload) => upload.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            message = tokio::time::timeout(allowed, self.gather(nbytes, claim, upload.as_ref())) => {
                message.unwrap_or_else(|_| Err(Refusal::too_slow(allowed).into()))
            }
            () = in_the_way => Err(Refusal::in_the_way().into()),
        }
    }

    async fn gather(
        &mut self,
        size: u64,
        claim: &mut Option<Claim>,
        upload: Option<&Uploading<'_>>,
    ) -> Result<Bytes, Lost> {
        let nbytes = usize::try_from(size).unwrap_or(usize::MAX);
        // One buffer of the right size: chunks would stay in the thread's arena.
        let mut whole: Vec<u8> = Vec::new();
        whole.try_reserve_exact(nbytes).map_err(|_| {
            let message = format!("there is no memory for a message of {nbytes} bytes");
            Refusal::malformed(code::RESOURCE_EXHAUSTED, message)
        })?;
        loop {
            let wanted = nbytes - whole.len();
            let piece = self.rest.split_to(wanted.min(self.rest.len()));
            whole.extend_from_slice(&piece);
            if let Some(upload) = upload {
                upload.received(piece.len());
            }
            self.limits.come(claim, whole.len(), size, now)?;
            if whole.len() == nbytes {
                return Ok(Bytes::from(whole));
            }
            drop(piece);
            self.rest = self.chunk().await?.ok_or_else(cut_off)?;
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Lost> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(_)) => return Poll::Ready(Err(Lost::Gone)),
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Poll::Ready(Ok(Some(chunk)));
                    }
                }
            }
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Whether a message is compressed, and how many bytes it has, by what is before it.
fn prefix([flag, a, b, c, d]: [u8; PREFIX_BYTES]) -> Result<(bool, u64), Refusal> {
    if flag > 1 {
        let message = format!("expected 0 or 1 before a message's length, got {flag}");
        return Err(Refusal::malformed(code::INTERNAL, message));
    }
    Ok((flag == 1, u64::from(u32::from_be_bytes([a, b, c, d]))))
}

fn cut_off() -> Lost {
    Refusal::malformed(code::INTERNAL, "the call ended within a message").into()
}

/// The prefix of a message that is sent as it is; None if it is longer than gRPC can say.
pub fn prefix_of(message: &[u8]) -> Option<[u8; PREFIX_BYTES]> {
    let [a, b, c, d] = u32::try_from(message.len()).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

/// A message with its prefix, in one piece.
pub fn framed(message: &[u8]) -> Option<Bytes> {
    let prefix = prefix_of(message)?;
    let mut whole = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    whole.extend_from_slice(&prefix);
    whole.extend_from_slice(message);
    Some(whole.freeze())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::limits::budget::Budget;
    use crate::limits::Reason;

    fn in_runtime<T>(work: impl std::future::Future<Output = T>) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.ok().map(|runtime| runtime.block_on(work))
    }

    fn messages(
        chunks: Vec<Bytes>,
        limits: Limits,
    ) -> Messages<impl Body<Data = Bytes, Error = Infallible>> {
        let frames: Vec<_> = chunks.into_iter().map(|c| Ok(Frame::data(c))).collect();
        let body = StreamBody::new(Frames(frames.into_iter()));
        Messages::new(body, Some(Encoding::Identity), limits)
    }

    struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>);

    impl futures_core::Stream for Frames {
        type Item = Result<Frame<Bytes>, Infallible>;

        fn poll_next(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }

    fn limits(max: u64) -> Limits {
        Limits {
            max_request_bytes: max,
            budget: Some(Arc::new(Budget::new(1 << 20))),
        }
    }

    fn read_all(chunks: Vec<Bytes>, max: u64) -> Result<Vec<Bytes>, Option<Reason>> {
        let mut messages = messages(chunks, limits(max));
        let read = in_runtime(async move {
            let mut all = Vec::new();
            loop {
                match messages.next().await {
                    Ok(Some(received)) => all.push(received.message),
                    Ok(None) => return Ok(all),
                    Err(Lost::Refused(refusal)) => return Err(Some(refusal.reason)),
                    Err(Lost::Ended(_) | Lost::Gone) => return Err(None),
                }
            }
        });
        read.unwrap_or(Err(None))
    }

    #[test]
    fn messages_are_read_wherever_their_bytes_are_cut() {
        let sent: Vec<Bytes> = [&b""[..], b"a", b"twelve bytes"]
            .iter()
            .map(|m| Bytes::from_static(m))
            .collect();
        let stream: Vec<u8> = sent
            .iter()
            .filter_map(|m| framed(m))
            .flat_map(|m| m.to_vec())
            .collect();
        for size in 1..=stream.len() {
            let chunks = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(
                read_all(chunks, 12),
                Ok(sent.clone()),
                "in chunks of {size}"
            );
        }
    }

    #[test]
    fn a_cut_off_message_is_refused() {
        let whole = framed(b"message").unwrap_or_default();
        for end in 1..whole.len() {
            assert_eq!(
                read_all(vec![whole.slice(..end)], 100),
                Err(Some(Reason::Malformed))
            );
        }
    }

    #[test]
    fn a_length_that_is_too_large_is_refused_before_its_bytes_come() {
        assert_eq!(
            read_all(vec![Bytes::from_static(&[0, 255, 255, 255, 255])], 100),
            Err(Some(Reason::TooLarge))
        );
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        assert_eq!(
            read_all(vec![Bytes::from_static(&[2, 0, 0, 0, 0])], 100),
            Err(Some(Reason::Malformed))
        );
    }

    #[test]
    fn a_message_that_stops_to_arrive_is_refused_and_counted_out() {
        let budget = Arc::new(Budget::new(100));
        let limits = Limits {
            max_request_bytes: 100,
            budget: Some(Arc::clone(&budget)),
        };
        let body = Stalling(Some(Bytes::from_static(&[0, 0, 0, 0, 9, 1])));
        let mut messages = Messages::new(body, None, limits);
        let lost = in_runtime(async move { messages.next().await });
        assert!(matches!(
            lost,
            Some(Err(Lost::Refused(Refusal {
                reason: Reason::TooSlow,
                ..
            })))
        ));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_upload_that_stalls_gives_its_room_up_where_others_find_none() {
        let limits = limits_of(100);
        let body = Stalling(Some(Bytes::from_static(&[0, 0, 0, 0, 90, 1])));
        let mut messages = Messages::new(body, None, limits.clone());
        let lost = in_runtime(async move {
            let others = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(limits.claim(50, 50, now).is_err());
                tokio::task::yield_now().await;
                assert!(limits.claim(50, 50, now).is_err(), "it may be on its way");
                tokio::time::sleep(Duration::from_secs(2)).await;
                assert!(limits.claim(50, 50, now).is_err());
                tokio::task::yield_now().await;
                assert!(limits.claim(50, 50, now).is_ok());
            };
            let uploading = async {
                let lost = messages.next().await;
                (lost, Instant::now())
            };
            let began = Instant::now();
            let ((lost, ended), ()) = tokio::join!(uploading, others);
            assert_eq!(ended - began, Duration::from_secs(3));
            lost
        });
        let refusal = match lost {
            Some(Err(Lost::Refused(refusal))) => Some(refusal),
            _ => None,
        };
        assert_eq!(refusal, Some(Refusal::in_the_way()));
    }

    fn limits_of(budget: u64) -> Limits {
        Limits {
            max_request_bytes: budget,
            budget: Some(Arc::new(Budget::new(budget))),
        }
    }

    struct Stalling(Option<Bytes>);

    impl Body for Stalling {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.take() {
                Some(chunk) => std::task::Poll::Ready(Some(Ok(Frame::data(chunk)))),
                None => std::task::Poll::Pending,
            }
        }
    }
}
