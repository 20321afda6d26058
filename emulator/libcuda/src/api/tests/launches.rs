//! Launches: parameters, limits, attributes, variables, occupancy.

use super::*;
use crate::error::Error;

#[test]
fn parameters_come_by_pointers_or_in_one_buffer() {
    let bench = Bench::new();
    let words = bench.words(&[1, 2, 3]);
    ok(bench.add(words, 2, 10, 0));
    assert_eq!(bench.read(words), [11, 12, 3]);

    #[repr(C)]
    struct Packed(u64, u32, u32);
    let (packed, size) = (Packed(words, 3, 100), size_of::<Packed>());
    let extra = [1, bytes(&packed), 2, bytes(&size), 0, 0];
    let function = bench.function("add");
    let list = extra.as_ptr() as usize;
    ok(launch::cuLaunchKernel(
        function, 1, 1, 1, 32, 1, 1, 0, 0, 0, list,
    ));
    assert_eq!(bench.read(words), [111, 112, 103]);
    // Too small a buffer, and no parameters at all.
    let small = [1, bytes(&packed), 2, bytes(&8usize), 0, 0];
    let list = small.as_ptr() as usize;
    let code = launch::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, 0, list);
    assert_eq!(code, Error::INVALID_VALUE.0);
    let code = launch::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, 0, 0);
    assert_eq!(code, Error::INVALID_VALUE.0);
}

#[test]
fn shapes_beyond_the_device_are_refused_and_leave_the_context_alone() {
    let bench = Bench::new();
    let words = bench.words(&[1]);
    let function = bench.function("add");
    let (n, x) = (1u32, 1u32);
    let params = [bytes(&words), bytes(&n), bytes(&x)];
    for (blocks, threads) in [(0, 1), (1, 0), (1, 1025), (1 << 31, 1)] {
        let code = launch(function, blocks, threads, 0, 0, &params);
        assert_eq!(code, Error::INVALID_VALUE.0, "{blocks} x {threads}");
    }
    assert_eq!(
        launch(function + 1, 1, 1, 0, 0, &params),
        Error::INVALID_HANDLE.0
    );
    ok(launch(function, 1, 1024, 0, 0, &params));
    assert_eq!(bench.read(words), [2]);
}

#[test]
fn more_shared_memory_has_to_be_asked_for() {
    const MAX_DYNAMIC: u32 = 8;
    let bench = Bench::new();
    let big = bench.function("big");
    ok(launch(big, 1, 1, 48 << 10, 0, &[]));
    assert_eq!(
        launch(big, 1, 1, (48 << 10) + 1, 0, &[]),
        Error::INVALID_VALUE.0
    );
    let most = 163 << 10;
    let code = module::cuFuncSetAttribute(big, MAX_DYNAMIC, most + 1);
    assert_eq!(code, Error::INVALID_VALUE.0);
    ok(module::cuFuncSetAttribute(big, MAX_DYNAMIC, most));
    ok(launch(big, 1, 1, most as u32, 0, &[]));
    ok(context::cuCtxSynchronize());
    let mut value = 0;
    ok(module::cuFuncGetAttribute(
        out(&mut value),
        MAX_DYNAMIC,
        big,
    ));
    assert_eq!(value, most);
}

#[test]
fn variables_have_their_initial_values_and_end_with_their_module() {
    let bench = Bench::new();
    let (mut address, mut size) = (0, 0);
    let name = c"counter";
    let (place, bytes) = (out(&mut address), out(&mut size));
    ok(module::cuModuleGetGlobal_v2(
        place,
        bytes,
        bench.module,
        text(name),
    ));
    assert_eq!(size, 8);
    assert_eq!(bench.read(address), [5, 6]);
    let code =
        module::cuModuleGetGlobal_v2(out(&mut address), nowhere(), bench.module, text(c"no"));
    assert_eq!(code, Error::NOT_FOUND.0);
    let mut function = 0;
    let code = module::cuModuleGetFunction(out(&mut function), bench.module, text(c"no"));
    assert_eq!(code, Error::NOT_FOUND.0);
    assert_eq!(
        memory::cuMemFree_v2(address),
        Error::INVALID_VALUE.0,
        "not allocated by the program"
    );
    ok(module::cuModuleUnload(bench.module));
    let mut word = 0u32;
    let code = copy::cuMemcpyDtoH_v2(&raw mut word as usize, address, 4);
    assert_eq!(code, Error::INVALID_VALUE.0);
}

#[test]
fn occupancy_follows_from_threads_and_shared_memory() {
    let bench = Bench::new();
    let big = bench.function("big");
    let blocks = |threads: i32, shared: usize| {
        let mut count = -1;
        ok(launch::cuOccupancyMaxActiveBlocksPerMultiprocessor(
            out(&mut count),
            big,
            threads,
            shared,
        ));
        count
    };
    // Of A100: 2048 threads, 32 blocks and 164 KiB, of which each block costs one more.
    assert_eq!(blocks(1024, 0), 2);
    assert_eq!(blocks(32, 0), 32);
    assert_eq!(blocks(128, 40 << 10), 4);
    let (mut grid, mut block) = (0, 0);
    let (places, none) = ((out(&mut grid), out(&mut block)), None);
    ok(launch::cuOccupancyMaxPotentialBlockSize(
        places.0, places.1, big, none, 0, 0,
    ));
    assert_eq!((grid, block), (216, 1024));
}
