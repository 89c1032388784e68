//! The fields of a protobuf message, as they are on the wire.

use std::ops::Range;

/// A field of a message.
pub struct Field {
    /// Its number.
    pub number: u32,
    /// None of a field that is not length-delimited.
    pub bytes: Option<Range<usize>>,
}

/// Reads the fields of a message as protobuf's writers write them: numbers as short as they can be.
pub struct Fields<'a> {
    message: &'a [u8],
    /// Where the next one begins.
    pub at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// Read a part of the message.
    pub fn new(message: &'a [u8], within: Range<usize>) -> Self {
        Self {
            message,
            at: within.start,
            end: within.end,
        }
    }

    /// The next field, or the inner None at the end; the outer None: it is no such message.
    pub fn next(&mut self) -> Option<Option<Field>> {
        if self.at >= self.end {
            return Some(None);
        }
        let tag = u32::try_from(self.varint()?).ok()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let mut bytes = None;
        match tag & 7 {
            0 => drop(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let start = self.at;
                self.skip(length)?;
                bytes = Some(start..self.at);
            }
            5 => self.skip(4)?,
            _ => return None,
        }
        Some(Some(Field { number, bytes }))
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|at| *at <= self.end)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return None;
            }
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                // A zero at the end says nothing.
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }
}
