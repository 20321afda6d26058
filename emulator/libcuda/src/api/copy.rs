//! Copying and filling.
//!
//! Copies that the host waits for are done when the call returns, except between two places on
//! devices, where the API does not wait, and fills, where it does not either.

use std::sync::Arc;

use crate::abi::{In, exports};
use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::host;
use crate::work::{Copy, Fill, Side, Work};

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2D {
    from: Place2D,
    to: Place2D,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Place2D {
    x: usize,
    y: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3D {
    from: Place3D,
    to: Place3D,
    width: usize,
    height: usize,
    depth: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Place3D {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

exports! {
    fn cuMemcpy, cuMemcpy_ptds(to: u64, from: u64, bytes: usize) {
        plain(Target::Any(to), Target::Any(from), bytes, 0, Waits::Yes)
    }
    fn cuMemcpyAsync, cuMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize, stream: Handle) {
        plain(Target::Any(to), Target::Any(from), bytes, stream, Waits::No)
    }
    fn cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds(to: u64, from: usize, bytes: usize) {
        plain(Target::Device(to), Target::Host(from), bytes, 0, Waits::Yes)
    }
    fn cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz(to: u64, from: usize, bytes: usize, stream: Handle) {
        plain(Target::Device(to), Target::Host(from), bytes, stream, Waits::No)
    }
    fn cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds(to: usize, from: u64, bytes: usize) {
        plain(Target::Host(to), Target::Device(from), bytes, 0, Waits::Yes)
    }
    fn cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz(to: usize, from: u64, bytes: usize, stream: Handle) {
        plain(Target::Host(to), Target::Device(from), bytes, stream, Waits::No)
    }
    fn cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds(to: u64, from: u64, bytes: usize) {
        plain(Target::Device(to), Target::Device(from), bytes, 0, Waits::Yes)
    }
    fn cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz(to: u64, from: u64, bytes: usize, stream: Handle) {
        plain(Target::Device(to), Target::Device(from), bytes, stream, Waits::No)
    }
    fn cuMemcpyPeer, cuMemcpyPeer_ptds(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        both_known(to_context, from_context)?;
        plain(Target::Device(to), Target::Device(from), bytes, 0, Waits::Yes)
    }
    fn cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        both_known(to_context, from_context)?;
        plain(Target::Device(to), Target::Device(from), bytes, stream, Waits::No)
    }
    fn cuMemcpy2D_v2, cuMemcpy2D_v2_ptds(copy: In<Copy2D>) {
        copy_2d(copy.get()?, 0, Waits::Yes)
    }
    fn cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds(copy: In<Copy2D>) {
        copy_2d(copy.get()?, 0, Waits::Yes)
    }
    fn cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz(copy: In<Copy2D>, stream: Handle) {
        copy_2d(copy.get()?, stream, Waits::No)
    }
    fn cuMemcpy3D_v2, cuMemcpy3D_v2_ptds(copy: In<Copy3D>) {
        copy_3d(copy.get()?, 0, Waits::Yes)
    }
    fn cuMemcpy3DAsync_v2, cuMemcpy3DAsync_v2_ptsz(copy: In<Copy3D>, stream: Handle) {
        copy_3d(copy.get()?, stream, Waits::No)
    }
    fn cuMemsetD8_v2, cuMemsetD8_v2_ptds(to: u64, value: u8, count: usize) {
        fill(to, u32::from(value), 1, [count, 1, 0], 0)
    }
    fn cuMemsetD16_v2, cuMemsetD16_v2_ptds(to: u64, value: u16, count: usize) {
        fill(to, u32::from(value), 2, [count, 1, 0], 0)
    }
    fn cuMemsetD32_v2, cuMemsetD32_v2_ptds(to: u64, value: u32, count: usize) {
        fill(to, value, 4, [count, 1, 0], 0)
    }
    fn cuMemsetD8Async, cuMemsetD8Async_ptsz(to: u64, value: u8, count: usize, stream: Handle) {
        fill(to, u32::from(value), 1, [count, 1, 0], stream)
    }
    fn cuMemsetD16Async, cuMemsetD16Async_ptsz(to: u64, value: u16, count: usize, stream: Handle) {
        fill(to, u32::from(value), 2, [count, 1, 0], stream)
    }
    fn cuMemsetD32Async, cuMemsetD32Async_ptsz(to: u64, value: u32, count: usize, stream: Handle) {
        fill(to, value, 4, [count, 1, 0], stream)
    }
    fn cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(to, u32::from(value), 1, [width, height, pitch], 0)
    }
    fn cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill(to, u32::from(value), 2, [width, height, pitch], 0)
    }
    fn cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(to, value, 4, [width, height, pitch], 0)
    }
    fn cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz(to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) {
        fill(to, u32::from(value), 1, [width, height, pitch], stream)
    }
    fn cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz(to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle) {
        fill(to, u32::from(value), 2, [width, height, pitch], stream)
    }
    fn cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz(to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) {
        fill(to, value, 4, [width, height, pitch], stream)
    }
}

/// Whether the host waits.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    Yes,
    No,
}

/// One end of a copy as the call names it.
#[derive(Clone, Copy)]
enum Target {
    Device(u64),
    Host(usize),
    /// Whichever the address says.
    Any(u64),
}

impl Target {
    fn side(self, driver: &Session, extent: usize) -> Result<Side> {
        match self {
            Target::Device(address) => driver.device_side(address, extent),
            Target::Host(0) => Err(Error::INVALID_VALUE),
            Target::Host(address) => Ok(Side::Host(address)),
            Target::Any(address) => driver.side(address, extent),
        }
    }
}

fn both_known(to: Handle, from: Handle) -> Result {
    let driver = Session::open()?;
    driver.context(to)?;
    driver.context(from)?;
    Ok(())
}

fn plain(to: Target, from: Target, bytes: usize, stream: Handle, waits: Waits) -> Result {
    let mut driver = Session::open()?;
    let stream = begin(&mut driver, stream, waits)?;
    if bytes == 0 {
        return Ok(());
    }
    let (to, from) = (to.side(&driver, bytes)?, from.side(&driver, bytes)?);
    enqueue(
        &mut driver,
        stream,
        vec![Copy::plain(to, from, bytes)],
        waits,
    )
}

/// The stream of a copy; one that the host waits for cannot be captured.
fn begin(driver: &mut Session, stream: Handle, waits: Waits) -> Result<Handle> {
    let stream = driver.stream(stream)?;
    if waits == Waits::Yes {
        driver.refuse_captured(stream)?;
        driver.refuse_unsafe()?;
    }
    Ok(stream)
}

fn enqueue(driver: &mut Session, stream: Handle, copies: Vec<Copy>, waits: Waits) -> Result {
    let capturing = driver.streams[&stream].capture.is_some();
    let mut finish = false;
    for mut copy in copies {
        let on_devices = matches!((&copy.from, &copy.to), (Side::Device(_), Side::Device(_)));
        finish |= waits == Waits::Yes && !on_devices;
        if !capturing {
            // The driver keeps what it copies from memory that is not page-locked, and waits for
            // what it copies there.
            match copy.from {
                Side::Host(address) if !driver.is_locked(address) => {
                    let len = (copy.rows - 1) * copy.from_pitch + copy.width;
                    copy.from = Side::Kept(Arc::from(host::copy_of(address, len)));
                }
                _ => (),
            }
            if let Side::Host(address) = copy.to {
                finish |= !driver.is_locked(address);
            }
        }
        driver.submit(stream, Work::Copy(copy))?;
    }
    match finish {
        true => {
            let end = driver.end_of(stream);
            driver.finish(end)
        }
        false => Ok(()),
    }
}

/// A range of rows as one side of a copy, checked from its first byte to its last.
fn rows(
    driver: &Session,
    [kind, host, device, array]: [u64; 4],
    offset: usize,
    extent: usize,
) -> Result<Side> {
    let target = match kind {
        1 => Target::Host(host as usize + offset),
        2 => Target::Device(device + offset as u64),
        4 => Target::Any(device + offset as u64),
        _ => {
            let _ = array;
            crate::say_once("copies from and to CUDA arrays are not supported");
            return Err(Error::NOT_SUPPORTED);
        }
    };
    target.side(driver, extent)
}

fn copy_2d(copy: Copy2D, stream: Handle, waits: Waits) -> Result {
    let place = |place: Place2D| Place3D {
        x: place.x,
        y: place.y,
        z: 0,
        level: 0,
        kind: place.kind,
        host: place.host,
        device: place.device,
        array: place.array,
        reserved: 0,
        pitch: place.pitch,
        height: copy.height,
    };
    let copy = Copy3D {
        from: place(copy.from),
        to: place(copy.to),
        width: copy.width,
        height: copy.height,
        depth: 1,
    };
    copy_3d(copy, stream, waits)
}

fn copy_3d(copy: Copy3D, stream: Handle, waits: Waits) -> Result {
    let mut driver = Session::open()?;
    let stream = begin(&mut driver, stream, waits)?;
    let Copy3D {
        width,
        height,
        depth,
        ..
    } = copy;
    if width == 0 || height == 0 || depth == 0 {
        return Ok(());
    }
    let pitch = |place: Place3D| if place.pitch == 0 { width } else { place.pitch };
    let (to_pitch, from_pitch) = (pitch(copy.to), pitch(copy.from));
    if to_pitch < width || from_pitch < width {
        return Err(Error::INVALID_VALUE);
    }
    let side = |place: Place3D, pitch: usize, slice: usize| {
        let slices = (place.z + slice) * pitch * place.height.max(height);
        let offset = slices + place.y * pitch + place.x;
        let ends = [
            u64::from(place.kind),
            place.host as u64,
            place.device,
            place.array as u64,
        ];
        rows(&driver, ends, offset, (height - 1) * pitch + width)
    };
    let slices = (0..depth).map(|slice| {
        Ok(Copy {
            to: side(copy.to, to_pitch, slice)?,
            from: side(copy.from, from_pitch, slice)?,
            width,
            rows: height,
            to_pitch,
            from_pitch,
        })
    });
    let slices = slices.collect::<Result<Vec<_>>>()?;
    enqueue(&mut driver, stream, slices, waits)
}

fn fill(
    to: u64,
    value: u32,
    size: usize,
    [width, rows, pitch]: [usize; 3],
    stream: Handle,
) -> Result {
    let mut driver = Session::open()?;
    let stream = driver.stream(stream)?;
    if width == 0 || rows == 0 {
        return Ok(());
    }
    let bytes = width.checked_mul(size).ok_or(Error::INVALID_VALUE)?;
    let extent = (rows - 1)
        .checked_mul(pitch)
        .and_then(|rest| rest.checked_add(bytes));
    driver.range(to, extent.ok_or(Error::INVALID_VALUE)?)?;
    if !to.is_multiple_of(size as u64) || rows > 1 && (pitch < bytes || !pitch.is_multiple_of(size))
    {
        return Err(Error::INVALID_VALUE);
    }
    let fill = Fill {
        to,
        value: value.to_le_bytes(),
        size,
        width,
        rows,
        pitch,
    };
    driver.submit(stream, Work::Fill(fill))
}
