//! How much of what has come h2 gets at a time.

/// Length, kind, flags and stream.
const FRAME_HEAD: usize = 9;

/// Follows the frames that go to h2.
///
/// h2 makes room for a frame once it has its head, and copies what else it has of the frame by then.
pub struct Portions {
    /// How many bytes of the frame that has begun have not gone yet.
    left: usize,
    /// How many frames have begun to go.
    count: usize,
}

impl Portions {
    /// A connection whose frames begin after so many bytes.
    pub fn after(greeting: usize) -> Self {
        Self {
            left: greeting,
            count: 0,
        }
    }

    /// How many frames have begun to go since the count began.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Begin to count anew.
    pub fn begin_count(&mut self) {
        self.count = 0;
    }

    /// How many bytes of the frame that has begun have not gone yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Note that bytes of the frame that has begun have gone.
    pub fn passed(&mut self, count: usize) {
        self.left -= count;
    }

    /// Say how many of the bytes that are there go next; 0: as long as no more are there, none.
    pub fn next(&mut self, bytes: &[u8], room: usize) -> usize {
        let most = room.min(bytes.len());
        let mut count = self.left.min(most);
        self.left -= count;
        while self.left == 0 {
            let rest = bytes.get(count..).unwrap_or_default();
            let Some(&[a, b, c, ..]) = rest.first_chunk::<FRAME_HEAD>() else {
                break;
            };
            let length = FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if count > 0 && count + length > most {
                break;
            }
            self.count += 1;
            if count + length <= most {
                count += length;
            } else {
                count = FRAME_HEAD.min(room);
                self.left = length - count;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: [u8; 11] = [0, 0, 2, 0, 0, 0, 0, 0, 1, 7, 7];
    const LARGE: [u8; 9] = [0, 16, 0, 0, 0, 0, 0, 0, 1];

    #[test]
    fn frames_that_have_room_go_whole_and_others_head_first() {
        let bytes = [&SMALL[..], &SMALL, &LARGE, &[0; 100]].concat();
        let mut portions = Portions::after(0);
        let whole = portions.next(&bytes, 1000);
        assert_eq!(whole, 22);
        let rest = bytes.get(whole..).unwrap_or_default();
        assert_eq!(portions.next(rest, 978), FRAME_HEAD);
        assert_eq!(portions.left(), 4096);
        assert_eq!(portions.next(&[0; 100], 5000), 100);
        portions.passed(3996);
        assert_eq!(portions.next(&SMALL, 30), 11);
        assert_eq!(portions.count(), 4);
    }

    #[test]
    fn a_frame_that_has_no_room_waits_for_more_unless_it_is_the_next() {
        let mut portions = Portions::after(3);
        let bytes = [&[1, 2, 3], &SMALL[..]].concat();
        assert_eq!(portions.next(&bytes, 10), 3);
        assert_eq!(portions.next(&SMALL, 10), FRAME_HEAD);
        assert_eq!(portions.next(&[7, 7], 10), 2);
        assert_eq!(portions.next(&SMALL, 4), 4);
        assert_eq!(portions.left(), 7);
    }

    #[test]
    fn a_head_that_is_not_all_there_waits() {
        let mut portions = Portions::after(0);
        let begun = SMALL.get(..8).unwrap_or_default();
        assert_eq!(portions.next(begun, 100), 0);
        assert_eq!(portions.next(&[], 100), 0);
        assert_eq!(portions.next(&SMALL, 100), 11);
    }
}
