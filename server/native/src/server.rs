//! Network threads, each with connections of its own.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_local, yield_now, LocalSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::connection::fault::contained;
use crate::connection::greeting::Greetings;
use crate::connection::{self, clock, Options, Phase};
use crate::limits::Refusal;
use crate::outbox::Outbox;
use crate::queue::{Gathered, Queue};
use crate::service::{Shared, Thread};
use crate::status::Status;

/// Without a descriptor to be had, the next try to accept a connection comes after so long.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);
/// Threads that inflate large messages, beside each network thread.
const INFLATING: usize = 2;

/// Where connections come in.
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket; its callers are on this machine.
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves calls: it hands them over by its queue.
pub struct Server {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    options: Options,
    tls: Option<Arc<ServerConfig>>,
    threads: usize,
    listeners: Mutex<Vec<Listener>>,
    running: Mutex<Vec<JoinHandle<()>>>,
    phase: watch::Sender<Phase>,
    /// The status with which the server ends calls.
    ending: Arc<Mutex<Option<Status>>>,
    connections: Arc<Connections>,
    greetings: Greetings,
    /// The process whose threads these are: a fork copies none.
    process: AtomicU32,
}

#[derive(Default)]
struct Connections {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// A connection is counted for as long as this lives.
struct Counted(Arc<Connections>);

impl Counted {
    /// Count a connection in; None if there are `most` already.
    fn below(connections: &Arc<Connections>, most: usize) -> Option<Self> {
        let mut count = locked(&connections.count);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(connections)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *locked(&self.0.count) -= 1;
        self.0.fewer.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that listens nowhere yet, and has no thread.
    pub fn new(
        shared: Arc<Shared>,
        options: Options,
        tls: Option<Arc<ServerConfig>>,
        threads: usize,
    ) -> Self {
        Self {
            shared,
            queue: Arc::default(),
            options,
            tls,
            threads: threads.max(1),
            listeners: Mutex::default(),
            running: Mutex::default(),
            phase: watch::Sender::new(Phase::Serving),
            ending: Arc::default(),
            connections: Arc::default(),
            greetings: Greetings::default(),
            process: AtomicU32::default(),
        }
    }

    /// What its threads know.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Where calls are taken from.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        *locked(&self.connections.count)
    }

    /// Accept connections from here, once the server has started.
    pub fn listen(&self, listener: Listener) {
        locked(&self.listeners).push(listener);
    }

    /// Start the threads. A fork before that is harmless.
    ///
    /// Fails where the system has no threads or descriptors for them; then `close` ends those that
    /// have started.
    pub fn start(&self) -> io::Result<()> {
        self.process.store(std::process::id(), Ordering::Relaxed);
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..self.threads {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            receivers.push(receiver);
        }
        let mut listeners = std::mem::take(&mut *locked(&self.listeners));
        let mut running = locked(&self.running);
        for (number, receiver) in receivers.into_iter().enumerate() {
            let network = Network {
                shared: Arc::clone(&self.shared),
                queue: Arc::clone(&self.queue),
                options: self.options.clone(),
                tls: self.tls.clone(),
                phase: self.phase.subscribe(),
                ending: Arc::clone(&self.ending),
                connections: Arc::clone(&self.connections),
                greetings: self.greetings.clone(),
            };
            let runtime = runtime()?;
            // The first accepts connections for all of them.
            let accepting = std::mem::take(&mut listeners);
            let others = if number == 0 {
                std::mem::take(&mut senders)
            } else {
                Vec::new()
            };
            let thread = std::thread::Builder::new().name(format!("network-{number}"));
            running.push(thread.spawn(move || network.run(runtime, accepting, others, receiver))?);
        }
        Ok(())
    }

    /// Go on to a phase, unless the server is there or further.
    pub fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = next > *phase;
            *phase = next.max(*phase);
            is_later
        });
    }

    /// Wait until there are no connections, at most so long; returns whether there are none.
    pub fn wait_until_left(&self, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        let mut count = locked(&self.connections.count);
        while *count > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.connections.fewer.wait_timeout(count, left);
            count = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// End all calls that there are with a status.
    pub fn end_calls(&self, status: Status) {
        *locked(&self.ending) = Some(status);
        self.enter(Phase::Ending);
    }

    /// End everything; calls that are still there are cut off.
    ///
    /// In a forked process nothing is done: it has no thread of these, and all else is its parent's.
    pub fn close(&self) {
        let process = self.process.load(Ordering::Relaxed);
        if process != 0 && process != std::process::id() {
            if let Ok(mut running) = self.running.try_lock() {
                running.drain(..).for_each(std::mem::forget);
            }
            return;
        }
        self.enter(Phase::Over);
        for thread in std::mem::take(&mut *locked(&self.running)) {
            // A thread that panicked has nothing any more that could be ended.
            drop(thread.join());
        }
        self.queue.close();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

thread_local! {
    static HERE: RefCell<Option<Rc<Thread>>> = const { RefCell::new(None) };
}

/// Have Python log the panic that has ended a task of this thread's.
pub fn tell_fault(panic: String) {
    HERE.with(|here| {
        if let Some(thread) = &*here.borrow() {
            thread.gathered.refused(Refusal::fault(panic));
        }
    });
}

/// Hand over what has gathered, as the thread has nothing else to do.
fn flush() {
    HERE.with(|here| {
        if let Some(thread) = &*here.borrow() {
            thread.gathered.flush();
        }
    });
}

#[derive(Clone)]
struct Network {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    options: Options,
    tls: Option<Arc<ServerConfig>>,
    phase: watch::Receiver<Phase>,
    ending: Arc<Mutex<Option<Status>>>,
    connections: Arc<Connections>,
    greetings: Greetings,
}

/// What runs a thread's tasks.
fn runtime() -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(INFLATING)
        .thread_keep_alive(Duration::MAX)
        .on_thread_park(flush)
        .build()?;
    // Later ones wait for this thread where there can be no other. The first that is wanted and
    // can't be had panics.
    std::panic::catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(|| ())))
        .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "no thread can be had"))?;
    Ok(runtime)
}

impl Network {
    fn run(
        self,
        runtime: Runtime,
        listeners: Vec<Listener>,
        others: Vec<mpsc::UnboundedSender<Accepted>>,
        receiver: mpsc::UnboundedReceiver<Accepted>,
    ) {
        let thread = Rc::new(Thread {
            shared: Arc::clone(&self.shared),
            gathered: Gathered::new(Arc::clone(&self.queue)),
            calls: RefCell::default(),
            decided: Rc::default(),
            outbox: Outbox::new(),
        });
        HERE.with(|here| *here.borrow_mut() = Some(Rc::clone(&thread)));
        let tasks = LocalSet::new();
        let serving = self.serve(Rc::clone(&thread), listeners, others, receiver);
        let mut serving = Box::pin(tasks.run_until(serving));
        runtime.block_on(poll_fn(|context| {
            clock::turn();
            thread.gathered.turn();
            serving.as_mut().poll(context)
        }));
        drop(serving);
        drop(tasks); // ends all calls
        thread.decided.clear();
        thread.gathered.flush();
        HERE.with(|here| *here.borrow_mut() = None);
        runtime.shutdown_background();
    }

    async fn serve(
        mut self,
        thread: Rc<Thread>,
        listeners: Vec<Listener>,
        others: Vec<mpsc::UnboundedSender<Accepted>>,
        mut receiver: mpsc::UnboundedReceiver<Accepted>,
    ) {
        let live = Rc::clone(&thread);
        let outbox = Arc::clone(&thread.outbox);
        spawn_local(async move { outbox.deliver().await });
        let decided = Rc::clone(&thread.decided);
        spawn_local(async move { decided.run().await });
        let others = Rc::new(others);
        let next = Rc::new(Cell::new(0));
        for listener in listeners {
            let (others, next, phase) = (Rc::clone(&others), Rc::clone(&next), self.phase.clone());
            spawn_local(async move {
                if let Err(error) = accept(listener, &others, &next, phase).await {
                    eprintln!("ladle: an address is lost: {error}");
                }
            });
        }
        let network = self.clone();
        spawn_local(async move {
            while let Some(accepted) = receiver.recv().await {
                let (network, thread) = (network.clone(), Rc::clone(&thread));
                let most = network.options.max_connections;
                let Some(counted) = Counted::below(&network.connections, most) else {
                    // It is closed, as gRPC's own server does it: callers read UNAVAILABLE. Who
                    // heard GOAWAY would connect anew until its deadline.
                    thread.gathered.refused(Refusal::connections(most));
                    continue;
                };
                spawn_local(async move {
                    contained(Box::pin(network.connected(accepted, thread)), tell_fault).await;
                    drop(counted);
                });
            }
        });
        // An error says that the server itself is gone.
        drop(self.phase.wait_for(|phase| *phase >= Phase::Ending).await);
        if let Some(status) = locked(&self.ending).clone() {
            for call in live
                .calls
                .borrow()
                .iter()
                .filter_map(|(_, call)| call.upgrade())
            {
                call.close(status.clone());
            }
        }
        drop(self.phase.wait_for(|phase| *phase == Phase::Over).await);
    }

    async fn connected(self, accepted: Accepted, thread: Rc<Thread>) {
        match accepted {
            Accepted::Tcp(stream) => {
                let local = stream
                    .peer_addr()
                    .is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
                if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
                    self.greet(stream, local, thread).await;
                }
            }
            Accepted::Unix(stream) => {
                if let Ok(stream) = tokio::net::UnixStream::from_std(stream) {
                    self.greet(stream, true, thread).await;
                }
            }
        }
    }

    async fn greet<I>(self, io: I, local: bool, thread: Rc<Thread>)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let greeting = self.greetings.begin();
        let Some(tls) = self.tls else {
            return connection::run(io, local, thread, &self.options, greeting, self.phase).await;
        };
        let mut phase = self.phase.clone();
        let io = tokio::select! {
            io = TlsAcceptor::from(tls).accept(io) => io,
            () = greeting.too_long() => return,
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
        };
        if let Ok(io) = io {
            connection::run(io, local, thread, &self.options, greeting, self.phase).await;
        }
    }
}

async fn accept(
    listener: Listener,
    others: &[mpsc::UnboundedSender<Accepted>],
    next: &Cell<usize>,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    enum Open {
        Tcp(tokio::net::TcpListener),
        Unix(tokio::net::UnixListener),
    }
    let open = match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            Open::Tcp(tokio::net::TcpListener::from_std(listener)?)
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            Open::Unix(tokio::net::UnixListener::from_std(listener)?)
        }
    };
    loop {
        let connected = async {
            match &open {
                Open::Tcp(listener) => {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    stream.into_std().map(Accepted::Tcp)
                }
                Open::Unix(listener) => {
                    let (stream, _) = listener.accept().await?;
                    stream.into_std().map(Accepted::Unix)
                }
            }
        };
        let accepted = tokio::select! {
            accepted = connected => accepted,
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return Ok(()),
        };
        match accepted {
            Ok(accepted) => {
                let turn = (next.get() + 1) % others.len().max(1);
                next.set(turn);
                if let Some(thread) = others.get(turn) {
                    // Fails where the thread has ended, and then the connection ends with it.
                    drop(thread.send(accepted));
                }
                yield_now().await; // those that there are have their turn
            }
            // The caller has gone already, or there is no descriptor for it.
            Err(_) => sleep(NO_DESCRIPTOR).await,
        }
    }
}
