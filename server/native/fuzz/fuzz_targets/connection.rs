//! A connection survives whatever its caller sends, and nothing of it is left behind.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ladle_native::connection::greeting::Greetings;
use ladle_native::connection::{run, Options, Phase};
use ladle_native::limits::budget::Budget;
use ladle_native::limits::places::Places;
use ladle_native::limits::Limits;
use ladle_native::outbox::Outbox;
use ladle_native::queue::{Event, Gathered, Queue};
use ladle_native::receive::framed;
use ladle_native::service::{Kind, Registered, Shared, Thread};
use ladle_native::status::Status;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::{spawn_local, LocalSet};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PLACES: usize = 8;

fn shared(budget: &Arc<Budget>, gated: bool) -> Shared {
    let method = |number, kind| Registered {
        number,
        kind,
        has_own_room: false,
    };
    Shared {
        alike: Vec::new(),
        methods: HashMap::from([
            ("/a/B".to_owned(), method(0, Kind::Unary)),
            ("/a/S".to_owned(), method(1, Kind::Streaming)),
        ]),
        unary: Limits {
            max_request_bytes: 1 << 16,
            budget: Some(Arc::clone(budget)),
        },
        streaming: Limits {
            max_request_bytes: 1 << 16,
            budget: None,
        },
        gated,
        compressed: true,
        places: Places::new(PLACES),
        own_places: Places::new(PLACES),
        begun: AtomicU64::new(0),
    }
}

/// Answer as Python would: each message comes back.
fn answer(queue: &Queue) {
    let Some(taken) = queue.take(usize::MAX, Duration::ZERO) else {
        return;
    };
    for event in taken.events {
        match event {
            Event::Arrived(call) => {
                if call.take() {
                    call.admit();
                }
            }
            Event::Begun(call) | Event::Cut(call, _) if !call.take() => {}
            Event::Begun(call) if call.head.method == Some(1) => call.want_message(),
            Event::Begun(call) | Event::Cut(call, _) => {
                let request = call.take_request();
                drop(call.answer(framed(&request), Status::ok()));
            }
            Event::Message(call, Some(message)) => {
                call.send(framed(&message));
                call.want_idle();
            }
            Event::Message(call, None) => call.close(Status::ok()),
            Event::Sent(call) | Event::Idle(call) => call.want_message(),
            Event::Ended(call) => drop(call.take_callbacks()),
        }
    }
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (gated, size, sent) = input;
    let budget = Arc::new(Budget::new(1 << 17));
    let shared = Arc::new(shared(&budget, gated));
    let queue = Arc::new(Queue::default());
    let thread = Rc::new(Thread {
        shared: Arc::clone(&shared),
        gathered: Gathered::new(Arc::clone(&queue)),
        calls: RefCell::default(),
        decided: Rc::default(),
        outbox: Outbox::new(),
    });
    let options = Options {
        max_connections: 16,
        max_concurrent_streams: 16,
        max_metadata_bytes: 4096,
        keepalive_time: Duration::from_secs(60),
        keepalive_timeout: Duration::from_secs(20),
        max_age: None,
        max_age_grace: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let (_phase, phase) = watch::channel(Phase::Serving);
        let outbox = Arc::clone(&thread.outbox);
        spawn_local(async move { outbox.deliver().await });
        let decided = Rc::clone(&thread.decided);
        spawn_local(async move { decided.run().await });
        let (caller, server) = tokio::io::duplex(1 << 12);
        let (mut answers, mut requests) = tokio::io::split(caller);
        spawn_local(async move {
            let mut answer = [0; 4096];
            while answers.read(&mut answer).await.is_ok_and(|count| count > 0) {}
        });
        let serving = spawn_local({
            let thread = Rc::clone(&thread);
            let greeting = Greetings::default().begin();
            async move { run(server, true, thread, &options, greeting, phase).await }
        });
        let sending = async {
            let greeting = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
            let pieces = sent
                .chunks(usize::from(size).max(1))
                .map(Bytes::copy_from_slice);
            for piece in std::iter::once(Bytes::from(greeting)).chain(pieces) {
                if requests.write_all(&piece).await.is_err() {
                    return;
                }
                thread.gathered.flush();
                answer(&queue);
                tokio::task::yield_now().await;
            }
            let _ = requests.shutdown().await;
        };
        sending.await;
        for _ in 0..4 {
            thread.gathered.flush();
            answer(&queue);
            tokio::time::sleep(Duration::from_secs(120)).await;
        }
        drop(requests);
        serving.await.expect("a connection ends without a panic");
    });
    drop(tasks);
    thread.gathered.flush();
    answer(&queue);
    assert_eq!(budget.used(), 0, "bytes stay counted");
    assert_eq!(shared.places.taken(), 0, "places stay taken");
    assert!(thread.calls.borrow().is_empty());
});
