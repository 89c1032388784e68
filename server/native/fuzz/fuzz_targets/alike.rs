//! Requests with equal templates differ in nothing but contents, which are anywhere, and an echo.
#![no_main]

use http::HeaderMap;
use ladle_native::receive::alike::{cut, ContentPath, Shape};
use libfuzzer_sys::fuzz_target;

fn path(fields: &[u32], key: Option<u32>) -> ContentPath {
    ContentPath {
        fields: fields.to_vec(),
        key,
    }
}

/// The two forms that messages of today's methods have, in one.
fn shape() -> Shape {
    Shape {
        contents: vec![
            path(&[2, 2, 4], Some(1)),
            path(&[2, 2, 5], Some(1)),
            path(&[2, 2, 6], Some(1)),
            path(&[7], None),
            path(&[5, 5, 6], Some(1)),
            path(&[5, 5, 7], Some(1)),
        ],
        echo: Some(3),
        metadata: Vec::new(),
        most_bytes: 1 << 12,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((mask, message)) = input.split_first() else {
        return;
    };
    let (shape, headers) = (shape(), HeaderMap::new());
    let Some(one) = cut(&shape, 0, &headers, message) else {
        return;
    };
    let echo = one.echo.at..one.echo.at + one.echo.field.len();
    assert_eq!(message[echo.clone()], *one.echo.field);
    let mut at = 0;
    let mut changed = message.to_vec();
    let contents: Vec<_> = one
        .contents
        .iter()
        .map(|content| one.echo.moved(&content.bytes))
        .collect();
    for bytes in &contents {
        assert!(bytes.start >= at, "contents are in their order");
        assert!(!bytes.is_empty());
        assert!(
            bytes.end <= echo.start || bytes.start >= echo.end,
            "and have no part of the echo"
        );
        at = bytes.end;
        for byte in &mut changed[bytes.clone()] {
            *byte ^= *mask;
        }
    }
    assert!(at <= message.len());
    // Whatever the contents are, it is the same request around them.
    assert_eq!(cut(&shape, 0, &headers, &changed).as_ref(), Some(&one));
    // It is so without the echo, too, and with a longer one at the end.
    for more in [&[][..], b"\x1a\x05hello"] {
        let rest = [&message[..echo.start], &message[echo.end..], more].concat();
        let other = cut(&shape, 0, &headers, &rest);
        let Some(other) = other else {
            assert!(rest.len() > shape.most_bytes);
            continue;
        };
        assert_eq!(other.template, one.template);
        assert_eq!(other.contents, one.contents);
        assert_eq!(*other.echo.field, *more);
    }
    // Whatever else is changed tells them apart.
    for place in 0..message.len() {
        if echo.contains(&place) || contents.iter().any(|bytes| bytes.contains(&place)) {
            continue;
        }
        let mut other = message.to_vec();
        other[place] ^= *mask | 1;
        if let Some(other) = cut(&shape, 0, &headers, &other) {
            assert_ne!(other.template, one.template);
        }
    }
});
