//! Streams and events: what is ordered is so under every schedule, and what is not shows.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::api::event;
use crate::error::Error;

/// Enough repetitions that an order left open shows both ways.
const ROUNDS: usize = 40;

#[test]
fn work_waits_until_somebody_does() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let words = bench.words(&[1]);
    let mut pinned = 0;
    ok(memory::cuMemAllocHost_v2(out(&mut pinned), 4));
    let now = || {
        let mut word = [0; 4];
        crate::host::read(pinned, &mut word);
        u32::from_le_bytes(word)
    };
    ok(bench.add(words, 1, 1, stream));
    ok(copy::cuMemcpyDtoHAsync_v2(pinned, words, 4, stream));
    assert_eq!(now(), 0, "a program that reads now forgot to wait");
    ok(stream::cuStreamSynchronize(stream));
    assert_eq!(now(), 2);
    // Polling gets there as well.
    ok(bench.add(words, 1, 1, stream));
    while stream::cuStreamQuery(stream) == Error::NOT_READY.0 {}
    assert_eq!(bench.read(words), [3]);
}

/// Two streams write one word; the later value if `ordered`.
fn two_writers(bench: &Bench, flags: u32, ordered: bool) -> u32 {
    let word = bench.words(&[0]);
    let (first, second) = (bench.stream(flags), bench.stream(flags));
    let mut done = 0;
    ok(event::cuEventCreate(out(&mut done), 2));
    ok(copy::cuMemsetD32Async(word, 1, 1, first));
    ok(event::cuEventRecord(done, first));
    if ordered {
        ok(stream::cuStreamWaitEvent(second, done, 0));
    }
    ok(copy::cuMemsetD32Async(word, 2, 1, second));
    ok(context::cuCtxSynchronize());
    let [word] = bench.read(word);
    ok(stream::cuStreamDestroy_v2(first));
    ok(stream::cuStreamDestroy_v2(second));
    ok(event::cuEventDestroy_v2(done));
    word
}

#[test]
fn an_event_orders_two_streams_and_nothing_else_does() {
    let bench = Bench::new();
    assert!((0..ROUNDS).all(|_| two_writers(&bench, 1, true) == 2));
    assert!(
        (0..ROUNDS).any(|_| two_writers(&bench, 1, false) == 1),
        "the forgotten wait shows"
    );
    assert!(
        (0..ROUNDS).any(|_| two_writers(&bench, 0, false) == 1),
        "also for blocking streams"
    );
}

/// The legacy stream writes between two writes of another one.
fn around_legacy(bench: &Bench, flags: u32) -> [u32; 2] {
    let words = bench.words(&[0, 0]);
    let stream = bench.stream(flags);
    ok(copy::cuMemsetD32Async(words, 1, 1, stream));
    ok(copy::cuMemsetD32Async(words, 2, 2, 0));
    ok(copy::cuMemsetD32Async(words + 4, 3, 1, stream));
    ok(context::cuCtxSynchronize());
    ok(stream::cuStreamDestroy_v2(stream));
    bench.read(words)
}

#[test]
fn the_legacy_stream_is_ordered_with_blocking_streams_only() {
    let bench = Bench::new();
    assert!((0..ROUNDS).all(|_| around_legacy(&bench, 0) == [2, 3]));
    assert!((0..ROUNDS).any(|_| around_legacy(&bench, 1) != [2, 3]));
}

#[test]
fn the_threads_own_default_stream_is_another_one_in_each_thread() {
    let bench = Bench::new();
    let mut ids = [0; 3];
    ok(stream::cuStreamGetId(0, out(&mut ids[0])));
    ok(stream::cuStreamGetId_ptsz(0, out(&mut ids[1])));
    let context = bench.context;
    ids[2] = std::thread::spawn(move || {
        let mut id = 0;
        ok(context::cuCtxSetCurrent(context));
        ok(stream::cuStreamGetId(2, out(&mut id)));
        id
    })
    .join()
    .unwrap();
    assert!(
        ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2],
        "{ids:?}"
    );
    let mut again = 0;
    ok(stream::cuStreamGetId(2, out(&mut again)));
    assert_eq!(again, ids[1]);
}

static CALLED: AtomicU32 = AtomicU32::new(0);

/// Notes what the driver says to a call from within a stream.
extern "C" fn note(_: usize) {
    let mut free = 0;
    CALLED.store(memory::cuMemGetInfo_v2(out(&mut free), nowhere()), Relaxed);
}

#[test]
fn functions_in_a_stream_may_not_call_the_driver() {
    let bench = Bench::new();
    ok(stream::cuLaunchHostFunc(0, Some(note), 0));
    assert_eq!(CALLED.load(Relaxed), 0);
    ok(stream::cuStreamSynchronize(0));
    assert_eq!(CALLED.load(Relaxed), Error::NOT_PERMITTED.0);
    drop(bench);
}

/// Waits for a message.
extern "C" fn receive(receiver: usize) {
    // SAFETY: Leaked by the test, for this call alone.
    let receiver = unsafe { Box::from_raw(receiver as *mut std::sync::mpsc::Receiver<()>) };
    receiver.recv().unwrap();
}

#[test]
fn functions_in_a_stream_may_wait_for_the_thread_that_asks_after_them() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    let receiver = Box::into_raw(Box::new(receiver)) as usize;
    ok(stream::cuLaunchHostFunc(stream, Some(receive), receiver));
    for _ in 0..3 {
        assert_eq!(stream::cuStreamQuery(stream), Error::NOT_READY.0);
    }
    sender.send(()).unwrap();
    ok(stream::cuStreamSynchronize(stream));
    ok(stream::cuStreamQuery(stream));
    drop(bench);
}

#[test]
fn events_tell_when_they_are_reached() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let (mut start, mut end, mut untimed) = (0, 0, 0);
    ok(event::cuEventCreate(out(&mut start), 0));
    ok(event::cuEventCreate(out(&mut end), 0));
    ok(event::cuEventCreate(out(&mut untimed), 2));
    ok(event::cuEventQuery(start));
    let mut time = -1.0;
    let code = event::cuEventElapsedTime(out(&mut time), start, end);
    assert_eq!(code, Error::INVALID_HANDLE.0, "never recorded");
    ok(event::cuEventRecord(start, stream));
    let word = bench.words(&[1]);
    ok(bench.add(word, 1, 1, stream));
    ok(event::cuEventRecord(end, stream));
    ok(event::cuEventRecord(untimed, stream));
    ok(event::cuEventSynchronize(end));
    ok(event::cuEventElapsedTime(out(&mut time), start, end));
    assert!(time > 0.0);
    ok(event::cuEventSynchronize(untimed));
    let code = event::cuEventElapsedTime(out(&mut time), start, untimed);
    assert_eq!(code, Error::INVALID_HANDLE.0, "made without time");
}
