//! A call as Python sees it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString};

use super::Clock;
use crate::call::Callback;
use crate::receive::{framed, prefix_of};
use crate::status::{retry_ms, Status};

/// From so many bytes on an answer is sent from Python's own memory.
const UNCOPIED_BYTES: usize = 64 << 10;

/// One call. Thread-safe; nothing here blocks.
#[pyclass(frozen, module = "ladle_native")]
pub struct Call {
    call: Arc<crate::call::Call>,
    /// The monotonic time at which the caller stops waiting; None if it never does.
    #[pyo3(get)]
    deadline: Option<f64>,
    /// The request's size in bytes.
    #[pyo3(get)]
    nbytes: usize,
    request: Mutex<Option<Py<PyBytes>>>,
}

impl Call {
    /// A call as Python sees it.
    pub fn new(py: Python<'_>, clock: &Clock, call: Arc<crate::call::Call>) -> PyResult<Py<Self>> {
        let deadline = call.head.deadline.map(|deadline| clock.monotonic(deadline));
        let nbytes = call.request_len();
        let request = Mutex::default();
        Py::new(
            py,
            Self {
                call,
                deadline,
                nbytes,
                request,
            },
        )
    }

    fn request_slot(&self) -> std::sync::MutexGuard<'_, Option<Py<PyBytes>>> {
        // Held for a moment only, and never while Python runs.
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Call {
    /// What names the call in what `take` returns.
    #[getter]
    fn id(&self) -> usize {
        id(&self.call)
    }

    /// The full method path.
    #[getter]
    fn path(&self) -> &str {
        self.call.head.uri.path()
    }

    /// The request message; empty once it was let go, or the call is over.
    #[getter]
    fn request<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        if let Some(request) = &*self.request_slot() {
            return request.clone_ref(py).into_bound(py);
        }
        let request = PyBytes::new(py, &self.call.take_request());
        *self.request_slot() = Some(request.clone().unbind());
        request
    }

    /// None: the call is no part of a larger request.
    #[getter]
    fn shared_observation(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Whether the call is over for its caller.
    #[getter]
    fn is_over(&self) -> bool {
        self.call.is_over()
    }

    /// Whether the caller is on this machine.
    #[getter]
    fn local(&self) -> bool {
        self.call.head.local
    }

    /// Return the value that the caller sent under this lower-case key.
    fn metadata<'py>(&self, py: Python<'py>, key: &str) -> Option<Bound<'py, PyString>> {
        metadata(py, &self.call, key)
    }

    /// Have a callback called once when the call is over; at once if it is.
    fn on_end(&self, callback: Py<PyAny>) {
        let callback: Callback = Box::new(move || {
            Python::attach(|py| {
                if let Err(error) = callback.call0(py) {
                    error.write_unraisable(py, Some(callback.bind(py)));
                }
            });
        });
        run(self.call.on_end(callback));
    }

    /// Free the request message.
    fn discard_request(&self, py: Python<'_>) {
        drop(self.call.take_request());
        let empty = PyBytes::new(py, b"").unbind();
        let before = self.request_slot().replace(empty);
        drop(before);
    }

    /// Send the response message.
    fn respond(&self, response: PyBackedBytes) -> PyResult<()> {
        run(self.call.answer(pieces(response)?, Status::ok()));
        Ok(())
    }

    /// End the call with the status of a ServingError.
    fn fail(&self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        run(self.call.answer([], status(error)?));
        Ok(())
    }

    /// Let the call through: its message is read from now on.
    fn admit(&self) {
        self.call.admit();
    }

    /// Ask for one message of a stream.
    fn receive(&self) {
        self.call.want_message();
    }

    /// Ask to be told when all is handed over that has come by now.
    fn idle(&self) {
        self.call.want_idle();
    }

    /// Send a message of a stream; returns whether it is going to be sent.
    fn send(&self, message: PyBackedBytes) -> PyResult<bool> {
        Ok(self.call.send(pieces(message)?))
    }

    /// End a stream after what is being sent: well, or with the status of a ServingError.
    #[pyo3(signature = (error=None))]
    fn close(&self, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.call
            .close(error.map_or_else(|| Ok(Status::ok()), status)?);
        Ok(())
    }
}

/// Return what a caller sent under a lower-case key.
pub fn metadata<'py>(
    py: Python<'py>,
    call: &crate::call::Call,
    key: &str,
) -> Option<Bound<'py, PyString>> {
    let value = call.head.headers.get(key)?.as_bytes();
    let latin: String = value.iter().copied().map(char::from).collect();
    Some(PyString::new(py, &latin))
}

/// What names a call in what `take` returns.
pub fn id(call: &Arc<crate::call::Call>) -> usize {
    Arc::as_ptr(call) as usize
}

/// Call what is to be called at the end of calls.
pub fn run(callbacks: impl IntoIterator<Item = Callback>) {
    for callback in callbacks {
        callback();
    }
}

/// A message as it is sent, in pieces.
fn pieces(message: PyBackedBytes) -> PyResult<Vec<Bytes>> {
    let too_long = || PyOverflowError::new_err("a message has at most 4 GiB");
    if message.len() < UNCOPIED_BYTES {
        return Ok(vec![framed(&message).ok_or_else(too_long)?]);
    }
    let prefix = prefix_of(&message).ok_or_else(too_long)?;
    Ok(vec![
        Bytes::copy_from_slice(&prefix),
        Bytes::from_owner(message),
    ])
}

/// The status of a ServingError.
pub fn status(error: &Bound<'_, PyAny>) -> PyResult<Status> {
    let py = error.py();
    let retry_after_s: Option<f64> = error
        .getattr(pyo3::intern!(py, "retry_after_s"))?
        .extract()?;
    Ok(Status {
        code: error.getattr(pyo3::intern!(py, "code"))?.extract()?,
        message: error.getattr(pyo3::intern!(py, "message"))?.extract()?,
        retry_ms: retry_after_s.map(retry_ms),
    })
}
