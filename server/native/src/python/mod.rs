//! The module `ladle_native`: what Python sees of the transport.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use self::call::{id, run, status, Call};
use self::group::Group;
use crate::connection::{Options, Phase};
use crate::limits::budget;
use crate::limits::places::Places;
use crate::limits::Limits;
use crate::queue::{name, Event, Refused, Taken};
use crate::receive::alike::{grouped, Came, ContentPath, Cut, Shape};
use crate::server::{Listener, Server};
use crate::service::{Kind, Registered, Shared};
use crate::{descriptors, limits, tls};

mod call;
mod group;

/// Larger requests are handled one by one: what they share is little of what they cost, and while they
/// wait for their answers they would be there twice.
const MOST_BYTES_ALIKE: usize = 1 << 20;

/// Which requests of a method are alike: where contents are, each by the fields that lead there and
/// the field that names what has it; the field that is echoed; and names of metadata.
type Alike = (Vec<(Vec<u32>, Option<u32>)>, Option<u32>, Vec<String>);

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
pub struct Clock {
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
    /// `methods`: path, whether its calls are streams, whether they have room of their own, which of
    /// them are alike, and a tag that comes back with each call and each group. `tls`: certificate chain, key, and the authorities of callers, all PEM.
    #[new]
    #[pyo3(signature = (
        methods, budget, *, now, max_request_bytes, max_calls, max_own_calls, gated, compressed, threads,
        max_connections, max_concurrent_streams, max_metadata_bytes, keepalive_s, keepalive_timeout_s,
        max_age_s=None, max_age_grace_s=None, tls=None,
    ))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)] // all have names in Python
    fn new(
        methods: Vec<(String, bool, bool, Option<Alike>, Py<PyAny>)>,
        budget: &Budget,
        now: f64,
        max_request_bytes: u64,
        max_calls: usize,
        max_own_calls: usize,
        gated: bool,
        compressed: bool,
        threads: usize,
        max_connections: usize,
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
            max_connections,
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
        let mut alike = Vec::with_capacity(methods.len());
        for (number, (path, is_stream, has_own_room, shape, tag)) in methods.into_iter().enumerate()
        {
            tags.push(tag);
            alike.push(shape.map(|(contents, echo, metadata)| {
                Shape {
                    contents: contents
                        .into_iter()
                        .map(|(fields, key)| ContentPath { fields, key })
                        .collect(),
                    echo,
                    metadata,
                    most_bytes: MOST_BYTES_ALIKE,
                }
            }));
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
            alike,
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
    /// Returns what begins as (tag, call), or (tag, group) where several calls are alike; what happened to streams as (kind, id of the
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
        let taken = py.detach(|| queue.take(most, timeout).map(Sorted::from));
        taken.map(|taken| self.told(py, taken)).transpose()
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
    fn told<'py>(&self, py: Python<'py>, taken: Sorted) -> PyResult<Bound<'py, PyTuple>> {
        let begun = PyList::empty(py);
        let events = PyList::empty(py);
        let arrived = PyList::empty(py);
        for came in taken.begun {
            match came {
                Came::Single(call) => {
                    if let Some(tag) = self.tag(&call) {
                        begun.append((tag, Call::new(py, &self.clock, call)?))?;
                    }
                }
                Came::Group(members, cut) => {
                    let tag = members.first().and_then(|(call, _)| self.tag(call));
                    if let Some(tag) = tag {
                        begun.append((tag, Group::new(py, self.clock, members, *cut)?))?;
                    }
                }
            }
        }
        for event in taken.others {
            match event {
                Event::Arrived(call) => {
                    if call.take() {
                        arrived.append(Call::new(py, &self.clock, call)?)?;
                    }
                }
                Event::Begun(_) | Event::Cut(..) => (), // these were sorted out
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
        if taken.gone > 0 {
            let status = limits::Refusal::gone().status;
            refused.append(("", status.code, status.message, taken.gone))?;
        }
        (begun, events, arrived, refused).into_pyobject(py)
    }

    fn tag(&self, call: &Arc<crate::call::Call>) -> Option<&Py<PyAny>> {
        call.head.method.and_then(|number| self.tags.get(number))
    }
}

/// What was taken, with the calls that begin put together.
struct Sorted {
    begun: Vec<Came<Arc<crate::call::Call>>>,
    others: Vec<Event>,
    refused: Vec<Refused>,
    /// How many calls had ended before they could begin.
    gone: u64,
}

impl From<Taken> for Sorted {
    fn from(taken: Taken) -> Self {
        let mut begun: Vec<(_, Option<Box<Cut>>)> = Vec::new();
        let (mut others, mut gone) = (Vec::new(), 0);
        for event in taken.events {
            let (call, cut) = match event {
                Event::Begun(call) => (call, None),
                Event::Cut(call, cut) => (call, Some(cut)),
                other => {
                    others.push(other);
                    continue;
                }
            };
            if call.take() {
                begun.push((call, cut));
            } else {
                gone += 1;
            }
        }
        Self {
            begun: grouped(begun),
            others,
            refused: taken.refused,
            gone,
        }
    }
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
    module.add_class::<Call>()?;
    module.add_class::<Group>()
}
