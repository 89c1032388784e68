//! Calls that are alike, as Python sees them: it decides once for all of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};

use super::call::{metadata, run, status, Call};
use super::Clock;
use crate::call::{self, Callback};
use crate::receive::alike::{Cut, Echo};
use crate::receive::PREFIX_BYTES;
use crate::status::Status;

/// TensorFlow copies what it is fed with another alignment.
const ALIGNMENT: usize = 64;

/// Copying fewer bytes takes less time than to get Python's lock again.
const WORTH_DETACHING_BYTES: usize = 256 << 10;

/// Calls of one method that differ in nothing but contents. Thread-safe; nothing here blocks.
///
/// A member is named by its place in the group.
#[pyclass(frozen, module = "ladle_native")]
pub struct Group {
    members: Vec<Member>,
    cut: Cut,
    clock: Clock,
    /// The size in bytes of each request, without its echo.
    #[pyo3(get)]
    nbytes: usize,
    /// What `request` has returned, and what of it is echoed.
    request: PyOnceLock<(Py<PyBytes>, Echo)>,
}

/// A call, and what its answer repeats.
type Member = (Arc<call::Call>, Echo);

/// A content, as Python sees it: the number of its path, a name, and its bytes.
type Part<'py> = (usize, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

impl Group {
    /// At least one call, and the cut of each request.
    pub fn new(py: Python<'_>, clock: Clock, members: Vec<Member>, cut: Cut) -> PyResult<Py<Self>> {
        let (request, echo) = first_request(&members);
        let group = Self {
            nbytes: request.len().saturating_sub(echo.field.len()),
            members,
            cut,
            clock,
            request: PyOnceLock::new(),
        };
        Py::new(py, group)
    }

    /// The first request, and what of it is echoed.
    fn first(&self, py: Python<'_>) -> &(Py<PyBytes>, Echo) {
        self.request.get_or_init(py, || {
            let (request, echo) = first_request(&self.members);
            (PyBytes::new(py, &request).unbind(), echo)
        })
    }

    fn member(&self, member: usize) -> PyResult<&Member> {
        let most = self.members.len();
        self.members.get(member).ok_or_else(|| {
            PyIndexError::new_err(format!("expected a member below {most}, got {member}"))
        })
    }

    fn members(&self, members: &[usize]) -> PyResult<Vec<&Member>> {
        members.iter().map(|member| self.member(*member)).collect()
    }
}

#[pymethods]
impl Group {
    fn __len__(&self) -> usize {
        self.members.len()
    }

    /// Equal for groups whose requests differ in nothing but contents and echoes.
    #[getter]
    fn template<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.cut.template)
    }

    /// The first request, copied when it is asked for; empty if all calls have ended.
    #[getter]
    fn request<'py>(&self, py: Python<'py>) -> &Bound<'py, PyBytes> {
        self.first(py).0.bind(py)
    }

    /// The contents of the first request, as (number of the path, name, bytes).
    #[getter]
    fn contents<'py>(&self, py: Python<'py>) -> Vec<Part<'py>> {
        let (request, echo) = self.first(py);
        let request = request.as_bytes(py);
        let part = |range: &Range<usize>| {
            PyBytes::new(py, request.get(echo.moved(range)).unwrap_or_default())
        };
        let contents = self.cut.contents.iter();
        contents
            .map(|content| {
                let key = content.key.as_ref().map(part);
                let key = key.unwrap_or_else(|| PyBytes::new(py, b""));
                (content.path, key, part(&content.bytes))
            })
            .collect()
    }

    /// What each answer repeats of its request: a field on the wire, or nothing.
    #[getter]
    fn echoes<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.members
            .iter()
            .map(|(_, echo)| PyBytes::new(py, &echo.field))
            .collect()
    }

    /// Return the value that all callers sent under this lower-case key, if they had to be alike.
    fn metadata<'py>(&self, py: Python<'py>, key: &str) -> Option<Bound<'py, PyString>> {
        metadata(py, &self.members.first()?.0, key)
    }

    /// Return one of the calls, to be handled by itself.
    fn call(&self, py: Python<'_>, member: usize) -> PyResult<Py<Call>> {
        Call::new(py, &self.clock, Arc::clone(&self.member(member)?.0))
    }

    /// The monotonic time at which the caller of a member stops waiting; None if it never does.
    fn deadline(&self, member: usize) -> PyResult<Option<f64>> {
        let deadline = self.member(member)?.0.head.deadline;
        Ok(deadline.map(|deadline| self.clock.monotonic(deadline)))
    }

    /// Have a callback called with each member that ends before it is settled; at once if it has.
    fn on_end(&self, callback: Py<PyAny>) {
        let callback = Arc::new(callback);
        for (member, (call, _)) in self.members.iter().enumerate() {
            let callback = Arc::clone(&callback);
            let ended: Callback = Box::new(move || {
                Python::attach(|py| {
                    if let Err(error) = callback.call1(py, (member,)) {
                        error.write_unraisable(py, Some(callback.bind(py)));
                    }
                });
            });
            run(call.on_leaving(ended));
        }
    }

    /// Return those of the members whose callers still wait.
    fn waiting(&self, members: Vec<usize>) -> PyResult<Vec<usize>> {
        let now = Instant::now();
        let mut waiting = Vec::with_capacity(members.len());
        for member in members {
            let (call, _) = self.member(member)?;
            let is_late = call.head.deadline.is_some_and(|deadline| deadline <= now);
            if !is_late && !call.is_over() {
                waiting.push(member);
            }
        }
        Ok(waiting)
    }

    /// Return a content of these members, one after the other, and where it begins in the bytes.
    ///
    /// That is where TensorFlow reads it without another copy. A member that has ended has zeros.
    fn gather<'py>(
        &self,
        py: Python<'py>,
        content: usize,
        members: Vec<usize>,
    ) -> PyResult<(Bound<'py, PyBytes>, usize)> {
        let calls = self.members(&members)?;
        let content = self
            .cut
            .contents
            .get(content)
            .map(|content| content.bytes.clone())
            .ok_or_else(|| PyIndexError::new_err(format!("no content has number {content}")))?;
        let size = content.len();
        let nbytes = size
            .checked_mul(calls.len())
            .and_then(|nbytes| nbytes.checked_add(ALIGNMENT))
            .ok_or_else(|| PyOverflowError::new_err("contents: more bytes than can be counted"))?;
        let mut start = 0;
        let gathered = PyBytes::new_with(py, nbytes, |memory| {
            let address = memory.as_ptr() as usize;
            start = address.next_multiple_of(ALIGNMENT) - address;
            let places = memory.get_mut(start..).unwrap_or_default();
            let copy = || {
                for (place, (call, echo)) in places.chunks_exact_mut(size).zip(calls) {
                    if let Some(bytes) = call.request().get(echo.moved(&content)) {
                        place.copy_from_slice(bytes);
                    }
                }
            };
            if nbytes < WORTH_DETACHING_BYTES {
                copy();
            } else {
                py.detach(copy); // nobody else knows of the bytes yet
            }
            Ok(())
        })?;
        Ok((gathered, start))
    }

    /// Take these members for answers that follow at once.
    ///
    /// Returns the places in `members` of those that were still open. They are over with that.
    fn settle(&self, members: Vec<usize>) -> PyResult<Vec<usize>> {
        let calls = self.members(&members)?;
        let open = calls
            .iter()
            .enumerate()
            .filter(|(_, (call, _))| call.settle());
        Ok(open.map(|(place, _)| place).collect())
    }

    /// Answer members that were settled, by their places in `members`.
    ///
    /// `start` comes first in each answer, and then the member's echo. `fields` are what comes one
    /// after the other then: bytes that all answers have, and bytes that `members` share evenly, in
    /// their order. `end` comes last in each.
    fn answer(
        &self,
        py: Python<'_>,
        members: Vec<usize>,
        places: Vec<usize>,
        start: PyBackedBytes,
        fields: Vec<(PyBackedBytes, PyBackedBytes)>,
        end: PyBackedBytes,
    ) -> PyResult<()> {
        let calls = self.members(&members)?;
        let mut size = start.len() + end.len();
        let mut shared = Vec::with_capacity(fields.len());
        for (head, data) in &fields {
            let share = data.len() / calls.len().max(1);
            if share * calls.len() != data.len() {
                return Err(PyValueError::new_err(format!(
                    "fields: expected bytes for {} members, got {}",
                    calls.len(),
                    data.len()
                )));
            }
            size += head.len() + share;
            shared.push((head, data, share));
        }
        let longest = calls.iter().map(|(_, echo)| echo.field.len()).max();
        let longest = size.saturating_add(longest.unwrap_or_default());
        u32::try_from(longest)
            .map_err(|_| PyOverflowError::new_err("a message has at most 4 GiB"))?;
        // Python goes on meanwhile.
        py.detach(|| {
            let message = |place: usize, echo: &Echo| {
                let size = size + echo.field.len();
                let mut message = BytesMut::with_capacity(PREFIX_BYTES + size);
                message.put_u8(0);
                message.put_u32(u32::try_from(size).unwrap_or_default());
                message.put_slice(&start);
                message.put_slice(&echo.field);
                for (head, data, share) in &shared {
                    message.put_slice(head);
                    let own = data.get(place * share..(place + 1) * share);
                    message.put_slice(own.unwrap_or_default());
                }
                message.put_slice(&end);
                message.freeze()
            };
            call::Call::reply_all(places.into_iter().filter_map(|place| {
                let (call, echo) = calls.get(place)?;
                let message = message(place, echo);
                Some((Arc::clone(call), Some(message), Status::ok()))
            }));
        });
        Ok(())
    }

    /// Answer a member that was settled with a message of its own.
    fn respond(&self, member: usize, response: PyBackedBytes) -> PyResult<()> {
        let call = Arc::clone(&self.member(member)?.0);
        let size = u32::try_from(response.len())
            .map_err(|_| PyOverflowError::new_err("a message has at most 4 GiB"))?;
        let mut message = BytesMut::with_capacity(PREFIX_BYTES + response.len());
        message.put_u8(0);
        message.put_u32(size);
        message.put_slice(&response);
        call::Call::reply_all([(call, Some(message.freeze()), Status::ok())]);
        Ok(())
    }

    /// End a member that was settled with the status of a ServingError.
    fn fail(&self, member: usize, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let call = Arc::clone(&self.member(member)?.0);
        call::Call::reply_all([(call, None, status(error)?)]);
        Ok(())
    }
}

/// A call that has ended since it came has no request; in a group nearly all have it.
fn first_request(members: &[Member]) -> (Bytes, Echo) {
    let mut requests = members.iter().map(|(call, echo)| (call.request(), echo));
    requests
        .find(|(request, _)| !request.is_empty())
        .map(|(request, echo)| (request, echo.clone()))
        .unwrap_or_default()
}
