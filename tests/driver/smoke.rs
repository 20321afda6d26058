//! Each entry once through each backend, against the reference.

use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::{DType, catalog};

use crate::common::{AnyCase, Lengths};
use crate::{BACKENDS, emulated};

#[test]
fn every_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let lean = |entry: &&catalog::Entry| entry.variant == "lean";
        for (seed, entry) in catalog::ENTRIES.iter().filter(lean).enumerate() {
            assert_eq!(
                entry.kernel, "prefill",
                "a new kernel wants a smoke case here"
            );
            let dtype = match entry.dtype {
                "f16" => DType::F16,
                _ => DType::BF16,
            };
            let heads = HeadShape {
                query: 3,
                kv: 1,
                dim: entry.head_dim as usize,
            };
            let lengths = Lengths::same(&[37, 0, 70]);
            let case = AnyCase::random(seed as u64, dtype, heads, &lengths);
            case.check(&device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}
