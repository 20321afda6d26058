//! How many blocks a multiprocessor holds at once, and what keeps it from holding more.

use std::fmt;

use super::Gpu;

/// What a block needs of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockResources {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread. PTX does not have this figure; `ptxas -v` and the driver do. `None`
    /// leaves registers out.
    pub registers: Option<u32>,
    /// Shared memory in bytes, static and dynamic together.
    pub shared: u32,
}

/// Something that a multiprocessor has only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Places for blocks.
    Blocks,
    /// Places for warps.
    Warps,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

/// How full a multiprocessor gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// Blocks that it holds at once; 0 if not even one fits.
    pub blocks: u32,
    /// Warps of these blocks.
    pub warps: u32,
    /// Warps that it could hold.
    pub most_warps: u32,
    /// How many blocks each resource would allow, the scarcest first. What the caller does not know
    /// is not listed.
    pub limits: Vec<(Resource, u32)>,
}

impl Occupancy {
    /// The part of the places for warps that are taken.
    pub fn fraction(&self) -> f64 {
        f64::from(self.warps) / f64::from(self.most_warps.max(1))
    }

    /// The resources that keep another block out.
    pub fn limited_by(&self) -> impl Iterator<Item = Resource> {
        let scarcest = self.limits.iter().filter(|(_, most)| *most == self.blocks);
        scarcest.map(|(resource, _)| *resource)
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<String> = self.limited_by().map(|by| by.to_string()).collect();
        write!(
            f,
            "{} blocks per SM, {} of {} warps ({:.0} %), limited by {}",
            self.blocks,
            self.warps,
            self.most_warps,
            100.0 * self.fraction(),
            by.join(" and ")
        )
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Blocks => "blocks",
            Resource::Warps => "warps",
            Resource::Registers => "registers",
            Resource::Shared => "shared memory",
        })
    }
}

impl Gpu {
    /// How many blocks of this kind a multiprocessor holds at once, by the rules of the CUDA
    /// occupancy calculator.
    pub fn occupancy(&self, block: &BlockResources) -> Occupancy {
        let warps = block.threads.div_ceil(32).max(1);
        let mut limits = vec![
            (Resource::Warps, self.warps_per_sm() / warps),
            (Resource::Blocks, self.blocks_per_sm),
        ];
        if let Some(registers) = block.registers {
            limits.push((
                Resource::Registers,
                self.blocks_by_registers(warps, registers),
            ));
        }
        let shared = block.shared.saturating_add(self.shared_reserved);
        let blocks = match shared.next_multiple_of(self.shared_unit) {
            _ if block.shared > self.shared_per_block => 0,
            0 => u32::MAX,
            shared => self.shared_per_sm / shared,
        };
        if blocks != u32::MAX {
            limits.push((Resource::Shared, blocks));
        }
        limits.sort_by_key(|(_, blocks)| *blocks);
        let blocks = limits.first().map_or(0, |(_, blocks)| *blocks);
        Occupancy {
            blocks,
            warps: blocks * warps,
            most_warps: self.warps_per_sm(),
            limits,
        }
    }

    fn blocks_by_registers(&self, warps: u32, registers: u32) -> u32 {
        if registers > self.registers_per_thread {
            return 0;
        }
        let per_warp = (32 * registers.max(1)).next_multiple_of(self.register_unit);
        // Warps get registers in groups, both of the block and of the multiprocessor.
        let whole = |registers: u32| registers / per_warp / self.warp_unit * self.warp_unit;
        if warps > whole(self.registers_per_block) {
            return 0;
        }
        whole(self.registers_per_sm) / warps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(threads: u32, registers: u32, shared: u32) -> BlockResources {
        BlockResources {
            threads,
            registers: Some(registers),
            shared,
        }
    }

    #[test]
    fn the_examples_of_the_best_practices_guide() {
        // "Calculating Occupancy" there, for a multiprocessor of 64 warps and 65536 registers: 37
        // registers allow 12 blocks of 128 threads (75 %), and 4 of 320 (63 %).
        let occupancy = Gpu::A100.occupancy(&block(128, 37, 0));
        assert_eq!((occupancy.blocks, occupancy.warps), (12, 48));
        assert!((occupancy.fraction() - 0.75).abs() < 1e-12);
        let occupancy = Gpu::A100.occupancy(&block(320, 37, 0));
        assert_eq!((occupancy.blocks, occupancy.warps), (4, 40));
        assert_eq!(
            occupancy.limited_by().collect::<Vec<_>>(),
            [Resource::Registers]
        );
    }

    #[test]
    fn each_resource_can_be_the_scarcest() {
        let cases = [
            // 2048 threads; 32 registers are what all of them can have.
            (Gpu::A100, block(256, 32, 0), 8, Resource::Warps),
            (Gpu::A100, block(256, 33, 0), 6, Resource::Registers),
            (Gpu::A100, block(32, 32, 0), 32, Resource::Blocks),
            // The system takes 1 KiB of each block: 164 / (80 + 1) and 164 / (81 + 1).
            (Gpu::A100, block(128, 128, 80 << 10), 2, Resource::Shared),
            (Gpu::A100, block(128, 128, 81 << 10), 2, Resource::Shared),
            (
                Gpu::A100,
                block(128, 128, (81 << 10) + 1),
                1,
                Resource::Shared,
            ),
            (Gpu::A100, block(128, 255, 163 << 10), 1, Resource::Shared),
            (
                Gpu::A100,
                block(128, 255, (163 << 10) + 1),
                0,
                Resource::Shared,
            ),
            // 1536 threads hold one block of 1024: two thirds.
            (Gpu::A10, block(1024, 40, 0), 1, Resource::Warps),
            (Gpu::RTX_4090, block(64, 32, 0), 24, Resource::Warps),
            (Gpu::RTX_3090, block(64, 32, 0), 16, Resource::Blocks),
            // Nothing is reserved before compute capability 8.0.
            (Gpu::T4, block(128, 64, 32 << 10), 2, Resource::Shared),
            (Gpu::H100, block(384, 168, 227 << 10), 1, Resource::Shared),
        ];
        for (gpu, resources, blocks, by) in cases {
            let occupancy = gpu.occupancy(&resources);
            assert_eq!(occupancy.blocks, blocks, "{}: {resources:?}", gpu.name);
            assert!(
                occupancy.limited_by().any(|one| one == by),
                "{}: {occupancy}",
                gpu.name
            );
        }
    }

    #[test]
    fn what_cannot_run_does_not() {
        // 1024 threads of 65 registers are more than a block can have, and 256 registers than a thread.
        assert_eq!(Gpu::A100.occupancy(&block(1024, 65, 0)).blocks, 0);
        assert_eq!(Gpu::A100.occupancy(&block(32, 256, 0)).blocks, 0);
        assert_eq!(Gpu::A100.occupancy(&block(1024, 64, 0)).blocks, 1);
        let unknown = BlockResources {
            registers: None,
            ..block(1024, 0, 0)
        };
        assert_eq!(Gpu::A100.occupancy(&unknown).blocks, 2);
        assert_eq!(
            Gpu::A100.occupancy(&block(128, 37, 0)).to_string(),
            "12 blocks per SM, 48 of 64 warps (75 %), limited by registers"
        );
    }
}
