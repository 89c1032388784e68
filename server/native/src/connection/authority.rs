//! Gives h2 an `:authority` that it takes.
//!
//! gRPC's callers put into it what they dial, whatever that is: a list of addresses, or a path with
//! percent signs. The server reads none of it, but h2 resets each stream whose authority is no host
//! with a port, before anybody sees the call. So the text is replaced on its way to h2 by one that
//! is as long: then the tables of HPACK stay alike on both sides (RFC 7541, section 4.1).
//!
//! An authority that is named by its index in a table was there as text before. One that comes in a
//! CONTINUATION frame, or names itself by the dynamic table, is left as it is; no caller is known
//! that does so.

use std::ops::Range;
use std::time::Instant;

use super::flood::Credit;

/// Length, kind, flags and stream.
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const WITH_PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// The name in Huffman's code.
const PACKED_NAME: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
/// The name's place in the static table.
const NAME_INDEX: usize = 1;
/// What an authority is made of on its way to h2.
const FILLER: u8 = b'a';
/// How many codes of HPACK's Huffman code have so many bits (RFC 7541, appendix B).
const CODES: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];

/// Follows the frames of one connection.
pub struct Frames {
    /// Larger frames are h2's to refuse.
    max_frame_size: usize,
    /// How many bytes of the frame that has begun are still to come.
    left: usize,
    /// What the caller may still send that brings no request.
    pub credit: Credit,
}

impl Frames {
    /// A connection that has not begun, after its preface.
    pub fn new(max_frame_size: usize) -> Self {
        Self {
            max_frame_size,
            left: 0,
            credit: Credit::new(Instant::now()),
        }
    }

    /// How many of the bytes that came next can pass as they are.
    ///
    /// The rest begins with a frame that is to be replaced, or that is not all there.
    fn passing(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let piece = self.left.min(rest.len());
            self.left -= piece;
            at += piece;
            let rest = rest.get(piece..).unwrap_or_default();
            let Some(&[a, b, c, kind, flags, ..]) = rest.first_chunk::<FRAME_HEAD>() else {
                return at;
            };
            let length = FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if kind == HEADERS && length <= FRAME_HEAD + self.max_frame_size {
                match rest.get(..length) {
                    Some(frame) if replaced(frame).is_none() => {}
                    _ => return at,
                }
            }
            self.credit.came(kind, flags, length);
            self.left = length;
        }
    }

    /// Replace frames that have to be, from a place on; returns up to where all can pass.
    ///
    /// What follows there is a frame that is not all there yet.
    pub fn mend(&mut self, bytes: &mut Vec<u8>, from: usize) -> usize {
        let mut at = from;
        loop {
            at += self.passing(bytes.get(at..).unwrap_or_default());
            let Some((mended, length)) = whole_frame(bytes.get(at..).unwrap_or_default()) else {
                return at;
            };
            self.credit.came(HEADERS, 0, length);
            let end = at + mended.len();
            bytes.splice(at..at + length, mended);
            at = end;
        }
    }

    /// Note that bytes of the frame that has begun have passed.
    pub fn passed(&mut self, count: usize) {
        self.left -= count;
    }
}

/// The replacement of the frame that these bytes begin with, and its length before.
fn whole_frame(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let &[a, b, c, ..] = bytes.first_chunk::<FRAME_HEAD>()?;
    let length = FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
    Some((replaced(bytes.get(..length)?)?, length))
}

/// A HEADERS frame with another authority; None if it is to stay as it is.
fn replaced(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = *frame.get(4)?;
    let is_padded = flags & PADDED != 0;
    let padding = if is_padded {
        usize::from(*frame.get(FRAME_HEAD)?)
    } else {
        0
    };
    let priority = if flags & WITH_PRIORITY != 0 { 5 } else { 0 };
    let start = FRAME_HEAD + usize::from(is_padded) + priority;
    let end = frame.len().checked_sub(padding)?;
    let text = authority(frame.get(start..end)?)?;
    let (from, to) = (start + text.place.start, start + text.place.end);
    let mut mended = Vec::with_capacity(frame.len() + text.length);
    mended.extend_from_slice(frame.get(..from)?);
    push_length(&mut mended, text.length);
    mended.resize(mended.len() + text.length, FILLER);
    mended.extend_from_slice(frame.get(to..)?);
    let [_, a, b, c] = u32::try_from(mended.len() - FRAME_HEAD).ok()?.to_be_bytes();
    mended.get_mut(..3)?.copy_from_slice(&[a, b, c]);
    Some(mended)
}

/// A text in a block of header fields.
#[derive(Debug, PartialEq, Eq)]
struct Text {
    /// Where it is, with the length before it.
    place: Range<usize>,
    /// How many bytes it has, once it is unpacked.
    length: usize,
}

/// Find the authority that a block of header fields gives as text.
fn authority(block: &[u8]) -> Option<Text> {
    let mut fields = Fields { block, at: 0 };
    while let Some(&first) = block.get(fields.at) {
        let bits = match first {
            0x80.. => {
                fields.number(7)?; // an index alone
                continue;
            }
            0x40.. => 6,
            0x20.. => {
                fields.number(5)?; // the size of the table
                continue;
            }
            _ => 4,
        };
        let index = fields.number(bits)?;
        let is_authority = if index == 0 {
            let (name, is_packed) = fields.text()?;
            name == if is_packed { PACKED_NAME } else { NAME }
        } else {
            index == NAME_INDEX
        };
        let start = fields.at;
        let (value, is_packed) = fields.text()?;
        if is_authority {
            let length = if is_packed {
                unpacked_length(value)?
            } else {
                value.len()
            };
            return (length > 0).then_some(Text {
                place: start..fields.at,
                length,
            });
        }
    }
    None
}

/// Reads header fields as far as it has to, for their borders.
struct Fields<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// A number that has the last `bits` of its first byte (RFC 7541, section 5.1).
    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1usize << bits) - 1;
        let first = usize::from(self.byte()?) & most;
        if first < most {
            return Some(first);
        }
        let mut number = most;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A text, and whether it is packed by Huffman's code.
    fn text(&mut self) -> Option<(&'a [u8], bool)> {
        let is_packed = self.block.get(self.at)? & 0x80 != 0;
        let length = self.number(7)?;
        let text = self.block.get(self.at..)?.get(..length)?;
        self.at += length;
        Some((text, is_packed))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    if length < 0x7f {
        bytes.push(length as u8);
        return;
    }
    bytes.push(0x7f);
    let mut rest = length - 0x7f;
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// How many bytes a text has that is packed by Huffman's code; None if it is none.
///
/// Codes of one length follow each other, after all shorter ones: counting needs no more.
fn unpacked_length(packed: &[u8]) -> Option<usize> {
    let (mut count, mut code, mut first, mut bits) = (0, 0u32, 0u32, 0usize);
    for byte in packed {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            first <<= 1;
            bits += 1;
            let codes = *CODES.get(bits)?;
            if code < first + codes {
                count += 1;
                (code, first, bits) = (0, 0, 0);
            } else {
                first += codes;
            }
        }
    }
    // What is left pads the last byte: ones only, and less than a byte.
    let is_padding = bits < 8 && code == (1 << bits) - 1;
    is_padding.then_some(count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 14;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length.get(1..).unwrap().to_vec();
        frame.extend_from_slice(&[HEADERS, flags, 0, 0, 0, 1]);
        frame.extend_from_slice(payload);
        frame
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        push_length(&mut text, bytes.len());
        text.extend_from_slice(bytes);
        text
    }

    /// As gRPC's own library writes it, beside fields of each other form.
    fn block(authority: &[u8]) -> Vec<u8> {
        [
            b"\x3f\xe1\x1f\x40".to_vec(), // the size of the table, and a new name
            text(b":path"),
            text(b"/a/B"),
            vec![0x40],
            text(NAME),
            text(authority),
            b"\x83\x86\x0f\x2b".to_vec(), // two indices, and a name by a large index
            text(b"agent"),
        ]
        .concat()
    }

    fn through(stream: &[u8], size: usize) -> Vec<u8> {
        let mut frames = Frames::new(MAX);
        let (mut all, mut passed) = (Vec::new(), 0);
        for chunk in stream.chunks(size) {
            all.extend_from_slice(chunk);
            passed = frames.mend(&mut all, passed);
        }
        assert_eq!(passed, all.len(), "in chunks of {size}");
        all
    }

    #[test]
    fn an_authority_becomes_a_host_that_is_as_long_wherever_the_bytes_are_cut() {
        for length in [1, 27, 126, 127, 128, 300, 9000] {
            let data = [0, 0, 3, 0, 1, 0, 0, 0, 1, 9, 9, 9];
            let list = vec![b','; length];
            let host = vec![FILLER; length];
            let sent = [&data[..], &frame(4, &block(&list)), &data].concat();
            let expected = [&data[..], &frame(4, &block(&host)), &data].concat();
            for size in [1, 2, 7, 64, 1000, sent.len()] {
                assert!(through(&sent, size) == expected, "{length} in {size}");
            }
        }
    }

    #[test]
    fn padding_and_priority_stay() {
        let around = |text: &[u8]| {
            let payload = [b"\x03pppww".as_slice(), &block(text), b"\0\0\0"].concat();
            frame(PADDED | WITH_PRIORITY | 4, &payload)
        };
        assert_eq!(through(&around(b"a,b"), 1000), around(b"aaa"));
    }

    #[test]
    fn an_authority_is_found_in_each_form() {
        let www = b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"; // RFC 7541, C.4.1
        for head in [
            &b"\x41"[..],
            b"\x01",
            b"\x11",
            b"\x00\x0a:authority",
            b"\x40\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f",
        ] {
            let block = [head, www].concat();
            let expected = Text {
                place: head.len()..block.len(),
                length: "www.example.com".len(),
            };
            assert_eq!(authority(&block), Some(expected), "{head:?}");
        }
    }

    #[test]
    fn what_has_no_authority_as_text_passes_as_it_is() {
        for payload in [
            &b""[..],
            b"\x82\x87\x84\xbf",         // indices alone
            b"\x41\x00",                 // an empty one
            b"\x41\x05abc",              // cut off
            b"\x41\x82\xff\xff",         // no Huffman code
            b"\x41\xff\xff\xff\xff\xff", // a number without end
            b"\x40\x0aauthority:\x01,",  // another name
        ] {
            let frame = frame(4, payload);
            assert_eq!(through(&frame, 1000), frame, "{payload:?}");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_not_held() {
        let huge = frame(4, &block(&vec![b','; MAX]));
        let mut frames = Frames::new(MAX);
        let begun = huge.get(..100).unwrap();
        assert_eq!(frames.passing(begun), begun.len());
    }

    #[test]
    fn the_code_is_complete() {
        let weights: u64 = (1..)
            .zip(CODES.iter().skip(1))
            .map(|(bits, count)| u64::from(*count) << (30 - bits))
            .sum();
        assert_eq!(weights, 1 << 30);
        assert_eq!(unpacked_length(PACKED_NAME), Some(NAME.len()));
    }
}
