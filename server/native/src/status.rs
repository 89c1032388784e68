//! How a call ends: gRPC's status, and the headers that carry it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
// https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// gRPC's codes as they are written.
const NUMBERS: [&str; 17] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
];

/// gRPC's canonical codes, as far as the transport gives them itself.
#[allow(missing_docs)]
pub mod code {
    pub const OK: u16 = 0;
    pub const CANCELLED: u16 = 1;
    pub const DEADLINE_EXCEEDED: u16 = 4;
    pub const RESOURCE_EXHAUSTED: u16 = 8;
    pub const UNIMPLEMENTED: u16 = 12;
    pub const INTERNAL: u16 = 13;
    pub const UNAVAILABLE: u16 = 14;
}

/// A status as the caller reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// gRPC's number; 0 is OK.
    pub code: u16,
    /// What went wrong, in any language.
    pub message: String,
    /// For how many milliseconds the caller should leave the server alone.
    pub retry_ms: Option<u64>,
}

impl Status {
    /// The call went well.
    pub fn ok() -> Self {
        Self::new(code::OK, "")
    }

    /// A status that tells nothing of another try.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_ms: None,
        }
    }

    /// The caller has stopped waiting.
    pub fn expired() -> Self {
        Self::new(code::DEADLINE_EXCEEDED, "Deadline Exceeded")
    }

    /// There is no method of the path.
    pub fn unknown_method() -> Self {
        Self::new(code::UNIMPLEMENTED, "Method not found!")
    }

    /// A unary call ended without its message.
    pub fn no_message() -> Self {
        let message = "expected exactly one request message, got none";
        Self::new(code::UNIMPLEMENTED, message)
    }

    /// Add the status to the headers or trailers of a response.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        // A number that stands here takes no memory.
        let code = NUMBERS.get(usize::from(self.code)).copied();
        let code = code.map_or_else(|| HeaderValue::from(self.code), HeaderValue::from_static);
        headers.insert(STATUS, code);
        if !self.message.is_empty() {
            if let Ok(value) = HeaderValue::from_str(&percent_encoded(&self.message)) {
                headers.insert(MESSAGE, value);
            }
        }
        if let Some(retry_ms) = self.retry_ms {
            headers.insert(PUSHBACK, HeaderValue::from(retry_ms));
        }
    }
}

/// For how many milliseconds a caller should leave the server alone that should do so for seconds.
///
/// A float is cut to the bounds of an integer, and NaN is 0.
pub fn retry_ms(retry_after_s: f64) -> u64 {
    (retry_after_s * 1000.0).round_ties_even().max(1.0) as u64
}

/// Encode a message as gRPC wants it: printable ASCII but `%` stays, each other byte is `%XX`.
pub fn percent_encoded(message: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'%';
    if message.bytes().all(is_plain) {
        return Cow::Borrowed(message);
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.push(char::from(
                    HEX.get(usize::from(digit)).copied().unwrap_or(b'0'),
                ));
            }
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_written_as_its_number() {
        for code in (0..20).chain([u16::MAX]) {
            let mut headers = HeaderMap::new();
            Status::new(code, "").write_to(&mut headers);
            let written = headers.get("grpc-status").map(HeaderValue::as_bytes);
            assert_eq!(written, Some(code.to_string().as_bytes()));
        }
    }

    #[test]
    fn a_status_is_written_with_what_it_has() {
        let mut headers = HeaderMap::new();
        Status::ok().write_to(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(
            headers.get("grpc-status").map(HeaderValue::as_bytes),
            Some(&b"0"[..])
        );

        let mut headers = HeaderMap::new();
        Status {
            code: 14,
            message: "é".into(),
            retry_ms: Some(250),
        }
        .write_to(&mut headers);
        let get = |name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());
        assert_eq!(get("grpc-status"), Some(b"14".to_vec()));
        assert_eq!(get("grpc-message"), Some(b"%C3%A9".to_vec()));
        assert_eq!(get("grpc-retry-pushback-ms"), Some(b"250".to_vec()));
    }
}
