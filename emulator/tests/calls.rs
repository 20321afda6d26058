//! Functions: expanded in place, called while they run, and called through pointers; `printf`.

mod common;

use common::{Shape, launch};
use ptx_emulator::{Config, Emulator, Kind, LaunchError};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A module of functions, and the kernel `k` with this body.
fn module(functions: &str, body: &str) -> String {
    let kernel = common::module(body);
    let kernel = kernel.split_once(".visible").expect("a kernel").1;
    format!("{HEAD}{functions}\n.visible{kernel}")
}

fn words(functions: &str, body: &str, shape: &Shape) -> Vec<u32> {
    let run = launch(&module(functions, body), shape, &[0; 256]);
    run.unwrap_or_else(|error| panic!("{error}")).words()
}

/// Each lane's place in `out`, and its number in `%r0`.
const LANE: &str = "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %out, %d0;";

/// n + (n - 1) + .. by recursion, where `n` is kept in a register and in local memory over the call.
const SUM: &str = "
.func (.param .b32 result) sum(.param .b32 n)
{
    .local .align 4 .b8 depot[4];
    .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
    ld.param.u32 %r1, [n];
    mov.u64 %rd1, depot;
    st.local.u32 [%rd1], %r1;
    setp.eq.u32 %p1, %r1, 0;
    mov.u32 %r2, 0;
    @%p1 bra DONE;
    sub.u32 %r3, %r1, 1;
    {
        .param .b32 argument; .param .b32 value;
        st.param.b32 [argument], %r3;
        call.uni (value), sum, (argument);
        ld.param.b32 %r4, [value];
    }
    ld.local.u32 %r5, [depot];
    add.u32 %r2, %r4, %r1;
    sub.u32 %r6, %r5, %r1;
    add.u32 %r2, %r2, %r6;
DONE:
    st.param.b32 [result], %r2;
    ret;
}";

const CALL_SUM: &str = "and.b32 %r1, %r0, 15;
    { .param .b32 a; .param .b32 v; st.param.b32 [a], %r1; call (v), sum, (a); ld.param.b32 %r2, [v]; }
    st.global.u32 [%d1], %r2;";

#[test]
fn recursion_to_another_depth_in_each_lane() {
    for seed in 0..4 {
        let shape = Shape::threads(64).seed(seed);
        let got = words(SUM, &format!("{LANE} {CALL_SUM}"), &shape);
        let expected = |lane: u32| (lane % 16) * (lane % 16 + 1) / 2;
        assert_eq!(got, (0..64).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn endless_recursion_ends_the_stack() {
    let body = format!("{LANE} {CALL_SUM}").replace("and.b32 %r1, %r0, 15", "mov.u32 %r1, 100000");
    let error = launch(&module(SUM, &body), &Shape::threads(32), &[]).err();
    let Some(LaunchError::Violation(violation)) = error else {
        panic!("the stack has no end");
    };
    let text = violation.to_string();
    assert!(text.contains("stack overflow: sum at depth"), "{text}");
    // With a larger stack, the same program comes through.
    let mut shape = Shape::threads(32);
    let body = body.replace("100000", "100");
    shape.config.stack = 64 << 10;
    assert_eq!(words(SUM, &body, &shape)[3], 5050);
}

#[test]
fn a_frame_is_fresh_in_every_call() {
    // The register and the variable were written by the call before, but not by this one.
    let functions = "
        .func (.param .b32 result) f(.param .b32 n)
        {
            .local .b32 v; .reg .pred %p; .reg .b32 %r<6>;
            ld.param.u32 %r1, [n];
            setp.ne.u32 %p, %r1, 0;
            @%p mov.u32 %r2, %r1;
            @%p st.local.u32 [v], %r1;
            ld.local.u32 %r3, [v];
            add.u32 %r3, %r3, %r2;
            st.param.b32 [result], %r3;
            { .param .b32 a; .param .b32 r; .reg .pred %q; setp.eq.u32 %q, %r1, 77;
              st.param.b32 [a], %r1; @%q call (r), f, (a); }
            ret;
        }";
    let call = |n: u32, to: &str| {
        format!(
            "{{ .param .b32 a; .param .b32 v; st.param.b32 [a], {n}; call (v), f, (a);
             ld.param.b32 {to}, [v]; }}"
        )
    };
    let body = format!(
        "{LANE} {} {} st.global.u32 [%d1], %r2; setp.eq.u32 %p0, %r3, 0; @%p0 st.global.u32 [%d1], %r3;",
        call(5, "%r2"),
        call(0, "%r3")
    );
    let result = launch(&module(functions, &body), &Shape::threads(32), &[]);
    let Err(LaunchError::Violation(violation)) = result else {
        panic!("what the first call left is seen by the second");
    };
    assert!(
        matches!(violation.kind, Kind::Uninitialised { .. }),
        "{violation}"
    );
}

const OPERATIONS: &str = "
.func (.param .b32 r) add1(.param .b32 a) { .reg .b32 %x; ld.param.u32 %x, [a]; add.u32 %x, %x, 1; st.param.b32 [r], %x; ret; }
.func (.param .b32 r) twice(.param .b32 a) { .reg .b32 %x; ld.param.u32 %x, [a]; add.u32 %x, %x, %x; st.param.b32 [r], %x; ret; }
.func (.param .b32 r) other(.param .b64 a) { .reg .b32 %x; mov.u32 %x, 0; st.param.b32 [r], %x; ret; }
.global .align 8 .u64 table[2] = {add1, generic(twice)};
";

/// Calls what `%d5` points to with the lane's number.
fn call_pointer(list: &str) -> String {
    format!(
        "{{ .param .b32 a; .param .b32 v; st.param.b32 [a], %r0; call (v), %d5, (a), {list};
         ld.param.b32 %r2, [v]; }} st.global.u32 [%d1], %r2;"
    )
}

#[test]
fn calls_through_pointers_from_memory_and_registers() {
    let expected: Vec<u32> = (0..64)
        .map(|n| if n % 2 == 0 { n + 1 } else { 2 * n })
        .collect();
    let from_memory = "and.b32 %r1, %r0, 1; mul.wide.u32 %d2, %r1, 8; mov.u64 %d3, table;
        add.u64 %d3, %d3, %d2; ld.global.u64 %d5, [%d3];";
    let from_code =
        "and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; mov.u64 %d5, twice; @%p0 mov.u64 %d5, add1;";
    let prototype = "P: .callprototype (.param .b32 _) _ (.param .b32 _);";
    let targets = "T: .calltargets add1, twice;";
    for load in [from_memory, from_code] {
        for (declaration, list) in [(prototype, "P"), (targets, "T"), ("", "table")] {
            let body = format!("{LANE} {load} {declaration} {}", call_pointer(list));
            assert_eq!(
                words(OPERATIONS, &body, &Shape::threads(64)),
                expected,
                "{list}"
            );
        }
    }
}

#[test]
fn pointers_that_point_to_no_function_or_another_one() {
    let prototype = "P: .callprototype (.param .b32 _) _ (.param .b32 _);";
    for (load, message) in [
        ("mov.u64 %d5, %out;", "where no function is"),
        ("mov.u64 %d5, other;", "which has other parameters"),
    ] {
        let body = format!("{LANE} {load} {prototype} {}", call_pointer("P"));
        let error = launch(&module(OPERATIONS, &body), &Shape::threads(32), &[]).err();
        let text = error.expect("a violation").to_string();
        assert!(text.contains(message), "{text}");
    }
    // A list that does not name the function.
    let body = format!(
        "{LANE} mov.u64 %d5, twice; T: .calltargets add1; {}",
        call_pointer("T")
    );
    assert!(launch(&module(OPERATIONS, &body), &Shape::threads(32), &[]).is_err());
    // Its address is no data.
    let body = format!(
        "{LANE} mov.u64 %d5, twice; ld.global.u32 %r1, [%d5]; st.global.u32 [%out], %r1;
        setp.eq.u32 %p0, %r1, 0; @%p0 trap;"
    );
    assert!(launch(&module(OPERATIONS, &body), &Shape::threads(32), &[]).is_err());
}

#[test]
fn parameters_in_registers_and_constants() {
    let functions = "
        .func (.reg .b32 r) mix(.reg .b32 a, .reg .f32 b) { .reg .b32 %x; cvt.rzi.u32.f32 %x, b; mad.lo.u32 r, a, 10, %x; ret; }
        .func (.reg .b32 r) down(.reg .b32 n) { .reg .pred %p; .reg .b32 %t; setp.eq.u32 %p, n, 0; mov.u32 r, 0; @%p ret;
            sub.u32 %t, n, 1; call (%t), down, (%t); add.u32 r, %t, 2; ret; }";
    let body = format!(
        "{LANE} call (%r2), mix, (%r0, 0f40400000); call (%r3), down, (%r0); add.u32 %r2, %r2, %r3;
         setp.lt.u32 %p0, %r0, 2; @%p0 call (%r2), mix, (7, 0f3F800000); st.global.u32 [%d1], %r2;"
    );
    let expected = |n: u32| if n < 2 { 71 } else { 10 * n + 3 + 2 * n };
    let got = words(functions, &body, &Shape::threads(32));
    assert_eq!(got, (0..32).map(expected).collect::<Vec<_>>());
}

#[test]
fn functions_see_the_modules_shared_memory() {
    let functions = ".shared .align 4 .b8 box[128];
        .func put(.param .b32 n) { .reg .b32 %r<4>; ld.param.u32 %r1, [n]; mov.u32 %r2, box; shl.b32 %r3, %r1, 2;
            add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r1; ret; }";
    let body = format!(
        "{LANE} {{ .param .b32 a; st.param.b32 [a], %r0; call put, (a); }} bar.warp.sync -1;
         mov.u32 %r1, box; sub.u32 %r2, 31, %r0; shl.b32 %r2, %r2, 2; add.u32 %r1, %r1, %r2;
         ld.shared.u32 %r3, [%r1]; st.global.u32 [%d1], %r3;"
    );
    let got = words(functions, &body, &Shape::threads(32));
    assert_eq!(got, (0..32).rev().collect::<Vec<_>>());
}

const PRINT: &str = "
.extern .func (.param .b32 func_retval0) vprintf (.param .b64 a, .param .b64 b);
.global .align 1 .b8 text[16] = {108, 97, 110, 101, 32, 37, 100, 58, 32, 37, 103, 10, 0};
";

const CALL_PRINT: &str = "
    .local .align 8 .b8 arguments[16];
    cvt.rn.f64.u32 %fd0, %r0; mul.f64 %fd0, %fd0, 0d3FE0000000000000;
    st.local.u32 [arguments], %r0; st.local.f64 [arguments+8], %fd0;
    mov.u64 %d2, text; cvta.global.u64 %d2, %d2; mov.u64 %d3, arguments; cvta.local.u64 %d3, %d3;
    { .param .b64 p0; st.param.b64 [p0], %d2; .param .b64 p1; st.param.b64 [p1], %d3; .param .b32 r0;
      call.uni (r0), vprintf, (p0, p1); ld.param.b32 %r5, [r0]; }
    st.global.u32 [%d1], %r5;";

#[test]
fn printf_is_captured_in_the_order_of_blocks() {
    let body = format!(
        ".reg .f64 %fd0; {LANE} mov.u32 %r1, %ctaid.x; mul.wide.u32 %d0, %r1, 128; add.u64 %d1, %d1, %d0; setp.lt.u32 %p0, %r0, 2; @!%p0 ret; {CALL_PRINT}"
    );
    let mut shape = Shape::threads(32).blocks(3);
    shape.config.threads = 2;
    let mut seen = Vec::new();
    for seed in 0..6 {
        let run = launch(&module(PRINT, &body), &shape.clone().seed(seed), &[]).unwrap();
        assert_eq!(run.words()[..2], [2, 2], "the number of arguments");
        let mut lines: Vec<&str> = run.stats.output.lines().collect();
        seen.push(lines.clone().join("|"));
        lines.sort_unstable();
        assert_eq!(
            lines,
            ["lane 0: 0"; 3]
                .into_iter()
                .chain(["lane 1: 0.5"; 3])
                .collect::<Vec<_>>()
        );
    }
    // The order of a warp's lanes is the hardware's business.
    assert!(seen.iter().any(|order| *order != seen[0]), "{seen:?}");
}

#[test]
fn printf_wants_its_arguments_initialised() {
    let body = format!(".reg .f64 %fd0; {LANE} {CALL_PRINT}")
        .replace("st.local.u32 [arguments], %r0;", "");
    let error = launch(&module(PRINT, &body), &Shape::threads(32), &[]).err();
    let text = error.expect("a violation").to_string();
    assert!(text.contains("an argument of printf"), "{text}");
}

#[test]
fn assertions_name_their_file_and_line() {
    let functions = "
        .extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
        .global .align 1 .b8 what[8] = {110, 32, 60, 32, 52, 0};
        .global .align 1 .b8 file[8] = {97, 46, 99, 117, 0};
        .func check(.param .b32 n) {
            .reg .b64 %d<4>; .reg .b32 %r<2>;
            mov.u64 %d0, what; cvta.global.u64 %d0, %d0; mov.u64 %d1, file; cvta.global.u64 %d1, %d1;
            { .param .b64 p0; st.param.b64 [p0], %d0; .param .b64 p1; st.param.b64 [p1], %d1; .param .b32 p2;
              st.param.b32 [p2], 17; .param .b64 p3; st.param.b64 [p3], 0; .param .b64 p4; st.param.b64 [p4], 1;
              call.uni __assertfail, (p0, p1, p2, p3, p4); }
            ret; }
        .global .u64 pointer[1] = {check};";
    // Once expanded in place, once with a frame of its own.
    let direct = "{ .param .b32 a; st.param.b32 [a], 5; call check, (a); }";
    let indirect = "ld.global.u64 %d5, [pointer]; P: .callprototype _ (.param .b32 _);
        { .param .b32 a; st.param.b32 [a], 5; call %d5, (a), P; }";
    for call in [direct, indirect] {
        let error = launch(&module(functions, call), &Shape::threads(32), &[]).err();
        let text = error.expect("a violation").to_string();
        assert!(text.contains("assertion failed: n < 4 (a.cu:17)"), "{text}");
    }
}

#[test]
fn calls_that_cannot_be_bound() {
    let refused = |functions: &str, body: &str| {
        let device = Emulator::new(Config::default());
        let loaded = device.load(&module(functions, body));
        match loaded.and_then(|module| module.kernel("k")) {
            Ok(_) => panic!("{body} was accepted"),
            Err(error) => error.to_string(),
        }
    };
    for (body, message) in [
        ("call nowhere;", "no such function"),
        ("call (%r0), add1;", "another number of parameters"),
        ("call.wide add1;", "unknown or unsupported modifier: `wide`"),
        ("call %d0;", "needs a list or a prototype"),
        (
            "call %d0, (%r0), %r1;",
            "neither a list of functions nor a prototype",
        ),
        (
            "P: .callprototype _ (.param .b32 _); call %d0, P;",
            "another number of parameters",
        ),
        (
            "T: .calltargets gone; call (%r0), %d0, (%r1), T;",
            "no such function",
        ),
    ] {
        let error = refused(OPERATIONS, body);
        assert!(error.contains(message), "{body}: {error}");
    }
}

#[test]
fn an_expanded_functions_registers_are_new_in_every_call() {
    // It keeps a sum in a register that only its first call sets.
    let function = |first: &str| {
        format!(
            ".func (.param .b32 result) keep(.param .b32 n)
             {{ .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<4>; ld.param.u32 %r1, [n]; setp.ne.u32 %p1, %r1, 0; {first}
                mov.u32 %r9, 1; add.u32 %r2, %r2, %r9; add.u64 %rd1, %rd1, 1; cvt.u32.u64 %r3, %rd1; add.u32 %r3, %r3, %r2;
                LOOP: setp.gt.u32 %p2, %r3, 1000; @%p2 bra LOOP; @%p3 add.u32 %r3, %r3, 1;
                st.param.b32 [result], %r3; ret; }}"
        )
    };
    let body = format!(
        "{LANE} mov.u32 %r1, 0;
         L: {{ .param .b32 a; .param .b32 v; st.param.b32 [a], %r1; call (v), keep, (a); ld.param.b32 %r2, [v]; }}
         add.u32 %r1, %r1, 1; setp.lt.u32 %p0, %r1, 3; @%p0 bra L; st.global.u32 [%d1], %r2;"
    );
    let set = "mov.u32 %r2, 4; mov.u64 %rd1, 7; setp.ne.u32 %p3, %r1, %r1;";
    let guarded = set
        .replace("mov.", "@!%p1 mov.")
        .replace("setp.ne.u32 %p3", "@!%p1 setp.ne.u32 %p3");
    let shape = Shape::threads(32);
    assert_eq!(words(&function(set), &body, &shape), [13; 32]);
    // Any one of them that is not set is missed: by the branch, or by the guard.
    for kept in ["mov.u32 %r2", "mov.u64 %rd1", "setp.ne.u32 %p3"] {
        let first = set.replace(kept, &format!("@!%p1 {kept}"));
        match launch(&module(&function(&first), &body), &shape, &[]) {
            Err(LaunchError::Violation(violation)) => {
                let uninitialised = matches!(violation.kind, Kind::Uninitialised { .. });
                assert!(uninitialised, "{kept}: {violation}");
            }
            other => panic!("{kept}: {:?}", other.err()),
        }
    }
    // It may be called in one iteration only, or twice in a row.
    let once = body.replace("%r1, 3;", "%r1, 1;");
    assert_eq!(words(&function(&guarded), &once, &shape), [13; 32]);
}

#[test]
fn alloca_takes_memory_until_its_function_ends() {
    // `fill` writes `n` words to memory that it takes, adds them up, and is called in a loop; what the
    // kernel has taken itself stays.
    let function = ".func (.param .b64 result) fill(.param .b32 n)
        { .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
          ld.param.u32 %r1, [n]; mul.wide.u32 %rd1, %r1, 4; alloca.u64 %rd2, %rd1, 64; and.b64 %rd3, %rd2, 63; mov.u64 %rd4, %rd2; mov.u32 %r2, 0;
          W: setp.ge.u32 %p1, %r2, %r1; @%p1 bra R; st.local.u32 [%rd4], %r2; add.u64 %rd4, %rd4, 4; add.u32 %r2, %r2, 1; bra W;
          R: setp.eq.u64 %p1, %rd4, %rd2; @%p1 bra E; sub.u64 %rd4, %rd4, 4; ld.local.u32 %r3, [%rd4]; cvt.u64.u32 %rd5, %r3; add.u64 %rd3, %rd3, %rd5; bra R;
          E: st.param.b64 [result], %rd3; ret; }";
    let body = format!(
        "{LANE} add.u32 %r1, %r0, 1; cvt.u64.u32 %d2, %r1; alloca.u64 %d3, %d2; cvta.local.u64 %d4, %d3; mov.u32 %r9, 7; st.u8 [%d4], %r9; mov.u32 %r3, 0; mov.u32 %r4, 0;
         L: {{ .param .b32 a; .param .b64 v; st.param.b32 [a], %r3; call (v), fill, (a); ld.param.b64 %d5, [v]; }}
         cvt.u32.u64 %r5, %d5; add.u32 %r4, %r4, %r5; add.u32 %r3, %r3, 1; setp.lt.u32 %p0, %r3, 40; @%p0 bra L;
         ld.local.u8 %r6, [%d3]; add.u32 %r4, %r4, %r6; st.global.u32 [%d1], %r4;"
    );
    let shape = Shape::threads(32);
    let total: u32 = (0..40u32).map(|n| n * n.saturating_sub(1) / 2).sum();
    assert_eq!(words(function, &body, &shape), [total + 7; 32]);
    // Forty calls that keep it would need more than there is.
    let mut small = shape.clone();
    small.config.stack = 512;
    assert_eq!(words(function, &body, &small), [total + 7; 32]);
    small.config.stack = 192;
    let error = launch(&module(function, &body), &small, &[]).err();
    assert!(
        format!("{error:?}").contains("stack overflow: alloca of"),
        "{error:?}"
    );
}

#[test]
fn the_stack_can_be_saved_and_restored() {
    let body = |restore: &str| {
        format!(
            "{LANE} stacksave.u32 %r1; alloca.u32 %r2, 8; mov.u32 %r9, 5; st.local.u32 [%r2], %r9; st.local.u32 [%r2+4], %r0; stacksave.u32 %r3;
             {restore} alloca.u32 %r4, 16, 16; sub.u32 %r5, %r4, %r2; ld.local.u32 %r6, [%r2+4]; st.global.u32 [%d1], %r5;"
        )
    };
    // Aligned to 16, it comes behind the first one or takes its place.
    let shape = Shape::threads(32);
    assert_eq!(words("", &body(""), &shape), [16; 32]);
    assert_eq!(words("", &body("stackrestore.u32 %r3;"), &shape), [16; 32]);
    assert_eq!(words("", &body("stackrestore.u32 %r1;"), &shape), [0; 32]);
    let used = body("stackrestore.u32 %r1;").replace(
        "ld.local.u32 %r6, [%r2+4];",
        "ld.local.u32 %r6, [%r2+4]; setp.eq.u32 %p1, %r6, 0; @%p1 bra X; X:",
    );
    for (text, part) in [
        (used, "uninitialised"),
        (
            body("add.u32 %r1, %r3, 64; stackrestore.u32 %r1;"),
            "no stack pointer",
        ),
        (
            body("sub.u32 %r1, %r1, 64; stackrestore.u32 %r1;"),
            "no stack pointer",
        ),
        (
            body("stackrestore.u32 %r7;"),
            "the stack pointer is uninitialised",
        ),
        (
            body("alloca.u32 %r2, %r7;"),
            "the size of an allocation is uninitialised",
        ),
    ] {
        let error = launch(&module("", &text), &shape, &[])
            .err()
            .map(|error| error.to_string());
        assert!(
            error.as_ref().is_some_and(|error| error.contains(part)),
            "{part}: {error:?}"
        );
    }
    for wrong in [
        "alloca.u64 %d2, 8, 3;",
        "alloca.u64 %d2, 8, 16777216;",
        "alloca.u64 %d2, 8, 0;",
    ] {
        let device = Emulator::new(Config::default());
        let module = device.load(&module("", wrong)).unwrap();
        assert!(module.kernel("k").is_err(), "{wrong}");
    }
}
