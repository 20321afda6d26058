//! Capture: what is recorded, and what spoils it.

use super::*;
use crate::api::{event, graph};
use crate::error::Error;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

fn begin(stream: Handle, mode: u32) {
    ok(stream::cuStreamBeginCapture_v2(stream, mode));
}

fn end(stream: Handle) -> (u32, Handle) {
    let mut graph = 1;
    let code = stream::cuStreamEndCapture(stream, out(&mut graph));
    (code, graph)
}

fn status(stream: Handle) -> u32 {
    let mut status = 9;
    ok(stream::cuStreamIsCapturing(stream, out(&mut status)));
    status
}

fn new_event() -> Handle {
    let mut handle = 0;
    ok(event::cuEventCreate(out(&mut handle), 2));
    handle
}

#[test]
fn what_is_captured_is_done_at_each_launch() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let words = bench.words(&[1]);
    begin(stream, GLOBAL);
    assert_eq!(status(stream), 1);
    ok(bench.add(words, 1, 1, stream));
    ok(bench.add(words, 1, 10, stream));
    let (code, graph) = end(stream);
    ok(code);
    assert_eq!(status(stream), 0);
    assert_eq!(bench.read(words), [1], "nothing was done yet");
    let (mut exec, mut count) = (0, 0);
    ok(graph::cuGraphGetNodes(graph, nowhere(), out(&mut count)));
    assert_eq!(count, 2);
    ok(graph::cuGraphInstantiateWithFlags(out(&mut exec), graph, 0));
    ok(graph::cuGraphDestroy(graph));
    for _ in 0..2 {
        ok(graph::cuGraphLaunch(exec, stream));
    }
    ok(stream::cuStreamSynchronize(stream));
    assert_eq!(bench.read(words), [23]);
    ok(graph::cuGraphExecDestroy(exec));
    assert_eq!(graph::cuGraphLaunch(exec, stream), Error::INVALID_HANDLE.0);
}

#[test]
fn other_streams_take_part_through_events_and_have_to_be_joined() {
    let bench = Bench::new();
    for joined in [true, false] {
        let (first, second) = (bench.stream(1), bench.stream(1));
        let (fork, join) = (new_event(), new_event());
        let words = bench.words(&[1]);
        begin(first, GLOBAL);
        ok(event::cuEventRecord(fork, first));
        ok(stream::cuStreamWaitEvent(second, fork, 0));
        assert_eq!(status(second), 1);
        ok(bench.add(words, 1, 1, second));
        ok(event::cuEventRecord(join, second));
        assert_eq!(
            event::cuEventElapsedTime(nowhere(), join, join),
            Error::INVALID_HANDLE.0
        );
        if joined {
            ok(stream::cuStreamWaitEvent(first, join, 0));
            assert_eq!(end(first).0, 0);
        } else {
            assert_eq!(end(first), (Error::STREAM_CAPTURE_UNJOINED.0, 0));
        }
        assert_eq!((status(first), status(second)), (0, 0));
    }
}

#[test]
fn a_forbidden_call_invalidates_the_capture() {
    let bench = Bench::new();
    let words = bench.words(&[1]);
    let captured = new_event();
    type Call<'a> = (&'a str, Error, Box<dyn Fn(Handle) -> u32 + 'a>);
    let forbidden: Vec<Call<'_>> = vec![
        (
            "wait",
            Error::STREAM_CAPTURE_UNSUPPORTED,
            Box::new(|s| stream::cuStreamSynchronize(s)),
        ),
        (
            "ask",
            Error::STREAM_CAPTURE_UNSUPPORTED,
            Box::new(|s| stream::cuStreamQuery(s)),
        ),
        (
            "wait for all",
            Error::STREAM_CAPTURE_UNSUPPORTED,
            Box::new(|_| context::cuCtxSynchronize()),
        ),
        (
            "allocate",
            Error::STREAM_CAPTURE_UNSUPPORTED,
            Box::new(|_| {
                let mut address = 0;
                memory::cuMemAlloc_v2(out(&mut address), 4)
            }),
        ),
        (
            "free",
            Error::STREAM_CAPTURE_UNSUPPORTED,
            Box::new(|_| memory::cuMemFree_v2(words)),
        ),
        (
            "copy and wait",
            Error::STREAM_CAPTURE_IMPLICIT,
            Box::new(|_| copy::cuMemcpyDtoD_v2(words, words, 4)),
        ),
        (
            "use the legacy stream",
            Error::STREAM_CAPTURE_IMPLICIT,
            Box::new(|_| bench.add(words, 1, 1, 0)),
        ),
        (
            "wait for a captured event",
            Error::CAPTURED_EVENT,
            Box::new(|s| {
                ok(event::cuEventRecord(captured, s));
                event::cuEventSynchronize(captured)
            }),
        ),
        (
            "depend on what is not captured",
            Error::STREAM_CAPTURE_ISOLATION,
            Box::new(|s| stream::cuStreamWaitEvent(s, new_event(), 0)),
        ),
    ];
    for (what, error, call) in forbidden {
        let stream = bench.stream(0);
        begin(stream, GLOBAL);
        ok(bench.add(words, 1, 1, stream));
        assert_eq!(call(stream), error.0, "{what}");
        assert_eq!(status(stream), 2, "{what}");
        let code = bench.add(words, 1, 1, stream);
        assert_eq!(code, Error::STREAM_CAPTURE_INVALIDATED.0, "{what}");
        assert_eq!(
            end(stream),
            (Error::STREAM_CAPTURE_INVALIDATED.0, 0),
            "{what}"
        );
        assert_eq!(status(stream), 0, "{what}");
        ok(stream::cuStreamSynchronize(stream));
    }
}

#[test]
fn asking_the_legacy_stream_leaves_a_capture_as_it_is() {
    let bench = Bench::new();
    let stream = bench.stream(0);
    begin(stream, GLOBAL);
    let mut answer = 0;
    let code = stream::cuStreamIsCapturing(0, out(&mut answer));
    assert_eq!(code, Error::STREAM_CAPTURE_IMPLICIT.0);
    assert_eq!(end(stream).0, 0);
}

#[test]
fn modes_say_whose_calls_are_forbidden() {
    let allocate = || {
        let mut address = 0;
        memory::cuMemAlloc_v2(out(&mut address), 4)
    };
    for (mode, here, elsewhere) in [
        (GLOBAL, false, false),
        (THREAD_LOCAL, false, true),
        (RELAXED, true, true),
    ] {
        for on_another_thread in [false, true] {
            let bench = Bench::new();
            let stream = bench.stream(1);
            let context = bench.context;
            begin(stream, mode);
            let code = match on_another_thread {
                false => allocate(),
                true => std::thread::spawn(move || {
                    ok(context::cuCtxSetCurrent(context));
                    allocate()
                })
                .join()
                .unwrap(),
            };
            let allowed = if on_another_thread { elsewhere } else { here };
            assert_eq!(code == 0, allowed, "mode {mode}, {on_another_thread}");
            assert_eq!(end(stream).0 == 0, allowed);
        }
    }
}

#[test]
fn captures_end_where_they_began() {
    let bench = Bench::new();
    let (first, second) = (bench.stream(1), bench.stream(1));
    assert_eq!(end(first).0, Error::ILLEGAL_STATE.0);
    assert_eq!(
        stream::cuStreamBeginCapture_v2(0, 0),
        Error::STREAM_CAPTURE_UNSUPPORTED.0
    );
    let fork = new_event();
    begin(first, THREAD_LOCAL);
    ok(event::cuEventRecord(fork, first));
    ok(stream::cuStreamWaitEvent(second, fork, 0));
    let context = bench.context;
    let other = std::thread::spawn(move || {
        ok(context::cuCtxSetCurrent(context));
        end(first).0
    });
    assert_eq!(other.join().unwrap(), Error::STREAM_CAPTURE_WRONG_THREAD.0);
    assert_eq!(end(second).0, Error::STREAM_CAPTURE_UNMATCHED.0);
    assert_eq!(end(first).0, Error::STREAM_CAPTURE_INVALIDATED.0);

    // Two captures cannot become one.
    let met = new_event();
    begin(first, THREAD_LOCAL);
    begin(second, THREAD_LOCAL);
    ok(event::cuEventRecord(met, first));
    assert_eq!(
        stream::cuStreamWaitEvent(second, met, 0),
        Error::STREAM_CAPTURE_MERGE.0
    );
    assert_eq!(end(first).0, Error::STREAM_CAPTURE_INVALIDATED.0);
    assert_eq!(end(second).0, Error::STREAM_CAPTURE_INVALIDATED.0);
}
