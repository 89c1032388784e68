//! Compressed messages, which may inflate to a thousand times what was sent.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

use crate::limits::budget::Claim;
use crate::limits::{Limits, Refusal, EXPLAINED_BYTES};
use crate::status::code;

const STEP: usize = 64 << 10;

/// What `grpc-encoding` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which HTTP calls deflate.
    Deflate,
}

impl Encoding {
    /// What is offered to callers, as `grpc-accept-encoding`.
    pub const ACCEPTED: &'static str = "identity, deflate, gzip";

    /// Read a name.
    pub fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// Inflate a message; `claim` counts `message`, and afterwards what it inflates to.
///
/// No more memory is taken than `limits` allow. What is larger is still counted for a while, so
/// that the refusal can tell its size.
pub fn inflate(
    encoding: Encoding,
    message: &Bytes,
    limits: &Limits,
    claim: &mut Option<Claim>,
) -> Result<Bytes, Refusal> {
    let packed: &[u8] = message;
    match encoding {
        Encoding::Identity => Ok(message.clone()),
        Encoding::Gzip => inflated(GzDecoder::new(packed), message.len(), limits, claim),
        Encoding::Deflate => inflated(ZlibDecoder::new(packed), message.len(), limits, claim),
    }
}

fn inflated(
    mut from: impl Read,
    packed_bytes: usize,
    limits: &Limits,
    claim: &mut Option<Claim>,
) -> Result<Bytes, Refusal> {
    let mut whole: Vec<u8> = Vec::new();
    let mut total: u64 = 0;
    let mut piece = vec![0u8; STEP];
    loop {
        let read = from.read(&mut piece).map_err(|error| {
            Refusal::malformed(
                code::INTERNAL,
                format!("the message can't be decompressed: {error}"),
            )
        })?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if total > limits.max_request_bytes {
            whole = Vec::new();
            if total > limits.max_request_bytes + EXPLAINED_BYTES {
                break;
            }
            continue;
        }
        if let (Some(claim), Some(budget)) = (claim.as_mut(), &limits.budget) {
            claim
                .grow(read as u64)
                .map_err(|full| Refusal::no_room(&full, budget.limit(), total))?;
        }
        whole.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    limits.check(total)?;
    if let Some(claim) = claim {
        claim.shrink(packed_bytes as u64);
    }
    Ok(Bytes::from(whole))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::limits::budget::Budget;
    use crate::limits::Reason;

    fn gzipped(message: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let written = encoder.write_all(message).and_then(|()| encoder.finish());
        Bytes::from(written.unwrap_or_default())
    }

    fn try_inflate(message: &Bytes, max: u64, room: u64) -> (Result<Bytes, Refusal>, u64) {
        let budget = Arc::new(Budget::new(room));
        let limits = Limits {
            max_request_bytes: max,
            budget: Some(Arc::clone(&budget)),
        };
        let mut claim = limits
            .claim(message.len() as u64, message.len(), std::time::Instant::now)
            .ok()
            .flatten();
        let result = inflate(Encoding::Gzip, message, &limits, &mut claim);
        let used = budget.used();
        drop(claim);
        assert_eq!(budget.used(), 0);
        (result, used)
    }

    #[test]
    fn what_was_packed_comes_out_and_is_counted() {
        let message = vec![7u8; 1 << 20];
        let (result, used) = try_inflate(&gzipped(&message), 1 << 20, 4 << 20);
        assert_eq!(result, Ok(Bytes::from(message)));
        assert_eq!(used, 1 << 20);
    }

    #[test]
    fn a_refusal_names_the_size_after_inflation() {
        let (result, _) = try_inflate(&gzipped(&vec![0; (1 << 20) + 1]), 1 << 20, 4 << 20);
        assert_eq!(result, Err(Refusal::too_large((1 << 20) + 1, 1 << 20)));
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let (result, used) = try_inflate(&gzipped(&vec![0; 80 << 20]), 1 << 20, 4 << 20);
        assert_eq!(
            result.err().map(|refusal| refusal.reason),
            Some(Reason::TooLarge)
        );
        assert!(used <= (2 << 20));
    }

    #[test]
    fn garbage_and_cut_off_messages_are_refused() {
        let whole = gzipped(&[1; 1000]);
        for message in [
            Bytes::from_static(b"no gzip"),
            whole.slice(..whole.len() - 9),
        ] {
            let (result, _) = try_inflate(&message, 1 << 20, 4 << 20);
            assert_eq!(
                result.err().map(|refusal| refusal.reason),
                Some(Reason::Malformed)
            );
        }
    }
}
