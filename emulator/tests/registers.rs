//! Vector registers, registers of 128 bits, and what they can do.

mod common;

use common::{Shape, bytes, launch, module};

const LANE: &str = "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 16; add.u64 %d1, %in, %d0; add.u64 %d2, %out, %d0;";

fn words(body: &str) -> Vec<u32> {
    let input: Vec<u32> = (0..128).map(|n| 1000 + n).collect();
    let text = module(body).replace(".version 7.8", ".version 8.3");
    let run = launch(&text, &Shape::threads(32).out(512), &bytes(&input));
    run.unwrap_or_else(|error| panic!("{error}")).words()
}

#[test]
fn elements_of_vectors() {
    let got = words(&format!(
        "{LANE} .reg .v4 .b32 v; .reg .v2 .b32 w;
         ld.global.v4.b32 v, [%d1];
         mov.b32 w.x, v.w; mov.b32 w.y, v.x;
         add.u32 v.y, v.r, v.g; mov.b64 %d3, w; mov.b64 {{v.x, v.w}}, %d3;
         st.global.v4.b32 [%d2], v;"
    ));
    for lane in 0..32u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n| 1000 + 4 * lane + n);
        assert_eq!(got[4 * lane as usize..][..4], [d, a + b, c, a]);
    }
}

#[test]
fn registers_of_128_bits() {
    let got = words(&format!(
        "{LANE} .reg .b128 q; .reg .b128 %q<2>;
         ld.global.b128 q, [%d1]; mov.b128 %q1, q; mov.b128 {{%d3, %d4}}, %q1;
         mov.b128 %q0, {{%d4, %d3}}; st.global.b128 [%d2], %q0;"
    ));
    for lane in 0..32u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n| 1000 + 4 * lane + n);
        assert_eq!(got[4 * lane as usize..][..4], [c, d, a, b]);
    }
}

#[test]
fn what_they_cannot_do() {
    let refused = |body: &str| {
        let device = ptx_emulator::Emulator::new(ptx_emulator::Config::default());
        let loaded = device.load(&module(body).replace(".version 7.8", ".version 8.3"));
        loaded
            .and_then(|module| module.kernel("k"))
            .err()
            .expect(body)
            .to_string()
    };
    for (body, message) in [
        (".reg .v4 .b32 v; mov.b32 %r0, v.q;", "v.q"),
        (".reg .v2 .b32 v; mov.b32 %r0, v.z;", "v.z"),
        (".reg .v4 .b32 v; add.u32 %r0, v, 1;", "operand 2"),
        (".reg .b128 q; add.b128 q, q, q;", "b128"),
        (".reg .b128 q; atom.global.exch.b128 q, [%out], q;", "b128"),
        (".reg .b128 q; ld.global.v2.b128 {q, q}, [%out];", "b128"),
        (".reg .v3 .b32 v;", ".v3"),
    ] {
        let error = refused(body);
        assert!(error.contains(message), "{body}: {error}");
    }
}
