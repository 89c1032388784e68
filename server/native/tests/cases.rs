//! `cases.json`: what this crate and the server's Python check or say, each by itself.
//!
//! tests/server/transport/test_cases.py reads the same file.

#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::HeaderMap;
use serde_json::{from_str, Value};

use ladle_native::connection::authority::Frames;
use ladle_native::limits::budget::Full;
use ladle_native::limits::{Refusal, EXPLAINED_BYTES};
use ladle_native::queue::name;
use ladle_native::receive::alike::{cut, ContentPath, Shape};
use ladle_native::status::{percent_encoded, retry_ms, Status};
use ladle_native::timeout;

fn cases(of: &str) -> Vec<Value> {
    let all: Value = from_str(include_str!("../cases.json")).unwrap();
    let some = all[of].as_array().unwrap().clone();
    assert!(!some.is_empty(), "{of}");
    some
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn timeouts_are_read() {
    let now = Instant::now();
    for case in cases("timeouts") {
        let read = timeout::parse(text(&case["header"]).as_bytes());
        if case["refused"].as_bool().unwrap_or_default() {
            assert_eq!(read, None, "{case}");
        } else {
            let expected = case["seconds"].as_f64().map(Duration::from_secs_f64);
            let deadline = timeout::deadline(read.unwrap(), now);
            assert_eq!(deadline.map(|at| at - now), expected, "{case}");
        }
    }
}

#[test]
fn refusals_say_the_same() {
    for case in cases("refusals") {
        let given: Vec<u64> = case["given"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        let refusal = match (text(&case["refusal"]), &given[..]) {
            ("too large", [nbytes, max]) => Refusal::too_large(*nbytes, *max),
            ("no room", [others, limit, nbytes]) => {
                Refusal::no_room(&Full { others: *others }, *limit, *nbytes)
            }
            ("too many", [max]) => Refusal::too_many(usize::try_from(*max).unwrap()),
            ("silent", [seconds]) => Refusal::silent(*seconds),
            _ => unreachable!("{case}"),
        };
        let reason = name(refusal.reason);
        assert_eq!(reason, text(&case["reason"]), "{case}");
        assert_eq!(refusal.status, status(&case), "{case}");
    }
}

#[test]
fn statuses_say_the_same() {
    for case in cases("statuses") {
        let said = match text(&case["status"]) {
            "deadline" => Status::expired(),
            "unknown method" => Status::unknown_method(),
            "no message" => Status::no_message(),
            _ => unreachable!("{case}"),
        };
        assert_eq!(said, status(&case), "{case}");
    }
}

fn status(case: &Value) -> Status {
    Status {
        code: u16::try_from(number(&case["code"])).unwrap(),
        message: text(&case["message"]).to_owned(),
        retry_ms: case["retry_ms"].as_u64(),
    }
}

#[test]
fn messages_are_percent_encoded() {
    for case in cases("messages") {
        assert_eq!(
            percent_encoded(text(&case["message"])),
            text(&case["encoded"])
        );
    }
}

#[test]
fn retries_are_in_milliseconds() {
    for case in cases("retries") {
        let said = retry_ms(case["seconds"].as_f64().unwrap());
        assert_eq!(said, number(&case["ms"]), "{case}");
    }
}

#[test]
fn sizes_are_explained_as_far() {
    for case in cases("explained") {
        assert_eq!(EXPLAINED_BYTES, number(&case["bytes"]));
    }
}

#[test]
fn authorities_are_taken() {
    for case in cases("authorities") {
        let authority = text(&case);
        let length = authority.len();
        // A literal without index, whose name is `:authority`.
        let mut block = vec![0x01];
        if length < 0x7f {
            block.push(u8::try_from(length).unwrap());
        } else {
            let rest = length - 0x7f;
            block.extend([0x7f, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8]);
        }
        let start = 9 + block.len();
        block.extend_from_slice(authority.as_bytes());
        let mut frame = vec![
            0,
            (block.len() >> 8) as u8,
            block.len() as u8,
            1,
            4,
            0,
            0,
            0,
            1,
        ];
        frame.extend(block);
        Frames::new(1 << 14).mend(&mut frame, 0);
        let taken = Authority::try_from(&frame[start..]);
        assert_eq!(taken.unwrap().as_str().len(), length, "{authority}");
    }
}

#[test]
fn requests_are_cut_where_protobuf_has_their_contents() {
    let tensor_content = ContentPath {
        fields: vec![2, 2, 4],
        key: Some(1),
    };
    let shape = Shape {
        contents: vec![tensor_content],
        most_bytes: 1 << 16,
        ..Shape::default()
    };
    for case in cases("requests") {
        let message = bytes(text(&case["request"]));
        let found = cut(&shape, 0, &HeaderMap::new(), &message).map(|cut| {
            let contents = cut.contents.into_iter();
            contents
                .map(|content| {
                    (
                        message[content.key.unwrap()].to_vec(),
                        message[content.bytes].to_vec(),
                    )
                })
                .collect::<BTreeMap<_, _>>()
        });
        let expected = case["cut"].as_bool().unwrap().then(|| {
            let contents = case["contents"].as_object().unwrap().iter();
            contents
                .map(|(key, content)| (key.as_bytes().to_vec(), bytes(text(content))))
                .collect()
        });
        assert_eq!(found, expected, "{}", case["about"]);
    }
}

#[test]
fn infer_requests_are_cut_where_protobuf_has_their_contents_and_ids() {
    let path = |fields: &[u32], key| ContentPath {
        fields: fields.to_vec(),
        key,
    };
    let shape = Shape {
        contents: vec![
            path(&[7], None),
            path(&[5, 5, 6], Some(1)),
            path(&[5, 5, 7], Some(1)),
        ],
        echo: Some(3),
        most_bytes: 1 << 16,
        ..Shape::default()
    };
    for case in cases("infer_requests") {
        let message = bytes(text(&case["request"]));
        let found = cut(&shape, 0, &HeaderMap::new(), &message).map(|cut| {
            let part = |range: &Range<usize>| message[cut.echo.moved(range)].to_vec();
            let (raw, typed): (Vec<_>, Vec<_>) =
                cut.contents.iter().partition(|content| content.path == 0);
            let raw: Vec<_> = raw.iter().map(|content| part(&content.bytes)).collect();
            let typed: Vec<_> = typed
                .iter()
                .map(|content| {
                    let name = content.key.as_ref().map(part);
                    (name.unwrap_or_default(), part(&content.bytes))
                })
                .collect();
            (cut.echo.field.to_vec(), raw, typed)
        });
        let expected = case["cut"].as_bool().unwrap().then(|| {
            let list = |of: &Value| of.as_array().unwrap().clone();
            let raw: Vec<_> = list(&case["raw"])
                .iter()
                .map(|content| bytes(text(content)))
                .collect();
            let typed: Vec<_> = list(&case["typed"])
                .iter()
                .map(|pair| (text(&pair[0]).as_bytes().to_vec(), bytes(text(&pair[1]))))
                .collect();
            (echo(text(&case["id"])), raw, typed)
        });
        assert_eq!(found, expected, "{}", case["about"]);
    }
}

/// The field that an answer has of an id.
fn echo(id: &str) -> Vec<u8> {
    if id.is_empty() {
        return Vec::new();
    }
    let length = u8::try_from(id.len()).unwrap();
    [&[3 << 3 | 2, length], id.as_bytes()].concat()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}
