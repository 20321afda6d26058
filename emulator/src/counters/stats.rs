//! Counts as a launch returns them: in all, by line of the PTX text, by line of the CUDA source.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use super::trace::{Touched, Trace};
use super::{Counters, Site};
use crate::ast::Type;
use crate::bind::{About, Program};
use crate::isa::Class;
use crate::machine::Launch;
use crate::warning::Warning;

/// What was counted of some instructions: of a line, or of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Executions, each counted once per warp (and once per group of lanes where they diverge).
    /// An instruction whose guard is false in all lanes counts: it takes its turn all the same.
    pub executions: u64,
    /// Executions by the lanes that took part, each for itself.
    pub thread_executions: u64,
    /// Executions in which fewer than 32 lanes took part.
    pub partial: u64,
    /// Branches that some lanes took and others did not.
    pub divergent_branches: u64,
    /// Floating-point operations of `f32`: an addition or a multiplication is one, `fma` two.
    pub f32_flops: u64,
    /// The same of `f64`.
    pub f64_flops: u64,
    /// The same of `f16` and `bf16`; instructions on pairs do twice as many.
    pub half_flops: u64,
    /// Operations of tensor instructions: two per multiply-add.
    pub tensor_flops: u64,
    /// Bytes of global memory that lanes asked for.
    pub global_bytes: u64,
    /// Sectors of 32 bytes of global memory, counted once per warp instruction.
    pub global_sectors: u64,
    /// Sectors that would do if the same bytes, each counted once, lay side by side.
    pub global_ideal_sectors: u64,
    /// Passes through shared memory.
    pub shared_wavefronts: u64,
    /// Passes beyond those that the same accesses would need without bank conflicts.
    pub bank_conflicts: u64,
}

impl Counts {
    /// Of how much of the sectors asked for the bytes were of use: 1 if all accesses coalesce.
    pub fn coalescing(&self) -> f64 {
        match self.global_sectors {
            0 => 1.0,
            sectors => self.global_ideal_sectors as f64 / sectors as f64,
        }
    }

    /// Mean number of lanes that took part.
    pub fn lanes_per_execution(&self) -> f64 {
        match self.executions {
            0 => 0.0,
            executions => self.thread_executions as f64 / executions as f64,
        }
    }

    fn new(about: &About, executions: u64, site: &Site, tensor_flops: u64) -> Counts {
        let thread_executions = 32 * executions - site.idle;
        let flops = thread_executions * flops(about);
        let (mut f32_flops, mut f64_flops, mut half_flops) = (0, 0, 0);
        match about.row.class {
            Class::Float => f32_flops = flops,
            Class::Double => f64_flops = flops,
            Class::Half => half_flops = flops,
            _ => {}
        }
        Counts {
            executions,
            thread_executions,
            partial: site.partial,
            divergent_branches: site.divergent,
            f32_flops,
            f64_flops,
            half_flops,
            tensor_flops: tensor_flops * executions,
            global_bytes: site.global_bytes,
            global_sectors: site.global_sectors,
            global_ideal_sectors: site.global_ideal,
            shared_wavefronts: site.shared_wavefronts,
            bank_conflicts: site.shared_wavefronts.saturating_sub(site.shared_ideal),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.executions += more.executions;
        self.thread_executions += more.thread_executions;
        self.partial += more.partial;
        self.divergent_branches += more.divergent_branches;
        self.f32_flops += more.f32_flops;
        self.f64_flops += more.f64_flops;
        self.half_flops += more.half_flops;
        self.tensor_flops += more.tensor_flops;
        self.global_bytes += more.global_bytes;
        self.global_sectors += more.global_sectors;
        self.global_ideal_sectors += more.global_ideal_sectors;
        self.shared_wavefronts += more.shared_wavefronts;
        self.bank_conflicts += more.bank_conflicts;
    }
}

/// Floating-point operations of one lane of an instruction of a floating class.
fn flops(about: &About) -> u64 {
    let each = match about.row.opcode {
        "add" | "sub" | "mul" => 1,
        "fma" | "mad" => 2,
        _ => 0,
    };
    match about.ty {
        Type::F16x2 | Type::BF16x2 => 2 * each,
        _ => each,
    }
}

/// Counts of one line of the PTX text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineStats {
    /// The line, from 1.
    pub line: u32,
    /// File and line of the CUDA source, where `.loc` tells.
    pub source: Option<(Arc<str>, u32)>,
    /// Opcode, without modifiers, and execution unit, of the line's first instruction.
    pub opcode: &'static str,
    /// See `opcode`.
    pub class: Class,
    /// What was counted.
    pub counts: Counts,
    /// What was traced, if the launch was profiled.
    pub traffic: Traffic,
}

/// Counts of one line of the CUDA source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStats {
    /// The file, as `.file` names it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// What was counted.
    pub counts: Counts,
    /// What was traced, if the launch was profiled.
    pub traffic: Traffic,
}

/// Traffic of global memory, by sectors of 32 bytes that were each counted once. All zero unless the
/// launch was [profiled](crate::Config::profile).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes of the different sectors that were read.
    pub read_bytes: u64,
    /// Bytes of the different sectors that were written.
    pub written_bytes: u64,
    /// Bytes that a model of the L2 cache fetched from device memory. The cache is empty at first and
    /// has 16-way sets of lines of 128 bytes, of which the one not used for longest makes room; as
    /// many blocks as the device holds, by threads and shared memory, take turns.
    pub fetched_bytes: u64,
    /// Bytes that this model wrote back, at the latest at the end. Not known by line: there it is 0.
    pub written_back_bytes: u64,
}

/// Traffic of one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationTraffic {
    /// Its address.
    pub base: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// The variable's name; empty for memory from the host.
    pub name: String,
    /// Bytes of the different sectors that were read.
    pub read_bytes: u64,
    /// Bytes of the different sectors that were written.
    pub written_bytes: u64,
}

/// What a launch did. All of it is counted, none of it is a time, and all of it is the same however
/// many host threads ran the blocks.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LaunchStats {
    /// Blocks of the grid.
    pub blocks: u64,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Shared memory of a block, in bytes, static and dynamic together.
    pub shared_per_block: u32,
    /// Instructions, each counted once per warp (and once per group of lanes where they diverge).
    pub warp_instructions: u64,
    /// The same by execution unit, in the order of [`Class::ALL`].
    pub by_class: Vec<(Class, u64)>,
    /// The same by opcode (without modifiers) and execution unit.
    pub by_opcode: BTreeMap<(&'static str, Class), u64>,
    /// Tensor operations per warp, by shape and types as in the opcode: `m16n8k16.f32.f16.f16.f32`.
    pub mma: BTreeMap<String, u64>,
    /// Floating-point operations of the tensor operations: two per multiply-add.
    pub tensor_flops: u64,
    /// Bytes of global memory that instructions asked for.
    pub global_bytes: u64,
    /// Sectors of 32 bytes of global memory, counted once per warp instruction.
    pub global_sectors: u64,
    /// Passes through shared memory.
    pub shared_wavefronts: u64,
    /// Passes beyond those that the same accesses would need without bank conflicts.
    pub bank_conflicts: u64,
    /// Barriers, counted once per warp.
    pub barriers: u64,
    /// What works but should not be relied on, by PTX line.
    pub warnings: Vec<Warning>,
    /// What the kernel printed: in the order of blocks, or of time where blocks communicate.
    pub output: String,
    /// Everything that is counted by line as well.
    pub counts: Counts,
    /// Sectors of global memory, if the launch was [profiled](crate::Config::profile).
    pub traffic: Option<Traffic>,
    /// The same by allocation, in the order of addresses.
    pub allocations: Vec<AllocationTraffic>,
    lines: Vec<LineStats>,
    sources: Vec<SourceStats>,
}

impl LaunchStats {
    pub(crate) fn new(
        launch: &Launch<'_>,
        counters: &Counters,
        files: &[(u32, String)],
    ) -> LaunchStats {
        let program: &Program = launch.program;
        let mut stats = LaunchStats {
            blocks: launch.blocks(),
            threads_per_block: launch.threads(),
            shared_per_block: launch.shared_bytes,
            barriers: counters.barriers,
            ..LaunchStats::default()
        };
        let names = Names::new(files);
        let mut classes = BTreeMap::new();
        let mut lines: BTreeMap<u32, LineStats> = BTreeMap::new();
        let counted = counters.executed.iter().zip(&counters.sites);
        for ((about, inst), (executions, site)) in
            program.about.iter().zip(&program.insts).zip(counted)
        {
            let (class, opcode) = (about.row.class, about.row.opcode.trim());
            let mut tensor_flops = 0;
            if *executions != 0 {
                *classes.entry(class).or_insert(0) += executions;
                *stats.by_opcode.entry((opcode, class)).or_insert(0) += executions;
                if class == Class::Tensor {
                    let (shape, flops) = crate::isa::matrix::describe(inst);
                    *stats.mma.entry(shape).or_insert(0) += executions;
                    tensor_flops = flops;
                }
            }
            let counts = Counts::new(about, *executions, site, tensor_flops);
            stats.counts += counts;
            let line = lines.entry(about.line).or_insert_with(|| LineStats {
                line: about.line,
                source: about.source.map(|source| names.get(source)),
                opcode,
                class,
                counts: Counts::default(),
                traffic: Traffic::default(),
            });
            line.counts += counts;
        }
        stats.lines = lines.into_values().collect();
        stats.warp_instructions = stats.counts.executions;
        stats.tensor_flops = stats.counts.tensor_flops;
        stats.global_bytes = stats.counts.global_bytes;
        stats.global_sectors = stats.counts.global_sectors;
        stats.shared_wavefronts = stats.counts.shared_wavefronts;
        stats.bank_conflicts = stats.counts.bank_conflicts;
        stats.by_class = Class::ALL
            .into_iter()
            .map(|class| (class, classes.get(&class).copied().unwrap_or(0)))
            .collect();
        stats.sources = sources(&stats.lines);
        if let Some(trace) = &counters.trace {
            stats.add_traffic(launch, trace, &names);
        }
        stats
    }

    /// Adds what was traced.
    fn add_traffic(&mut self, launch: &Launch<'_>, trace: &Trace, names: &Names) {
        let program = launch.program;
        let (fetched, written_back) = trace.finish();
        let about = |pc: usize| program.about.get(pc);
        let mut all = Traffic {
            written_back_bytes: 32 * written_back,
            ..Traffic::default()
        };
        for touched in trace.unique(program, |_| Some(())).values() {
            all.unique(touched);
            let mut by_base: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            touched.read.by_allocation(launch.table, |base, bytes| {
                by_base.entry(base).or_default().0 += bytes;
            });
            touched.written.by_allocation(launch.table, |base, bytes| {
                by_base.entry(base).or_default().1 += bytes;
            });
            let named = by_base.into_iter().filter_map(|(base, bytes)| {
                let allocation = launch.table.find(base)?;
                Some(AllocationTraffic {
                    base,
                    size: allocation.size,
                    name: allocation.name.clone(),
                    read_bytes: bytes.0,
                    written_bytes: bytes.1,
                })
            });
            self.allocations = named.collect();
        }
        let by_line = trace.unique(program, |pc| Some(about(pc)?.line));
        for line in &mut self.lines {
            if let Some(touched) = by_line.get(&line.line) {
                line.traffic.unique(touched);
            }
        }
        let by_source = trace.unique(program, |pc| Some(names.get(about(pc)?.source?)));
        for source in &mut self.sources {
            if let Some(touched) = by_source.get(&(source.file.clone(), source.line)) {
                source.traffic.unique(touched);
            }
        }
        for (pc, sectors) in fetched.into_iter().enumerate().filter(|(_, s)| *s != 0) {
            all.fetched_bytes += 32 * sectors;
            let Some(about) = about(pc) else { continue };
            if let Ok(at) = self.lines.binary_search_by_key(&about.line, |l| l.line) {
                self.lines[at].traffic.fetched_bytes += 32 * sectors;
            }
            let Some(name) = about.source.map(|source| names.get(source)) else {
                continue;
            };
            let found = self
                .sources
                .iter_mut()
                .find(|s| (&s.file, s.line) == (&name.0, name.1));
            if let Some(source) = found {
                source.traffic.fetched_bytes += 32 * sectors;
            }
        }
        self.traffic = Some(all);
    }

    /// Instructions of one execution unit.
    pub fn class(&self, class: Class) -> u64 {
        self.by_class
            .iter()
            .find(|(c, _)| *c == class)
            .map_or(0, |(_, count)| *count)
    }

    /// Counts by line of the PTX text, in order, of every line that has an instruction.
    pub fn lines(&self) -> &[LineStats] {
        &self.lines
    }

    /// Counts by line of the CUDA source, in order of file and line, of what `.loc` assigns to one.
    pub fn source_lines(&self) -> &[SourceStats] {
        &self.sources
    }
}

impl Traffic {
    fn unique(&mut self, touched: &Touched) {
        self.read_bytes = touched.read.bytes();
        self.written_bytes = touched.written.bytes();
    }
}

/// Sums by line of the source.
fn sources(lines: &[LineStats]) -> Vec<SourceStats> {
    let mut sums: BTreeMap<(Arc<str>, u32), Counts> = BTreeMap::new();
    for line in lines {
        if let Some(source) = &line.source {
            *sums.entry(source.clone()).or_default() += line.counts;
        }
    }
    let source = |((file, line), counts)| SourceStats {
        file,
        line,
        counts,
        traffic: Traffic::default(),
    };
    sums.into_iter().map(source).collect()
}

/// Names of the source files.
struct Names(Vec<(u32, Arc<str>)>);

impl Names {
    fn new(files: &[(u32, String)]) -> Names {
        let name = |(number, name): &(u32, String)| (*number, Arc::from(name.as_str()));
        Names(files.iter().map(name).collect())
    }

    fn get(&self, (file, line): (u32, u32)) -> (Arc<str>, u32) {
        let known = self.0.iter().find(|(number, _)| *number == file);
        let name = known.map_or_else(|| Arc::from(format!("file {file}")), |(_, n)| n.clone());
        (name, line)
    }
}
