//! The emulator as a device: memory, modules, kernels, launches.

use std::collections::HashMap;
use std::sync::Arc;

mod tell;

use crate::ast;
use crate::bind::{self, LoadError, ModuleSymbols, Parameter, Program};
use crate::counters::LaunchStats;
use crate::gpu::{self, Gpu};
use crate::machine::{self, Launch, Stop};
use crate::memory::global::{Kind as AllocationKind, Memory, MemoryError};
use crate::variables;
use crate::violation::{EmulatorError, Violation};

/// Which rules launches are checked against.
///
/// Memory (bounds, alignment, spaces) and synchronisation (barriers, collectives, deadlock) are always
/// checked: the former costs one comparison per warp and access, and without either there is nothing
/// that a run could go on with. What can be switched off is what needs a shadow of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checks {
    /// Decisions and addresses made of bytes that were never written.
    pub init: bool,
    /// Accesses to shared memory that nothing orders.
    pub race: bool,
    /// Warn where lanes come to an `.aligned` instruction in different groups. Not among
    /// [`Checks::ALL`]: lanes meet where their positions do, so a branch that is laid out behind the
    /// place where it joins again is told too.
    pub converged: bool,
}

impl Checks {
    /// All that find bugs only.
    pub const ALL: Checks = Checks {
        init: true,
        race: true,
        converged: false,
    };
    /// None but bounds and alignment, without which nothing could run.
    pub const NONE: Checks = Checks {
        init: false,
        race: false,
        converged: false,
    };
}

impl Default for Checks {
    fn default() -> Checks {
        Checks::ALL
    }
}

/// How tensor operations round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MmaMode {
    /// In `f32`, in the order of k, each multiply-add rounded once.
    #[default]
    Fast,
    /// As Ampere's and Ada's tensor cores do.
    Ampere,
    /// As Hopper's tensor cores do.
    Hopper,
}

/// What an emulator is like.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Model whose limits hold.
    pub gpu: Gpu,
    /// Rules to check.
    pub checks: Checks,
    /// Seed of every choice that the hardware leaves open, such as the order of warps.
    pub seed: u64,
    /// Host threads; 0: as many as there are processors.
    pub threads: usize,
    /// How tensor operations round.
    pub mma: MmaMode,
    /// Warp instructions after which a block is taken to loop endlessly.
    pub budget: u64,
    /// Trace which sectors of global memory are touched, for
    /// [`LaunchStats::traffic`](crate::LaunchStats::traffic). It costs time with every access, and 8
    /// bytes for each line that a block touches until the block has been through the model of L2.
    pub profile: bool,
    /// Let approximate functions (`ex2.approx` and its like) be wrong by random amounts within the
    /// bounds that the ISA states, so that nobody depends on what one model gives.
    pub perturb: bool,
    /// Let the lanes of a warp meet again where their branches join. If not, lanes that have diverged stay
    /// apart until an instruction waits for them, and take turns that the seed draws: that is all that PTX
    /// promises, and it shows what counts on lanes being together.
    pub reconverge: bool,
    /// Stack of a thread for recursion and calls through pointers, in bytes.
    pub stack: u32,
    /// Whether what kernels print goes to standard output too, not only to
    /// [`LaunchStats::output`].
    pub print: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            gpu: Gpu::A100,
            checks: Checks::ALL,
            seed: 0,
            threads: 0,
            mma: MmaMode::Fast,
            budget: 4_000_000_000,
            profile: false,
            perturb: false,
            reconverge: true,
            stack: 1024,
            print: false,
        }
    }
}

/// An emulated GPU. Cheap to clone: clones are the same device.
#[derive(Clone)]
pub struct Emulator {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    memory: Memory,
}

/// A loaded PTX text. Its variables live as long as the device.
#[derive(Clone)]
pub struct Module {
    inner: Arc<ModuleInner>,
}

struct ModuleInner {
    device: Emulator,
    source: String,
    module: ast::Module,
    symbols: ModuleSymbols,
    sizes: HashMap<String, u64>,
}

/// A kernel of a module, ready to launch.
#[derive(Clone)]
pub struct Kernel {
    module: Module,
    program: Arc<Program>,
}

/// What a kernel declares.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub params: Vec<Parameter>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Threads of a block at most, if `.maxntid` says so.
    pub max_threads: Option<u32>,
    /// Extent that a block must have, if `.reqntid` says so.
    pub required_block: Option<[u32; 3]>,
    /// Statically declared shared memory, in bytes.
    pub static_shared: u32,
    /// Local memory of a thread, in bytes.
    pub local_bytes: u32,
}

/// Shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, in bytes.
    pub dynamic_smem: u32,
}

/// A launch that the driver would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An extent of the grid is 0 or too big.
    #[error("grid {grid:?}: every extent has to be from 1 to {limit:?}")]
    Grid {
        /// As asked for.
        grid: [u32; 3],
        /// As allowed.
        limit: [u32; 3],
    },
    /// An extent of the block is 0 or too big, or the block has too many threads.
    #[error(
        "block {block:?}: every extent has to be from 1 to {limit:?}, and threads at most {threads}"
    )]
    Block {
        /// As asked for.
        block: [u32; 3],
        /// Extents as allowed.
        limit: [u32; 3],
        /// Threads as allowed.
        threads: u64,
    },
    /// The kernel was compiled for other blocks.
    #[error("block {block:?}: the kernel was compiled for {allowed} threads")]
    BlockOfKernel {
        /// As asked for.
        block: [u32; 3],
        /// What `.maxntid` or `.reqntid` allows.
        allowed: String,
    },
    /// More shared memory than a block can have.
    #[error("{bytes} bytes of shared memory: a block on {gpu} can have {limit}")]
    SharedMemory {
        /// Static and dynamic together.
        bytes: u64,
        /// As allowed.
        limit: u32,
        /// Model.
        gpu: &'static str,
    },
    /// Another number of parameters, or another size of one.
    #[error("parameters of {got:?} bytes, the kernel takes {expected:?}")]
    Parameters {
        /// Sizes that the kernel declares.
        expected: Vec<u32>,
        /// Sizes that were given.
        got: Vec<usize>,
    },
    /// More parameters than a kernel can have.
    #[error("{bytes} bytes of parameters, a kernel can have {limit}")]
    ParameterBytes {
        /// As declared.
        bytes: u32,
        /// As allowed.
        limit: u64,
    },
    /// The module is of another device.
    #[error("the kernel was loaded on another device")]
    OtherDevice,
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The driver would refuse it.
    #[error("invalid launch: {0}")]
    Config(#[from] ConfigError),
    /// The program broke a rule.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The emulator failed.
    #[error(transparent)]
    Internal(#[from] EmulatorError),
}

impl Emulator {
    /// A device with this configuration.
    pub fn new(config: Config) -> Emulator {
        Emulator::with_addresses(config, 0)
    }

    /// A device whose allocations start `offset` bytes behind those of other devices, so that an
    /// address tells which device it belongs to.
    pub fn with_addresses(config: Config, offset: u64) -> Emulator {
        let memory = Memory::new(config.gpu.memory, offset);
        Emulator {
            inner: Arc::new(Inner { config, memory }),
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Allocates memory, whose bytes are uninitialised, and returns its address. Nothing lies
    /// next to it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] if the model, or the host, has not that much left.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.inner
            .memory
            .alloc(bytes, AllocationKind::Buffer, "")
            .map(|allocation| allocation.base)
    }

    /// Makes `bytes` bytes at an address of the caller's choice, a multiple of 256, memory of the
    /// device: what managed memory and mapped host memory need. Uninitialised, and to be freed.
    ///
    /// # Errors
    /// [`MemoryError::Unmappable`].
    pub fn map(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        self.inner.memory.map(address, bytes)
    }

    /// Copies `len` bytes of memory, and with each byte whether it was ever written.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if one of the ranges does not lie in one allocation.
    pub fn copy(&self, to: u64, from: u64, len: u64) -> Result<(), MemoryError> {
        self.inner.memory.copy(to, from, len)
    }

    /// Frees an allocation; its addresses are never used again.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`] if no allocation starts there.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        self.inner.memory.free(address)
    }

    /// Writes bytes to memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if the range does not lie in one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.inner.memory.write(address, bytes)
    }

    /// Makes a range of memory hostile: every load that a kernel makes of it returns something else, as
    /// the seed draws: what is there, something near, or whatever breaks those who do not check. It shows
    /// whether a kernel checks what it uses, and uses what it has checked. The bytes themselves stay.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if the range does not lie in one allocation.
    pub fn mark_hostile(&self, address: u64, len: u64) -> Result<(), MemoryError> {
        self.inner.memory.mark_hostile(address, len)
    }

    /// Makes all memory harmless again.
    pub fn clear_hostile(&self) {
        self.inner.memory.clear_hostile();
    }

    /// Reads bytes of memory, also where they were never written (see [`Emulator::initialised`]).
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if the range does not lie in one allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.inner.memory.read(address, bytes)
    }

    /// Sets `len` bytes of memory to `byte`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if the range does not lie in one allocation.
    pub fn fill(&self, address: u64, byte: u8, len: u64) -> Result<(), MemoryError> {
        self.inner.memory.fill(address, byte, len)
    }

    /// Whether all bytes of a range were written with initialised values.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`] if the range does not lie in one allocation.
    pub fn initialised(&self, address: u64, len: u64) -> Result<bool, MemoryError> {
        self.inner.memory.initialised(address, len)
    }

    /// Loads a PTX text: parses it and gives its variables their memory. Kernels are bound when they
    /// are asked for.
    ///
    /// # Errors
    /// [`LoadError`] with the line and the token.
    pub fn load(&self, ptx: &str) -> Result<Module, LoadError> {
        let module = crate::parse::parse(ptx)?;
        let target = module
            .target
            .iter()
            .find_map(|target| target.strip_prefix("sm_"));
        let sm = target
            .and_then(|t| t.trim_end_matches(char::is_alphabetic).parse::<u32>().ok())
            .unwrap_or(0);
        if sm > self.inner.config.gpu.sm() {
            let model = format!(
                "the device is an {} (sm_{})",
                self.inner.config.gpu.name,
                self.inner.config.gpu.sm()
            );
            return Err(LoadError::new(0, &format!("sm_{sm}"), model));
        }
        let (symbols, sizes) = variables::allocate(&self.inner.memory, &module)?;
        let inner = ModuleInner {
            device: self.clone(),
            source: ptx.to_string(),
            module,
            symbols,
            sizes,
        };
        Ok(Module {
            inner: Arc::new(inner),
        })
    }

    /// Runs a kernel to its end. `params` are the bytes of each parameter.
    ///
    /// # Errors
    /// [`LaunchError::Config`] for what the driver would refuse, [`LaunchError::Violation`] if the
    /// program breaks a rule, [`LaunchError::Internal`] if the emulator fails.
    pub fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        params: &[&[u8]],
    ) -> Result<LaunchStats, LaunchError> {
        let program = &*kernel.program;
        if !Arc::ptr_eq(&self.inner, &kernel.module.inner.device.inner) {
            return Err(ConfigError::OtherDevice.into());
        }
        let shared_bytes = self.check_launch(program, config)?;
        let buffer = parameter_buffer(program, params)?;
        let table = self.inner.memory.table();
        let settings = &self.inner.config;
        let mut launch = Launch {
            program,
            memory: &self.inner.memory,
            table: &table,
            params: &buffer,
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_smem,
            shared_bytes,
            gpu: &settings.gpu,
            profile: settings.profile,
            checks: settings.checks,
            mma: settings.mma,
            seed: settings.seed,
            hostile: self.inner.memory.hostile(),
            journal: None,
            budget: settings.budget,
            reconverge: settings.reconverge,
            stack: settings.stack,
            printed: Default::default(),
        };
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let result = machine::run(&mut launch, threads);
        let output = launch.output();
        if settings.print {
            print!("{output}");
        }
        match result {
            Ok(counters) => {
                let files = &kernel.module.inner.module.files;
                let mut stats = LaunchStats::new(&launch, &counters, files);
                stats.output = output;
                stats.warnings = tell::warnings(&launch, kernel, &counters.warnings);
                Ok(stats)
            }
            Err(Stop::Emulator(error)) => Err(error.into()),
            Err(Stop::Program(failure)) => Err(LaunchError::Violation(Box::new(tell::violation(
                &launch, kernel, *failure,
            )))),
        }
    }

    /// Enforces the model's limits; the shared memory of a block otherwise.
    fn check_launch(&self, program: &Program, config: &LaunchConfig) -> Result<u32, ConfigError> {
        let gpu = &self.inner.config.gpu;
        let beyond = |extent: [u32; 3], limit: [u32; 3]| {
            extent
                .iter()
                .zip(limit)
                .any(|(extent, limit)| *extent == 0 || *extent > limit)
        };
        if beyond(config.grid, gpu::MAX_GRID) {
            return Err(ConfigError::Grid {
                grid: config.grid,
                limit: gpu::MAX_GRID,
            });
        }
        let block = config.block;
        let threads: u64 = block.iter().map(|extent| u64::from(*extent)).product();
        if beyond(block, gpu::MAX_BLOCK) || threads > gpu::THREADS_PER_BLOCK {
            let (limit, threads) = (gpu::MAX_BLOCK, gpu::THREADS_PER_BLOCK);
            return Err(ConfigError::Block {
                block,
                limit,
                threads,
            });
        }
        if program
            .max_threads
            .is_some_and(|most| threads > u64::from(most))
        {
            let allowed = format!("at most {}", program.max_threads.unwrap_or(0));
            return Err(ConfigError::BlockOfKernel { block, allowed });
        }
        if program
            .required_block
            .is_some_and(|required| required != block)
        {
            let allowed = format!("{:?}", program.required_block.unwrap_or_default());
            return Err(ConfigError::BlockOfKernel { block, allowed });
        }
        let fixed = program.dynamic_shared.unwrap_or(program.static_shared);
        let bytes = u64::from(fixed) + u64::from(config.dynamic_smem);
        if bytes > u64::from(gpu.shared_per_block) || program.static_shared > gpu::SHARED_DEFAULT {
            let limit = if program.static_shared > gpu::SHARED_DEFAULT {
                gpu::SHARED_DEFAULT
            } else {
                gpu.shared_per_block
            };
            return Err(ConfigError::SharedMemory {
                bytes,
                limit,
                gpu: gpu.name,
            });
        }
        if u64::from(program.param_bytes) > gpu::PARAMETER_BYTES {
            return Err(ConfigError::ParameterBytes {
                bytes: program.param_bytes,
                limit: gpu::PARAMETER_BYTES,
            });
        }
        Ok(bytes as u32)
    }
}

/// The parameters at their offsets.
fn parameter_buffer(program: &Program, params: &[&[u8]]) -> Result<Vec<u8>, ConfigError> {
    let expected = program.params.iter().map(|param| param.size as usize);
    if !expected.eq(params.iter().map(|param| param.len())) {
        return Err(ConfigError::Parameters {
            expected: program.params.iter().map(|param| param.size).collect(),
            got: params.iter().map(|param| param.len()).collect(),
        });
    }
    let mut buffer = vec![0; program.param_bytes as usize];
    for (declared, given) in program.params.iter().zip(params) {
        if let Some(place) =
            buffer.get_mut(declared.offset as usize..(declared.offset + declared.size) as usize)
        {
            place.copy_from_slice(given);
        }
    }
    Ok(buffer)
}

impl Module {
    /// Names of its kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        let functions = self.inner.module.functions.iter();
        functions
            .filter(|function| function.entry && function.body.is_some())
            .map(|f| f.name.as_str())
    }

    /// Binds a kernel.
    ///
    /// # Errors
    /// [`LoadError`] if there is none of this name, or if it has something that is not supported.
    pub fn kernel(&self, name: &str) -> Result<Kernel, LoadError> {
        let inner = &self.inner;
        let found = inner
            .module
            .functions
            .iter()
            .find(|f| f.entry && f.name == name && f.body.is_some());
        let Some(function) = found else {
            let mut error = LoadError::new(0, name, "the module has no such kernel");
            error.alternatives = self.kernels().map(ToString::to_string).collect();
            return Err(error);
        };
        let sm = inner.device.inner.config.gpu.sm();
        let mut program = bind::bind(&inner.module, &inner.symbols, function, sm)?;
        if inner.device.inner.config.perturb {
            crate::isa::perturb::apply(&mut program);
        }
        Ok(Kernel {
            module: self.clone(),
            program: Arc::new(program),
        })
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        let (_, address) = self.inner.symbols.addresses.get(name)?;
        Some((*address, *self.inner.sizes.get(name)?))
    }

    /// The bytes of a `.global` or `.const` variable as they are now.
    pub fn symbol_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let (address, size) = self.symbol(name)?;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.inner.device.read(address, &mut bytes).ok()?;
        Some(bytes)
    }
}

impl Kernel {
    /// The text that it was loaded from.
    pub fn source(&self) -> &str {
        &self.module.inner.source
    }

    /// What it declares.
    pub fn info(&self) -> KernelInfo {
        let program = &self.program;
        KernelInfo {
            name: program.name.clone(),
            params: program.params.clone(),
            param_bytes: program.param_bytes,
            max_threads: program.max_threads,
            required_block: program.required_block,
            static_shared: program.static_shared,
            local_bytes: program.local_bytes,
        }
    }
}
