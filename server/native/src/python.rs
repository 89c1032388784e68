//! The module `ladle_native`: what Python sees of the transport.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::{PyOSError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::call::{self, Callback};
use crate::connection::{Options, Phase};
use crate::limits::budget;
use crate::limits::places::Places;
use crate::limits::Limits;
use crate::queue::{name, Event, Taken};
use crate::receive::{framed, prefix_of};
use crate::server::{Listener, Server};
use crate::service::{Kind, Registered, Shared};
use crate::status::Status;
use crate::{descriptors, limits, tls};

/// From so many bytes on an answer is sent from Python's own memory.
const UNCOPIED_BYTES: usize = 64 << 10;

/// Counts the bytes of all requests under way; REST and gRPC share one. Thread-safe.
#[pyclass(frozen, module = "ladle_native")]
struct Budget(Arc<budget::Budget>);

#[pymethods]
impl Budget {
    #[new]
    fn new(limit: u64) -> Self {
        Self(Arc::new(budget::Budget::new(limit)))
    }

    /// Count bytes in, and return None; or return the bytes of all others if there is no room.
    #[pyo3(signature = (nbytes, held=0))]
    fn take(&self, nbytes: u64, held: u64) -> Option<u64> {
        let full = self.0.take(nbytes, held).err()?;
        self.0.uploads.end_slow(Instant::now());
        Some(full.others)
    }

    /// Count bytes out.
    fn give_back(&self, nbytes: u64) {
        self.0.give_back(nbytes);
    }

    /// The bytes that are counted now.
    #[getter]
    fn used(&self) -> u64 {
        self.0.used()
    }
}

/// The time at which both clocks were read.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    monotonic_s: f64,
}

impl Clock {
    fn monotonic(&self, at: Instant) -> f64 {
        match at.checked_duration_since(self.instant) {
            Some(later) => self.monotonic_s + later.as_secs_f64(),
            None => self.monotonic_s - self.instant.duration_since(at).as_secs_f64(),
        }
    }
}

/// gRPC's server: it listens, takes calls, and hands them over in lists.
#[pyclass(frozen, module = "ladle_native")]
struct Network {
    server: Server,
    tags: Vec<Py<PyAny>>,
    clock: Clock,
}

#[pymethods]
impl Network {
    /// `methods`: path, whether its calls are streams, whether they have room of their own, and a
    /// tag that comes back with each. `tls`: certificate chain, key, and the authorities of callers, all PEM.
    #[new]
    #[pyo3(signature = (
        methods, budget, *, now, max_request_bytes, max_calls, max_own_calls, gated, compressed, threads,
        max_concurrent_streams, max_metadata_bytes, keepalive_s, keepalive_timeout_s,
        max_age_s=None, max_age_grace_s=None, tls=None,
    ))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)] // all have names in Python
    fn new(
        methods: Vec<(String, bool, bool, Py<PyAny>)>,
        budget: &Budget,
        now: f64,
        max_request_bytes: u64,
        max_calls: usize,
        max_own_calls: usize,
        gated: bool,
        compressed: bool,
        threads: usize,
        max_concurrent_streams: u32,
        max_metadata_bytes: u32,
        keepalive_s: f64,
        keepalive_timeout_s: f64,
        max_age_s: Option<f64>,
        max_age_grace_s: Option<f64>,
        tls: Option<(Vec<u8>, Vec<u8>, Option<Vec<u8>>)>,
    ) -> PyResult<Self> {
        let clock = Clock {
            instant: Instant::now(),
            monotonic_s: now,
        };
        let options = Options {
            max_concurrent_streams,
            max_metadata_bytes,
            keepalive_time: seconds(keepalive_s)?,
            keepalive_timeout: seconds(keepalive_timeout_s)?,
            max_age: max_age_s.map(seconds).transpose()?,
            max_age_grace: max_age_grace_s.map(seconds).transpose()?,
        };
        let tls = tls
            .map(|(certificates, key, authorities)| {
                tls::config(&tls::Identity {
                    certificates,
                    key,
                    authorities,
                })
            })
            .transpose()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let mut tags = Vec::with_capacity(methods.len());
        let mut table = HashMap::with_capacity(methods.len());
        for (number, (path, is_stream, has_own_room, tag)) in methods.into_iter().enumerate() {
            tags.push(tag);
            let kind = if is_stream {
                Kind::Streaming
            } else {
                Kind::Unary
            };
            table.insert(
                path,
                Registered {
                    number,
                    kind,
                    has_own_room,
                },
            );
        }
        let shared = Shared {
            methods: table,
            unary: Limits {
                max_request_bytes,
                budget: Some(Arc::clone(&budget.0)),
            },
            // Its handler refuses such a message by itself, and the stream goes on.
            streaming: Limits {
                max_request_bytes: max_request_bytes.saturating_add(limits::EXPLAINED_BYTES),
                budget: None,
            },
            gated,
            compressed,
            places: Places::new(max_calls),
            own_places: Places::new(max_own_calls),
            begun: AtomicU64::new(0),
        };
        Ok(Self {
            server: Server::new(Arc::new(shared), options, tls, threads),
            tags,
            clock,
        })
    }

    /// Accept connections of a listening socket, whose descriptor is the server's from now on.
    fn listen(&self, descriptor: i32, is_unix: bool) -> PyResult<()> {
        let Some(owned) = descriptors::owned(descriptor) else {
            return Err(PyValueError::new_err(format!(
                "expected a descriptor, got {descriptor}"
            )));
        };
        self.server.listen(if is_unix {
            Listener::Unix(UnixListener::from(owned))
        } else {
            Listener::Tcp(TcpListener::from(owned))
        });
        Ok(())
    }

    /// Start the threads; returns at once.
    fn start(&self) -> PyResult<()> {
        self.server
            .start()
            .map_err(|error| PyOSError::new_err(error.to_string()))
    }

    /// Wait at most so long for something to happen, and return all that has; None: it is over.
    ///
    /// Returns the calls that begin as (tag, call); what happened to streams as (kind, id of the
    /// call, message); the calls that wait to be let through; and the refusals, as (reason, code,
    /// message, how many).
    fn take<'py>(
        &self,
        py: Python<'py>,
        most: usize,
        timeout_s: f64,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let timeout = seconds(timeout_s)?;
        let queue = self.server.queue();
        let Some(taken) = py.detach(|| queue.take(most, timeout)) else {
            return Ok(None);
        };
        self.told(py, taken).map(Some)
    }

    /// How many calls have begun since the start.
    #[getter]
    fn begun(&self) -> u64 {
        self.server.shared().begun.load(Ordering::Relaxed)
    }

    /// How many connections there are.
    #[getter]
    fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Go on, but ask callers on the connections that there are to connect anew.
    fn enter_lame_duck(&self) {
        self.server.enter(Phase::LameDuck);
    }

    /// Take no connections any more, and ask those that there are to end.
    fn drain(&self) {
        self.server.enter(Phase::Draining);
    }

    /// Block until there are no connections, at most so long; returns whether there are none.
    fn wait_until_left(&self, py: Python<'_>, longest_s: f64) -> PyResult<bool> {
        let longest = seconds(longest_s)?;
        Ok(py.detach(|| self.server.wait_until_left(longest)))
    }

    /// End all calls with the status of a ServingError, as far as their callers take it in time.
    fn end_calls(&self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        self.server.end_calls(status(error)?);
        Ok(())
    }

    /// Cut off what is left, and block until all threads have ended.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.server.close());
    }
}

impl Network {
    fn told<'py>(&self, py: Python<'py>, taken: Taken) -> PyResult<Bound<'py, PyTuple>> {
        let begun = PyList::empty(py);
        let events = PyList::empty(py);
        let arrived = PyList::empty(py);
        let mut gone = 0u64;
        for event in taken.events {
            match event {
                Event::Arrived(call) => {
                    if call.take() {
                        arrived.append(self.call(py, call)?)?;
                    }
                }
                Event::Begun(call) => {
                    let tag = call.head.method.and_then(|number| self.tags.get(number));
                    if !call.take() {
                        gone += 1;
                    } else if let Some(tag) = tag {
                        begun.append((tag, self.call(py, call)?))?;
                    }
                }
                Event::Message(call, message) => {
                    let message = message.map(|message| PyBytes::new(py, &message));
                    events.append(("message", id(&call), message))?;
                }
                Event::Sent(call) => events.append(("sent", id(&call), py.None()))?,
                Event::Idle(call) => events.append(("idle", id(&call), py.None()))?,
                Event::Ended(call) => {
                    run(call.take_callbacks());
                    events.append(("ended", id(&call), py.None()))?;
                }
            }
        }
        let refused = PyList::empty(py);
        for each in taken.refused {
            let (reason, status) = (name(each.last.reason), each.last.status);
            refused.append((reason, status.code, status.message, each.count))?;
        }
        if gone > 0 {
            let status = limits::Refusal::gone().status;
            refused.append(("", status.code, status.message, gone))?;
        }
        (begun, events, arrived, refused).into_pyobject(py)
    }

    fn call(&self, py: Python<'_>, call: Arc<call::Call>) -> PyResult<Py<Call>> {
        let deadline = call
            .head
            .deadline
            .map(|deadline| self.clock.monotonic(deadline));
        let nbytes = call.request_len();
        Py::new(
            py,
            Call {
                call,
                deadline,
                nbytes,
                request: Mutex::default(),
            },
        )
    }
}

/// One call. Thread-safe; nothing here blocks.
#[pyclass(frozen, module = "ladle_native")]
struct Call {
    call: Arc<call::Call>,
    /// The monotonic time at which the caller stops waiting; None if it never does.
    #[pyo3(get)]
    deadline: Option<f64>,
    /// The request's size in bytes.
    #[pyo3(get)]
    nbytes: usize,
    request: Mutex<Option<Py<PyBytes>>>,
}

impl Call {
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
        let value = self.call.head.headers.get(key)?.as_bytes();
        let latin: String = value.iter().copied().map(char::from).collect();
        Some(PyString::new(py, &latin))
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

fn id(call: &Arc<call::Call>) -> usize {
    Arc::as_ptr(call) as usize
}

fn run(callbacks: impl IntoIterator<Item = Callback>) {
    for callback in callbacks {
        callback();
    }
}

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

fn status(error: &Bound<'_, PyAny>) -> PyResult<Status> {
    let py = error.py();
    let retry_after_s: Option<f64> = error
        .getattr(pyo3::intern!(py, "retry_after_s"))?
        .extract()?;
    Ok(Status {
        code: error.getattr(pyo3::intern!(py, "code"))?.extract()?,
        message: error.getattr(pyo3::intern!(py, "message"))?.extract()?,
        // A float is cut to the bounds of an integer, and NaN is 0.
        retry_ms: retry_after_s.map(|s| (s * 1000.0).round_ties_even().max(1.0) as u64),
    })
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    // Longer than a century is as good as for ever, and clocks can't be counted past.
    Duration::try_from_secs_f64(seconds.min(3.0e9))
        .map_err(|_| PyValueError::new_err(format!("expected seconds from 0 on, got {seconds}")))
}

/// ladle's gRPC transport; `ladle.server.transport.native` is what uses it.
#[pymodule]
fn ladle_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Budget>()?;
    module.add_class::<Network>()?;
    module.add_class::<Call>()
}
