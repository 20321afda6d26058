//! Devices: what there is, and what it is like.

use ptx_emulator::Gpu;

use crate::abi::{Out, Text, exports, fill_text};
use crate::driver::Session;
use crate::error::{Error, Result};
use crate::launch::{MAX_BLOCK, MAX_GRID, MAX_THREADS};
use crate::module::SHARED_DEFAULT;
use crate::occupancy;

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
const BUS_BITS: i32 = 1024;

/// Attributes by number, as in `CUdevice_attribute`.
fn attribute_of(gpu: &Gpu, attribute: u32, device: i32) -> Result<i32> {
    let (major, minor) = gpu.compute_capability;
    let value = match attribute {
        1 => MAX_THREADS as i32,
        2..=4 => MAX_BLOCK[attribute as usize - 2] as i32,
        5..=7 => MAX_GRID[attribute as usize - 5] as i32,
        8 => SHARED_DEFAULT as i32,
        // Constant memory, warp, pitch, registers of a block, clock in kHz.
        9 => 65_536,
        10 => 32,
        11 => i32::MAX,
        12 => 65_536,
        13 => gpu.clock_mhz as i32 * 1000,
        // Alignment of textures and surfaces, which there are none of.
        14 | 30 => 512,
        15 => 1,
        16 => gpu.sms as i32,
        // No timeout, not integrated, can map host memory, default compute mode.
        17 | 18 => 0,
        19 => 1,
        20 => 0,
        // Extents of textures and surfaces: none.
        21..=29 | 42..=49 | 52..=74 | 77 => 0,
        // Kernels side by side; no ECC; bus, device, domain.
        31 => 1,
        32 => 0,
        33 => device,
        34 => 0,
        50 => 0xffff,
        35 => 0,
        // Clock of the memory in kHz and width of its bus in bits: only the product is known.
        36 => (gpu.bandwidth * 1e9 * 8.0 / f64::from(2 * BUS_BITS) / 1e3) as i32,
        37 => BUS_BITS,
        38 => i32::try_from(gpu.l2).unwrap_or(i32::MAX),
        39 => gpu.threads_per_sm as i32,
        40 => 2,
        41 => 1,
        51 => 32,
        75 => major as i32,
        76 => minor as i32,
        // Priorities; caches; shared memory and registers of a multiprocessor; managed memory.
        78..=80 => 1,
        81 => gpu.shared_per_sm as i32,
        82 => 65_536,
        83 => 1,
        84 | 85 => 0,
        // No native atomics between host and device; f64 rate; no pageable access.
        86 => 0,
        87 => {
            if (major, minor) == (8, 0) || major == 9 || (major, minor) == (10, 0) {
                2
            } else {
                64
            }
        }
        88 => 0,
        // Host and device may use managed memory at once, though a kernel sees what the host had
        // written when it began.
        89 => 1,
        90 => 0,
        91 => 1,
        92..=94 => 0,
        95 | 96 => 0,
        97 => gpu.shared_per_block as i32,
        98 => 0,
        99 => 1,
        100..=105 => 0,
        106 => gpu.blocks_per_sm as i32,
        107..=110 => 0,
        111 => {
            if major >= 8 {
                occupancy::RESERVED as i32
            } else {
                0
            }
        }
        112..=114 => 0,
        115 => 1,
        116..=127 => 0,
        128..=148 => 0,
        _ => return Err(Error::INVALID_VALUE),
    };
    Ok(value)
}
