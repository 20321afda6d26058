//! Devices: what there is, and what it is like.

use ptx_emulator::Gpu;

use crate::abi::{Out, Text, exports, fill_text};
use crate::driver::Session;
use crate::error::{Error, Result};
use crate::launch::{MAX_BLOCK, MAX_GRID, MAX_THREADS};
use crate::module::SHARED_DEFAULT;

exports! {
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        Session::open()?.device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(Session::open()?.devices.len() as i32)
    }

    fn cuDeviceGetName(name: Out<u8>, len: i32, device: i32) {
        let driver = Session::open()?;
        if name.is_null() || len <= 0 {
            return Err(Error::INVALID_VALUE);
        }
        fill_text(name, len as usize, &name_of(&driver.device(device)?.gpu));
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        Session::open()?.device(device)?;
        uuid.set(uuid_of(device))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        Session::open()?.device(device)?;
        uuid.set(uuid_of(device))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(Session::open()?.device(device)?.gpu.memory as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        let driver = Session::open()?;
        let gpu = &driver.device(device)?.gpu;
        value.set(attribute_of(gpu, attribute, device)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let driver = Session::open()?;
        let capability = driver.device(device)?.gpu.compute_capability;
        major.set(capability.0 as i32)?;
        minor.set(capability.1 as i32)
    }

    fn cuDeviceGetPCIBusId(text: Out<u8>, len: i32, device: i32) {
        Session::open()?.device(device)?;
        if text.is_null() || len <= 0 {
            return Err(Error::INVALID_VALUE);
        }
        fill_text(text, len as usize, &bus_id(device));
        Ok(())
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, text: Text) {
        let driver = Session::open()?;
        let text = text.get()?;
        let mut ordinals = 0..driver.devices.len() as i32;
        device.set(ordinals.find(|&ordinal| bus_id(ordinal) == text).ok_or(Error::INVALID_VALUE)?)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        let driver = Session::open()?;
        driver.device(device)?;
        driver.device(peer)?;
        // Kernels of one device cannot reach into another emulator; copies can.
        can.set(0)
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, _attribute: u32, device: i32, peer: i32) {
        let driver = Session::open()?;
        driver.device(device)?;
        driver.device(peer)?;
        value.set(0)
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: u32, device: i32) {
        Session::open()?.device(device)?;
        supported.set(0)
    }
}

/// What a device is called, which says that it is none.
fn name_of(gpu: &Gpu) -> String {
    format!("Emulated {} (ptx-emulator)", gpu.name)
}

fn uuid_of(device: i32) -> [u8; 16] {
    let mut uuid = *b"ptx-emulator\0\0\0\0";
    uuid[15] = device as u8;
    uuid
}

fn bus_id(device: i32) -> String {
    // A domain that no machine has.
    format!("FFFF:{device:02X}:00.0")
}

/// Width that every memory bus is said to have.
const BUS_BITS: u32 = 1024;

/// Numbers of the attributes that are not zero here, as in `CUdevice_attribute`.
mod attribute {
    pub const MAX_THREADS_PER_BLOCK: u32 = 1;
    pub const MAX_BLOCK_DIM_X: u32 = 2;
    pub const MAX_BLOCK_DIM_Z: u32 = 4;
    pub const MAX_GRID_DIM_X: u32 = 5;
    pub const MAX_GRID_DIM_Z: u32 = 7;
    pub const MAX_SHARED_MEMORY_PER_BLOCK: u32 = 8;
    pub const TOTAL_CONSTANT_MEMORY: u32 = 9;
    pub const WARP_SIZE: u32 = 10;
    pub const MAX_PITCH: u32 = 11;
    pub const MAX_REGISTERS_PER_BLOCK: u32 = 12;
    pub const CLOCK_RATE: u32 = 13;
    pub const TEXTURE_ALIGNMENT: u32 = 14;
    pub const GPU_OVERLAP: u32 = 15;
    pub const MULTIPROCESSOR_COUNT: u32 = 16;
    pub const CAN_MAP_HOST_MEMORY: u32 = 19;
    pub const CONCURRENT_KERNELS: u32 = 31;
    pub const PCI_BUS_ID: u32 = 33;
    pub const MEMORY_CLOCK_RATE: u32 = 36;
    pub const GLOBAL_MEMORY_BUS_WIDTH: u32 = 37;
    pub const L2_CACHE_SIZE: u32 = 38;
    pub const MAX_THREADS_PER_MULTIPROCESSOR: u32 = 39;
    pub const ASYNC_ENGINE_COUNT: u32 = 40;
    pub const UNIFIED_ADDRESSING: u32 = 41;
    pub const PCI_DOMAIN_ID: u32 = 50;
    pub const COMPUTE_CAPABILITY_MAJOR: u32 = 75;
    pub const COMPUTE_CAPABILITY_MINOR: u32 = 76;
    pub const STREAM_PRIORITIES_SUPPORTED: u32 = 78;
    pub const GLOBAL_L1_CACHE_SUPPORTED: u32 = 79;
    pub const LOCAL_L1_CACHE_SUPPORTED: u32 = 80;
    pub const MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: u32 = 81;
    pub const MAX_REGISTERS_PER_MULTIPROCESSOR: u32 = 82;
    pub const MANAGED_MEMORY: u32 = 83;
    pub const SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO: u32 = 87;
    pub const CONCURRENT_MANAGED_ACCESS: u32 = 89;
    pub const CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM: u32 = 91;
    pub const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: u32 = 97;
    pub const HOST_REGISTER_SUPPORTED: u32 = 99;
    pub const MAX_BLOCKS_PER_MULTIPROCESSOR: u32 = 106;
    pub const RESERVED_SHARED_MEMORY_PER_BLOCK: u32 = 111;
    pub const MEMORY_POOLS_SUPPORTED: u32 = 115;
    /// The last one that there is.
    pub const LAST: u32 = 147;
}

fn attribute_of(gpu: &Gpu, attribute: u32, device: i32) -> Result<i32> {
    use attribute::*;
    let value = match attribute {
        MAX_THREADS_PER_BLOCK => MAX_THREADS,
        MAX_BLOCK_DIM_X..=MAX_BLOCK_DIM_Z => MAX_BLOCK[(attribute - MAX_BLOCK_DIM_X) as usize],
        MAX_GRID_DIM_X..=MAX_GRID_DIM_Z => MAX_GRID[(attribute - MAX_GRID_DIM_X) as usize],
        MAX_SHARED_MEMORY_PER_BLOCK => SHARED_DEFAULT,
        TOTAL_CONSTANT_MEMORY => 64 << 10,
        WARP_SIZE => 32,
        MAX_PITCH => i32::MAX as u32,
        MAX_REGISTERS_PER_BLOCK => gpu.registers_per_block,
        CLOCK_RATE => gpu.clock_mhz * 1000,
        TEXTURE_ALIGNMENT => 512,
        MULTIPROCESSOR_COUNT => gpu.sms,
        PCI_BUS_ID => device as u32,
        PCI_DOMAIN_ID => 0xffff,
        // Only the product of clock, in kHz, and width, in bits, is known.
        MEMORY_CLOCK_RATE => (gpu.bandwidth * 1e9 * 8.0 / f64::from(2 * BUS_BITS) / 1e3) as u32,
        GLOBAL_MEMORY_BUS_WIDTH => BUS_BITS,
        L2_CACHE_SIZE => u32::try_from(gpu.l2).unwrap_or(i32::MAX as u32),
        MAX_THREADS_PER_MULTIPROCESSOR => gpu.threads_per_sm,
        ASYNC_ENGINE_COUNT => 2,
        COMPUTE_CAPABILITY_MAJOR => gpu.compute_capability.0,
        COMPUTE_CAPABILITY_MINOR => gpu.compute_capability.1,
        MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => gpu.shared_per_sm,
        MAX_REGISTERS_PER_MULTIPROCESSOR => gpu.registers_per_sm,
        SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO => gpu.rates.f32 / gpu.rates.f64.max(1),
        MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => gpu.shared_per_block,
        MAX_BLOCKS_PER_MULTIPROCESSOR => gpu.blocks_per_sm,
        RESERVED_SHARED_MEMORY_PER_BLOCK => gpu.shared_reserved,
        // Yes. Host and device may use managed memory at once, though a kernel sees what the host
        // had written when it began.
        GPU_OVERLAP
        | CAN_MAP_HOST_MEMORY
        | CONCURRENT_KERNELS
        | UNIFIED_ADDRESSING
        | STREAM_PRIORITIES_SUPPORTED
        | GLOBAL_L1_CACHE_SUPPORTED
        | LOCAL_L1_CACHE_SUPPORTED
        | MANAGED_MEMORY
        | CONCURRENT_MANAGED_ACCESS
        | CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        | HOST_REGISTER_SUPPORTED
        | MEMORY_POOLS_SUPPORTED => 1,
        // No: what is not there, such as textures, cooperative launches, clusters, and timeouts.
        _ if attribute > 0 && attribute <= LAST => 0,
        _ => return Err(Error::INVALID_VALUE),
    };
    i32::try_from(value).map_err(|_| Error::UNKNOWN)
}
