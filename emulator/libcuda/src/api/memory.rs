//! Allocating and freeing, on devices and on the host.

use crate::abi::{Out, exports};
use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::memory::Home;
use crate::work::Work;

/// `CU_MEMHOSTREGISTER_*` and `CU_MEMHOSTALLOC_*` flags that exist.
const HOST_FLAGS: u32 = 0xf;

/// A place in memory, as in `CUmemLocation`: its kind and number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

exports! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        driver.refuse_unsafe()?;
        let base = driver.allocate(context, bytes, Home::Device)?;
        address.set(base)
    }

    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        driver.refuse_unsafe()?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(Error::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(512).ok_or(Error::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Error::INVALID_VALUE)?;
        let base = driver.allocate(context, bytes, Home::Device)?;
        pitch.set(row)?;
        address.set(base)
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        driver.refuse_unsafe()?;
        if !matches!(flags, 1 | 2) {
            return Err(Error::INVALID_VALUE);
        }
        let base = driver.allocate_on_host(context, bytes, true, flags)?;
        address.set(base)
    }

    fn cuMemFree_v2(address: u64) {
        let mut driver = Session::open()?;
        driver.current()?;
        driver.refuse_unsafe()?;
        if address == 0 {
            return Ok(());
        }
        driver.free(address, |home| matches!(home, Home::Device | Home::Pool(_) | Home::Managed(_)))
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let driver = Session::open()?;
        let device = driver.current_device()?;
        let all = driver.devices[device].gpu.memory;
        free.put(all.saturating_sub(driver.used(device)) as usize);
        total.put(all as usize);
        Ok(())
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let driver = Session::open()?;
        driver.current()?;
        let found = driver.allocation_at(address).ok_or(Error::NOT_FOUND)?;
        base.put(found.base);
        bytes.put(found.size as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) {
        host_alloc(address, bytes, 0)
    }

    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: u32) {
        host_alloc(address, bytes, flags)
    }

    fn cuMemFreeHost(address: usize) {
        let mut driver = Session::open()?;
        driver.current()?;
        driver.refuse_unsafe()?;
        driver.free(address as u64, |home| matches!(home, Home::Host(_)))
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, host: usize, flags: u32) {
        let driver = Session::open()?;
        driver.current()?;
        let found = driver.allocation_at(host as u64).filter(|found| found.is_on_host());
        if found.is_none() || flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        device.set(host as u64)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, host: usize) {
        let driver = Session::open()?;
        driver.current()?;
        match driver.allocation_at(host as u64) {
            Some(found) if matches!(found.home, Home::Host(_)) => flags.set(found.flags),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        driver.refuse_unsafe()?;
        if address == 0 || bytes == 0 || flags & !HOST_FLAGS != 0 {
            return Err(Error::INVALID_VALUE);
        }
        driver.register(context, address as u64, bytes as u64, flags)
    }

    fn cuMemHostUnregister(address: usize) {
        let mut driver = Session::open()?;
        driver.current()?;
        driver.refuse_unsafe()?;
        let found = driver.allocation_at(address as u64);
        let base = match found {
            Some(found) => match found.home {
                Home::Registered { start, .. } if start == address as u64 => found.base,
                _ => return Err(Error::HOST_MEMORY_NOT_REGISTERED),
            },
            None => return Err(Error::HOST_MEMORY_NOT_REGISTERED),
        };
        driver.free(base, |_| true)
    }

    fn cuMemAllocAsync, cuMemAllocAsync_ptsz(address: Out<u64>, bytes: usize, stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        let context = driver.streams[&stream].context;
        let pool = driver.devices[driver.context(context)?.device].pool;
        let base = allocate_in_order(&mut driver, stream, bytes, pool)?;
        address.set(base)
    }

    fn cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync_ptsz(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        let base = allocate_in_order(&mut driver, stream, bytes, pool)?;
        address.set(base)
    }

    fn cuMemFreeAsync, cuMemFreeAsync_ptsz(address: u64, stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        match driver.allocations.get(&address) {
            Some(found) if matches!(found.home, Home::Device | Home::Pool(_)) => (),
            _ => return Err(Error::INVALID_VALUE),
        }
        refuse_graph_memory(&mut driver, stream)?;
        driver.submit(stream, Work::Free(address))
    }

    // Where managed memory lies and what it is used for changes nothing here: hints are checked and
    // taken.

    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, _device: i32) {
        hint(address, bytes, advice)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, _location: Location) {
        hint(address, bytes, advice)
    }

    fn cuMemPrefetchAsync, cuMemPrefetchAsync_ptsz(address: u64, bytes: usize, device: i32, stream: Handle) {
        prefetch(address, bytes, device, stream)
    }

    fn cuMemPrefetchAsync_v2, cuMemPrefetchAsync_v2_ptsz(address: u64, bytes: usize, location: Location, flags: u32, stream: Handle) {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        prefetch(address, bytes, if location.kind == 1 { location.id } else { -1 }, stream)
    }

    fn cuStreamAttachMemAsync, cuStreamAttachMemAsync_ptsz(stream: Handle, address: u64, bytes: usize, flags: u32) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.refuse_captured(stream)?;
        let found = driver.range(address, bytes)?;
        if !found.is_managed() || !matches!(flags, 1 | 2 | 4) {
            return Err(Error::INVALID_VALUE);
        }
        driver.submit(stream, Work::Nothing)
    }
}

fn host_alloc(address: Out<usize>, bytes: usize, flags: u32) -> Result {
    let mut driver = Session::open()?;
    let context = driver.current()?;
    driver.refuse_unsafe()?;
    if flags & !HOST_FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let base = driver.allocate_on_host(context, bytes, false, flags)?;
    address.set(base as usize)
}

fn allocate_in_order(
    driver: &mut Session,
    stream: Handle,
    bytes: usize,
    pool: Handle,
) -> Result<u64> {
    let context = driver.streams[&stream].context;
    let Some(known) = driver.pools.get(&pool) else {
        return Err(Error::INVALID_VALUE);
    };
    if known.device != driver.context(context)?.device {
        return Err(Error::INVALID_VALUE);
    }
    refuse_graph_memory(driver, stream)?;
    driver.allocate(context, bytes, Home::Pool(pool))
}

/// Graphs that allocate are not there.
fn refuse_graph_memory(driver: &mut Session, stream: Handle) -> Result {
    match driver.streams[&stream].capture {
        Some(capture) => {
            crate::say_once("allocating and freeing within a graph is not supported");
            Err(driver.invalidate(capture, Error::NOT_SUPPORTED))
        }
        None => Ok(()),
    }
}

fn hint(address: u64, bytes: usize, advice: u32) -> Result {
    let driver = Session::open()?;
    driver.current()?;
    let managed = driver.range(address, bytes)?.is_managed();
    match advice {
        1..=6 if managed => Ok(()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn prefetch(address: u64, bytes: usize, device: i32, stream: Handle) -> Result {
    let mut driver = Session::open()?;
    let stream = driver.stream(stream)?;
    if device >= 0 {
        driver.device(device)?;
    }
    match driver.range(address, bytes)?.is_managed() {
        true => driver.submit(stream, Work::Nothing),
        false => Err(Error::INVALID_VALUE),
    }
}
