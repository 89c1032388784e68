//! Requests with equal templates differ in nothing but the bytes of contents, which are anywhere.
#![no_main]

use http::HeaderMap;
use ladle_native::receive::alike::{cut, Shape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((mask, message)) = input.split_first() else {
        return;
    };
    let shape = Shape {
        map: 2,
        contents: vec![4, 5, 6],
        metadata: Vec::new(),
        most_bytes: 1 << 12,
    };
    let headers = HeaderMap::new();
    let Some(one) = cut(&shape, 0, &headers, message) else {
        return;
    };
    let mut at = 0;
    let mut changed = message.to_vec();
    for content in &one.contents {
        assert!(content.bytes.start >= at, "contents are in their order");
        assert!(!content.bytes.is_empty());
        at = content.bytes.end;
        for byte in &mut changed[content.bytes.clone()] {
            *byte ^= *mask;
        }
    }
    assert!(at <= message.len());
    // Whatever the contents are, it is the same request around them.
    assert_eq!(cut(&shape, 0, &headers, &changed).as_ref(), Some(&one));
    // Whatever else is changed tells them apart.
    for place in 0..message.len() {
        if one.contents.iter().any(|content| content.bytes.contains(&place)) {
            continue;
        }
        let mut other = message.to_vec();
        other[place] ^= *mask | 1;
        if let Some(other) = cut(&shape, 0, &headers, &other) {
            assert_ne!(other.template, one.template);
        }
    }
});
