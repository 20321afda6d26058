//! Broken rules become the errors that a GPU would give, and stick to their context.

use super::*;
use crate::error::Error;

/// Launches `reach`, and what the context says then.
fn reach(bench: &Bench, address: u64, offset: u64) -> u32 {
    let function = bench.function("reach");
    ok(launch(
        function,
        1,
        1,
        0,
        0,
        &[bytes(&address), bytes(&offset)],
    ));
    context::cuCtxSynchronize()
}

/// A context that has failed, thrown away with its error.
fn thrown_away(bench: Bench) {
    drop(bench);
}

#[test]
fn a_broken_rule_has_its_code() {
    for (offset, code) in [(64, Error::ILLEGAL_ADDRESS), (2, Error::MISALIGNED_ADDRESS)] {
        let bench = Bench::new();
        let words = bench.words(&[0; 16]);
        ok(reach(&bench, words, 60));
        assert_eq!(reach(&bench, words, offset), code.0);
        thrown_away(bench);
    }
    let bench = Bench::new();
    ok(launch(bench.function("stop"), 1, 1, 0, 0, &[]));
    assert_eq!(context::cuCtxSynchronize(), Error::LAUNCH_FAILED.0);
    thrown_away(bench);
}

#[test]
fn what_a_gpu_would_not_notice_is_found_too() {
    let bench = Bench::new();
    let mut address = 0u64;
    ok(memory::cuMemAlloc_v2(out(&mut address), 4));
    ok(launch(
        bench.function("read"),
        1,
        1,
        0,
        0,
        &[bytes(&address)],
    ));
    assert_eq!(context::cuCtxSynchronize(), Error::LAUNCH_FAILED.0);
    thrown_away(bench);
    // With a value there, all is well.
    let bench = Bench::new();
    let address = bench.words(&[0]);
    ok(launch(
        bench.function("read"),
        1,
        1,
        0,
        0,
        &[bytes(&address)],
    ));
    assert_eq!(bench.read(address), [1]);
}

#[test]
fn a_failure_sticks_to_its_context_and_to_no_other() {
    let sound = Bench::new();
    let words = sound.words(&[1]);
    let broken = Bench::new();
    let target = broken.words(&[1]);
    assert_eq!(reach(&broken, target, 1 << 40), Error::ILLEGAL_ADDRESS.0);
    let mut address = 0;
    for _ in 0..2 {
        assert_eq!(
            memory::cuMemAlloc_v2(out(&mut address), 4),
            Error::ILLEGAL_ADDRESS.0
        );
        assert_eq!(stream::cuStreamSynchronize(0), Error::ILLEGAL_ADDRESS.0);
    }
    ok(context::cuCtxPushCurrent_v2(sound.context));
    ok(sound.add(words, 1, 1, 0));
    assert_eq!(sound.read(words), [2]);
    ok(context::cuCtxPopCurrent_v2(nowhere()));
    thrown_away(broken);
}

#[test]
fn what_is_freed_in_order_cannot_be_used_after() {
    let bench = Bench::new();
    let stream = bench.stream(1);
    let mut address = 0;
    ok(memory::cuMemAllocAsync(out(&mut address), 4, stream));
    ok(copy::cuMemsetD32Async(address, 1, 1, stream));
    ok(bench.add(address, 1, 1, stream));
    ok(memory::cuMemFreeAsync(address, stream));
    ok(stream::cuStreamSynchronize(stream));

    ok(memory::cuMemAllocAsync(out(&mut address), 4, stream));
    ok(copy::cuMemsetD32Async(address, 1, 1, stream));
    ok(memory::cuMemFreeAsync(address, stream));
    ok(bench.add(address, 1, 1, stream));
    assert_eq!(
        stream::cuStreamSynchronize(stream),
        Error::ILLEGAL_ADDRESS.0
    );
    thrown_away(bench);
}

#[test]
fn without_a_context_nothing_can_be_done() {
    ok(version::cuInit(0));
    let mut address = 0;
    assert_eq!(
        memory::cuMemAlloc_v2(out(&mut address), 4),
        Error::INVALID_CONTEXT.0
    );
    assert_eq!(context::cuCtxSynchronize(), Error::INVALID_CONTEXT.0);
    assert_eq!(context::cuCtxSetCurrent(12_345), Error::INVALID_CONTEXT.0);
    let mut current = 1;
    ok(context::cuCtxGetCurrent(out(&mut current)));
    assert_eq!(current, 0);
}

#[test]
fn modules_that_cannot_be_loaded_say_why() {
    let bench = Bench::new();
    let load = |image: &str| {
        let image = CString::new(image).unwrap();
        let mut log = [0u8; 200];
        let mut values = [log.as_mut_ptr() as usize, log.len()];
        let (mut module, options) = (0, [5, 6]);
        let code = module::cuModuleLoadDataEx(
            out(&mut module),
            input(image.as_bytes_with_nul()),
            2,
            input(&options),
            out(&mut values).cast(),
        );
        let log = String::from_utf8_lossy(&log[..values[1] - 1]).into_owned();
        (code, log)
    };
    let (code, log) = load(".version 9.9\n.target sm_80\n.entry k() { ret; }");
    assert_eq!(code, Error::UNSUPPORTED_PTX_VERSION.0);
    assert!(log.contains("9.9") && log.contains("13.0"), "{log}");
    let (code, log) = load(".version 7.0\n.target sm_80\n.entry k() { ret }");
    assert_eq!(code, Error::INVALID_PTX.0);
    assert!(log.contains("line 3"), "{log}");
    let (code, log) = load(".version 7.8\n.target sm_90\n.entry k() { ret; }");
    assert_eq!(code, Error::INVALID_PTX.0);
    assert!(log.contains("sm_90"), "{log}");
    let (code, log) = load("\u{7f}ELF");
    assert_eq!(code, Error::NO_BINARY_FOR_GPU.0);
    assert!(log.contains("cubin"), "{log}");
    let mut module = 0;
    let code = module::cuModuleLoadData(out(&mut module), nothing());
    assert_eq!(code, Error::INVALID_VALUE.0);
    let code = module::cuModuleLoad(out(&mut module), text(c"/no/such/file"));
    assert_eq!(code, Error::FILE_NOT_FOUND.0);
    drop(bench);
}
