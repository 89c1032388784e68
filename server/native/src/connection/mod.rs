//! One connection: its first bytes, its age, and its end.

pub mod authority;
pub mod clock;
pub mod decided;
pub mod fault;
mod flood;
mod greeted;
pub mod greeting;
mod portions;
pub mod sending;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::server::tell_fault;
use crate::service::{serve, Thread};
use clock::Clock;
use decided::Decided;
use fault::contained;
use greeted::Greeted;
use greeting::Greeting;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame that callers may send, in bytes.
const MAX_FRAME_SIZE: u32 = 256 << 10;

/// Calls that a caller may have given up before any of them was looked at: where the machine was busy
/// for long, thousands of deadlines pass at once. `flood` bounds those who mean it.
const MAX_RESET_AT_ONCE: usize = 4096;

/// How connections are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections that there may be, in all threads together.
    pub max_connections: usize,
    /// Calls that a connection may have open.
    pub max_concurrent_streams: u32,
    /// The largest metadata of a call, in bytes.
    pub max_metadata_bytes: u32,
    /// After so long without a sign of life the caller is asked for one.
    pub keepalive_time: Duration,
    /// What the caller may take to give it.
    pub keepalive_timeout: Duration,
    /// After so long callers are asked to connect anew.
    pub max_age: Option<Duration>,
    /// What calls may take from then on; None: as long as they like.
    pub max_age_grace: Option<Duration>,
}

/// How far the server has come on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes calls.
    Serving,
    /// It takes calls, but has asked the callers that it had to go elsewhere.
    LameDuck,
    /// It takes no connections; calls under way may end.
    Draining,
    /// Calls that have not ended are ended.
    Ending,
    /// Everything ends.
    Over,
}

/// Runs the streams of connections in the thread that they belong to.
#[derive(Clone)]
struct Here(Rc<Decided>);

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future + Unpin + 'static,
{
    fn execute(&self, task: F) {
        self.0.begin(contained(sending::bounded(task), tell_fault));
    }
}

/// Serve a connection until it ends. `local`: whether the caller is on this machine.
pub async fn run<I>(
    mut io: I,
    local: bool,
    thread: Rc<Thread>,
    options: &Options,
    greeting: Greeting,
    mut phase: watch::Receiver<Phase>,
) where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let began_in = *phase.borrow();
    let mut preface = [0u8; PREFACE.len()];
    let read = tokio::select! {
        read = io.read_exact(&mut preface) => read,
        () = greeting.too_long() => return,
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
    };
    if read.is_err() || preface != *PREFACE {
        return;
    }
    drop(greeting);
    let here = Here(Rc::clone(&thread.decided));
    let service = service_fn(move |request| serve(&thread, local, request));
    let connection = builder(options, here).serve_connection(
        TokioIo::new(Greeted::new(io, PREFACE, MAX_FRAME_SIZE as usize)),
        service,
    );
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = after(options.max_age) => {}
        _ = phase.wait_for(|phase| *phase > began_in) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection.as_mut() => {}
        () = after(options.max_age_grace) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Over) => {}
    }
}

/// Wait so long; without a time, for ever.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

fn builder(options: &Options, here: Here) -> http2::Builder<Here> {
    let mut builder = http2::Builder::new(here);
    builder
        .timer(Clock::default())
        .auto_date_header(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(MAX_FRAME_SIZE)
        .max_send_buf_size(1 << 20)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_pending_accept_reset_streams(MAX_RESET_AT_ONCE)
        .max_header_list_size(options.max_metadata_bytes)
        .keep_alive_interval(options.keepalive_time)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}
