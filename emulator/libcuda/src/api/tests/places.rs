//! Memory of the device and of the host, and copies between them.

use super::*;
use crate::api::{device, pointer};
use crate::error::Error;

#[test]
fn kernels_use_page_locked_and_managed_memory_at_the_hosts_address() {
    let bench = Bench::new();
    let (mut pinned, mut managed) = (0, 0);
    ok(memory::cuMemHostAlloc(out(&mut pinned), 12, 2));
    ok(memory::cuMemAllocManaged(out(&mut managed), 12, 1));
    for address in [pinned as u64, managed] {
        let words = |values: [u32; 3]| values.map(u32::to_le_bytes).concat();
        crate::host::write(address as usize, &words([1, 2, 3]));
        ok(bench.add(address, 2, 10, 0));
        ok(context::cuCtxSynchronize());
        let seen = crate::host::copy_of(address as usize, 12);
        assert_eq!(seen, words([11, 12, 3]));
    }
    ok(memory::cuMemFreeHost(pinned));
    assert_eq!(
        memory::cuMemFreeHost(managed as usize),
        Error::INVALID_VALUE.0
    );
    ok(memory::cuMemFree_v2(managed));
}

#[test]
fn memory_of_the_programs_own_can_be_registered_once() {
    let bench = Bench::new();
    let mut own = vec![1u32; 100];
    let address = own.as_mut_ptr() as usize;
    ok(memory::cuMemHostRegister_v2(address, 400, 2));
    let again = memory::cuMemHostRegister_v2(address + 8, 8, 0);
    assert_eq!(again, Error::HOST_MEMORY_ALREADY_REGISTERED.0);
    let mut seen = 0;
    ok(memory::cuMemHostGetDevicePointer_v2(
        out(&mut seen),
        address,
        0,
    ));
    ok(bench.add(seen, 32, 1, 0));
    ok(context::cuCtxSynchronize());
    assert_eq!(crate::host::copy_of(address, 4), [2, 0, 0, 0]);
    ok(memory::cuMemHostUnregister(address));
    assert_eq!(
        memory::cuMemHostUnregister(address),
        Error::HOST_MEMORY_NOT_REGISTERED.0
    );
    drop(own);
}

#[test]
fn copies_end_where_their_memory_does() {
    let bench = Bench::new();
    let words = bench.words(&[1, 2, 3, 4]);
    let mut back = [0u32; 8];
    let there = back.as_mut_ptr() as usize;
    assert_eq!(
        copy::cuMemcpyDtoH_v2(there, words, 17),
        Error::INVALID_VALUE.0
    );
    assert_eq!(
        copy::cuMemcpyDtoH_v2(there, words + 4, 16),
        Error::INVALID_VALUE.0
    );
    assert_eq!(copy::cuMemsetD32_v2(words, 0, 5), Error::INVALID_VALUE.0);
    assert_eq!(
        copy::cuMemsetD32_v2(words + 2, 0, 1),
        Error::INVALID_VALUE.0,
        "misaligned"
    );
    assert_eq!(
        copy::cuMemcpyHtoD_v2(there as u64, words as usize, 4),
        Error::INVALID_VALUE.0
    );
    ok(copy::cuMemcpyDtoH_v2(there, words, 16));
    assert_eq!(back[..4], [1, 2, 3, 4]);
    // Whichever side is where: the address says.
    ok(copy::cuMemcpy(words + 8, words, 8));
    ok(copy::cuMemcpy(there as u64, words, 16));
    assert_eq!(back[..4], [1, 2, 1, 2]);
    ok(copy::cuMemsetD16_v2(words, 0x0102, 2));
    assert_eq!(bench.read(words), [0x0102_0102, 2]);
    ok(memory::cuMemFree_v2(words));
    assert_eq!(memory::cuMemFree_v2(words), Error::INVALID_VALUE.0);
}

#[test]
fn rows_are_copied_with_their_pitches() {
    let bench = Bench::new();
    let (mut address, mut pitch) = (0, 0);
    ok(memory::cuMemAllocPitch_v2(
        out(&mut address),
        out(&mut pitch),
        12,
        2,
        4,
    ));
    assert_eq!(pitch, 512);
    ok(copy::cuMemsetD2D32_v2(address, pitch, 9, 3, 2));
    let source = [1u32, 2, 3, 4];
    // Two rows of two words, to the second column.
    let mut there = [0usize; 16];
    (there[2], there[3], there[6]) = (1, source.as_ptr() as usize, 8);
    (there[7], there[9], there[11], there[13]) = (4, 2, address as usize, pitch);
    (there[14], there[15]) = (8, 2);
    ok(copy::cuMemcpy2D_v2(input(&there).cast()));
    assert_eq!(bench.read(address), [9, 1, 2]);
    assert_eq!(bench.read(address + 512), [9, 3, 4]);
    there[13] = 4;
    assert_eq!(
        copy::cuMemcpy2D_v2(input(&there).cast()),
        Error::INVALID_VALUE.0,
        "pitch below width"
    );
}

#[test]
fn pointers_are_known() {
    let bench = Bench::new();
    let words = bench.words(&[1, 2]);
    let ask = |attribute: u32, address: u64| {
        let mut value = 0u64;
        let code = pointer::cuPointerGetAttribute(out(&mut value), attribute, address);
        (code, value)
    };
    assert_eq!(ask(1, words + 4), (0, bench.context as u64));
    assert_eq!(ask(2, words), (0, 2));
    assert_eq!(ask(9, words), (0, 0));
    assert_eq!(ask(11, words + 4), (0, words));
    assert_eq!(ask(12, words + 4), (0, 8));
    assert_eq!(ask(1, words + 8).0, Error::INVALID_VALUE.0);
    let (mut base, mut size) = (0, 0);
    ok(memory::cuMemGetAddressRange_v2(
        out(&mut base),
        out(&mut size),
        words + 7,
    ));
    assert_eq!((base, size), (words, 8));
}

#[test]
fn the_device_says_that_it_is_emulated() {
    let bench = Bench::new();
    let mut name = [0u8; 64];
    ok(device::cuDeviceGetName(out(&mut name).cast(), 64, 0));
    assert!(name.starts_with(b"Emulated A100"));
    let mut short = [1u8; 4];
    ok(device::cuDeviceGetName(out(&mut short).cast(), 4, 0));
    assert_eq!(&short, b"Emu\0");
    let ask = |attribute: u32, ordinal: i32| {
        let mut value = -1;
        let code = device::cuDeviceGetAttribute(out(&mut value), attribute, ordinal);
        (code, value)
    };
    assert_eq!((ask(75, 0), ask(76, 0)), ((0, 8), (0, 0)));
    assert_eq!(
        (ask(10, 0), ask(97, 0), ask(16, 0)),
        ((0, 32), (0, 163 << 10), (0, 108))
    );
    assert_eq!(ask(1, 1).0, Error::INVALID_DEVICE.0);
    assert_eq!(ask(9999, 0).0, Error::INVALID_VALUE.0);
    let (mut free, mut total) = (0, 0);
    ok(memory::cuMemGetInfo_v2(out(&mut free), out(&mut total)));
    assert!(total == 80 << 30 && free <= total);
    let mut address = 0;
    assert_eq!(
        memory::cuMemAlloc_v2(out(&mut address), total + 1),
        Error::OUT_OF_MEMORY.0
    );
    drop(bench);
}
