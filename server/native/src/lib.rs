//! gRPC over HTTP/2 for ladle, which knows nothing of models.
//!
//! Network threads have the connections and never Python's lock. What happens gathers in each of
//! them, and comes into one [`queue::Queue`] as lists; Python's thread takes all of it in one
//! call. Answers go back by the [`outbox::Outbox`] of the thread that has the call.
//!
//! ```text
//! server ── connection ── service ──┬── receive ── inflate
//!    │                       │      └── respond
//!    └── tls                call ───┬── queue   (to Python)
//!                                   └── outbox  (from Python)
//! ```
//!
//! A panic ends the task that it is in, a call or a connection, and Python logs it ([`connection::fault`]).

pub mod call;
pub mod connection;
#[cfg(feature = "python")]
mod descriptors;
pub mod limits;
pub mod outbox;
#[cfg(feature = "python")]
mod python;
pub mod queue;
pub mod receive;
pub mod respond;
pub mod server;
pub mod service;
pub mod status;
pub mod sync;
pub mod timeout;
pub mod tls;
