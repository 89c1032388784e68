//! Sockets that Python has bound. The one module with `unsafe`: a number can't prove whose it is.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Take over a descriptor that whoever calls has given up, as `socket.detach()` does.
pub fn owned(descriptor: RawFd) -> Option<OwnedFd> {
    if descriptor < 0 {
        return None;
    }
    // SAFETY: Python's socket has let go of the number and nobody else knows it. Where a caller
    // passes another number, the worst is that a file of this process is closed under its user.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
