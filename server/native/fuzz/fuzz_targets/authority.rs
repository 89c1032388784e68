//! Frames pass alike however they are cut, and only an authority's text changes.
#![no_main]

use ladle_native::connection::authority::Frames;
use libfuzzer_sys::fuzz_target;

const MAX_FRAME: usize = 1 << 14;

/// What has passed, and what waits for more.
fn through<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<u8>) {
    let mut frames = Frames::new(MAX_FRAME);
    let (mut all, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        all.extend_from_slice(piece);
        passed = frames.mend(&mut all, passed);
        assert!(
            all.len() - passed <= 9 + MAX_FRAME,
            "a frame that is held has bounds"
        );
    }
    let held = all.split_off(passed);
    (all, held)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let pieces = through(stream.chunks(usize::from(size).max(1)));
    // A frame that is larger than a piece can only be known once it is whole.
    let whole = through(stream.chunks(MAX_FRAME + 9));
    assert_eq!(pieces, whole);
    assert!(whole.0.len() + whole.1.len() <= stream.len() * 2 + 16);
    // What was replaced once is what h2 takes, and stays.
    assert_eq!(through(std::iter::once(&whole.0[..])).0, whole.0);
});
