//! Launches and occupancy.

use crate::abi::{BlockToShared, In, Out, exports, shared_of};
use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::launch::Shape;
use crate::occupancy;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`: its number and a union of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

exports! {
    fn cuLaunchKernel, cuLaunchKernel_ptsz(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Handle,
        params: usize, extra: usize,
    ) {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
        };
        Session::open()?.launch(function, shape, stream, params, extra)
    }

    fn cuLaunchKernelEx, cuLaunchKernelEx_ptsz(config: In<Config>, function: Handle, params: usize, extra: usize) {
        let config = config.get()?;
        for index in 0..config.count as usize {
            check(config.attributes.at(index)?)?;
        }
        let shape = Shape {
            grid: config.grid,
            block: config.block,
            shared: config.shared,
        };
        Session::open()?.launch(function, shape, config.stream, params, extra)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: Out<i32>, function: Handle, threads: i32, dynamic: usize) {
        active_blocks(count, function, threads, dynamic)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count: Out<i32>, function: Handle, threads: i32, dynamic: usize, _flags: u32) {
        active_blocks(count, function, threads, dynamic)
    }

    fn cuOccupancyMaxPotentialBlockSize(grid: Out<i32>, block: Out<i32>, function: Handle, shared: Option<BlockToShared>, dynamic: usize, limit: i32) {
        potential(grid, block, function, shared, dynamic, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(grid: Out<i32>, block: Out<i32>, function: Handle, shared: Option<BlockToShared>, dynamic: usize, limit: i32, _flags: u32) {
        potential(grid, block, function, shared, dynamic, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: i32, threads: i32) {
        let driver = Session::open()?;
        let (function, gpu) = driver.function_and_gpu(function)?;
        match (u32::try_from(blocks), u32::try_from(threads)) {
            (Ok(blocks), Ok(threads)) if blocks > 0 && threads > 0 => {
                bytes.set(occupancy::dynamic_shared(function, gpu, blocks))
            }
            _ => Err(Error::INVALID_VALUE),
        }
    }
}

/// Refuses what attributes of a launch ask for and is not there.
fn check(attribute: Attribute) -> Result {
    match attribute.id {
        // Ignored, or tuning: windows of caches, scheduling, priority, domains.
        0 | 1 | 3 | 5 | 8 | 9 | 10 => Ok(()),
        // Cooperative: 0 is the usual.
        2 if attribute.value[0] == 0 => Ok(()),
        // Clusters of one block, and launches that wait for the one before, are the usual too.
        4 if attribute.value[..3] == [1; 3] => Ok(()),
        6 => Ok(()),
        2 => refuse("cooperative launches"),
        4 | 11 => refuse("clusters"),
        _ => refuse("an attribute of cuLaunchKernelEx"),
    }
}

fn refuse(what: &str) -> Result {
    crate::say_once(&format!("not supported: {what}"));
    Err(Error::NOT_SUPPORTED)
}

fn active_blocks(count: Out<i32>, function: Handle, threads: i32, dynamic: usize) -> Result {
    let driver = Session::open()?;
    let (function, gpu) = driver.function_and_gpu(function)?;
    let threads = u32::try_from(threads).map_err(|_| Error::INVALID_VALUE)?;
    if threads == 0 {
        return Err(Error::INVALID_VALUE);
    }
    count.set(occupancy::blocks(function, gpu, threads, dynamic) as i32)
}

fn potential(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle,
    shared: Option<BlockToShared>,
    dynamic: usize,
    limit: i32,
) -> Result {
    let driver = Session::open()?;
    let (function, gpu) = driver.function_and_gpu(function)?;
    let limit = u32::try_from(limit).map_err(|_| Error::INVALID_VALUE)?;
    let dynamic = |block: u32| match shared {
        Some(shared) => shared_of(shared, block as i32),
        None => dynamic,
    };
    let (threads, blocks) = occupancy::best_block(function, gpu, limit, dynamic);
    block.set(threads as i32)?;
    grid.set(blocks as i32)
}
