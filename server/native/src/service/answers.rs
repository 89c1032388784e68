//! What a request gets of which only the headers were read, and the headers of every answer.

use http::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};

use crate::receive::inflate::Encoding;
use crate::respond::Answer;
use crate::status::Status;

const GRPC: &[u8] = b"application/grpc";
const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The answer to a call to a method that there is not.
pub fn unknown() -> Response<Answer> {
    refused(&Status::unknown_method())
}

/// The headers of every answer.
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(ACCEPT, HeaderValue::from_static(Encoding::ACCEPTED));
    response
}

/// An answer that is a status alone.
pub fn refused(status: &Status) -> Response<Answer> {
    let mut response = head();
    status.write_to(response.headers_mut());
    response.map(|()| Answer::empty())
}

/// The answer to what is no request of gRPC's; None: it is one.
pub fn no_grpc<B>(request: &Request<B>) -> Option<Response<Answer>> {
    let status = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc(request.headers().get(CONTENT_TYPE)) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = status;
    Some(response)
}

fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(GRPC));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_is_taken() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(
                is_grpc(Some(&HeaderValue::from_static(value))),
                expected,
                "{value}"
            );
        }
        assert!(!is_grpc(None));
    }
}
