//! The exported functions as a C program calls them, each test in a context of its own.

mod capture;
mod faults;
mod launches;
mod lookup;
mod ordering;
mod places;

use std::cell::Cell;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::testing::{input, nothing, nowhere, out, text};
use crate::api::{context, copy, launch, memory, module, stream, version};
use crate::driver::Handle;

/// `add(p, n, x)` adds `x` to the first `n` words; `reach(p, offset)` stores a word at an offset in
/// bytes; `big` has dynamic shared memory; `stop` traps; `read(p)` decides by a word.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .b32 counter[2] = {5, 6};
.extern .shared .align 16 .b8 room[];
.visible .entry add(.param .u64 p, .param .u32 n, .param .u32 x) {
    .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p;
    ld.param.u64 %rd1, [p];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [x];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p, %r6, %r1;
    @%p bra done;
    mul.wide.u32 %rd2, %r6, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r7, [%rd3];
    add.u32 %r7, %r7, %r2;
    st.global.u32 [%rd3], %r7;
done:
    ret;
}
.visible .entry reach(.param .u64 p, .param .u64 offset) {
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [p];
    ld.param.u64 %rd2, [offset];
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], 7;
    ret;
}
.visible .entry big() {
    .reg .b32 %r1;
    mov.u32 %r1, room;
    st.shared.u32 [%r1], 1;
    ret;
}
.visible .entry stop() { trap; }
.visible .entry read(.param .u64 p) {
    .reg .b32 %r1; .reg .b64 %rd1; .reg .pred %p;
    ld.param.u64 %rd1, [p];
    ld.global.u32 %r1, [%rd1];
    setp.eq.u32 %p, %r1, 0;
    @%p st.global.u32 [%rd1], 1;
    ret;
}
"#;

/// Calls, and expects success.
#[track_caller]
fn ok(code: u32) {
    assert_eq!(code, 0, "{}", crate::error::Error(code));
}

/// Tests take turns: a capture concerns calls of all threads.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether it is this thread's turn.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// A context with the module loaded, destroyed at the end.
struct Bench {
    context: Handle,
    module: Handle,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Bench {
    fn new() -> Bench {
        let wait = || TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (!HELD.replace(true)).then(wait);
        ok(version::cuInit(0));
        let (mut context, mut module) = (0, 0);
        ok(context::cuCtxCreate_v2(out(&mut context), 0, 0));
        let ptx = CString::new(PTX).unwrap();
        let image = input(ptx.as_bytes_with_nul());
        ok(module::cuModuleLoadData(out(&mut module), image));
        Bench {
            context,
            module,
            turn,
        }
    }

    fn function(&self, name: &str) -> Handle {
        let (mut function, name) = (0, CString::new(name).unwrap());
        ok(module::cuModuleGetFunction(
            out(&mut function),
            self.module,
            text(&name),
        ));
        function
    }

    /// Words on the device.
    fn words(&self, values: &[u32]) -> u64 {
        let mut address = 0;
        ok(memory::cuMemAlloc_v2(
            out(&mut address),
            size_of_val(values),
        ));
        ok(copy::cuMemcpyHtoD_v2(
            address,
            values.as_ptr() as usize,
            size_of_val(values),
        ));
        address
    }

    fn read<const N: usize>(&self, address: u64) -> [u32; N] {
        let mut values = [0; N];
        ok(copy::cuMemcpyDtoH_v2(
            values.as_mut_ptr() as usize,
            address,
            4 * N,
        ));
        values
    }

    fn stream(&self, flags: u32) -> Handle {
        let mut handle = 0;
        ok(stream::cuStreamCreate(out(&mut handle), flags));
        handle
    }

    /// Adds `x` to `n` words.
    fn add(&self, address: u64, n: u32, x: u32, stream: Handle) -> u32 {
        let function = self.function("add");
        launch(
            function,
            1,
            32,
            0,
            stream,
            &[bytes(&address), bytes(&n), bytes(&x)],
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.turn.is_some() {
            HELD.set(false);
        }
        let destroyed = context::cuCtxDestroy_v2(self.context);
        if !std::thread::panicking() {
            ok(destroyed);
        }
    }
}

fn bytes<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

/// Launches blocks of a number of threads; `params` are where the parameters lie.
fn launch(
    function: Handle,
    blocks: u32,
    threads: u32,
    shared: u32,
    stream: Handle,
    params: &[usize],
) -> u32 {
    let params = params.as_ptr() as usize;
    launch::cuLaunchKernel(
        function, blocks, 1, 1, threads, 1, 1, shared, stream, params, 0,
    )
}
