//! Streams and their capture.

use crate::abi::{HostFn, In, Out, StreamCallback, exports};
use crate::api::context::PRIORITIES;
use crate::capture::{Mode, THREAD_MODE};
use crate::driver::{Handle, Session, known};
use crate::error::{Error, Result};
use crate::stream::Order;
use crate::work::{Fill, Work};

/// `CU_STREAM_CAPTURE_STATUS_*`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

exports! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let mut driver = Session::open()?;
        let known = known(&driver.streams, stream)?;
        if let Some(capture) = known.capture {
            return Err(driver.invalidate(capture, Error::STREAM_CAPTURE_UNSUPPORTED));
        }
        // The work that it holds is done nevertheless; here at once.
        let end = driver.end_of(stream);
        let done = driver.finish(end);
        driver.streams.remove(&stream);
        done
    }

    fn cuStreamSynchronize, cuStreamSynchronize_ptsz(stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.refuse_captured(stream)?;
        let order = driver.streams[&stream].order;
        let end = driver.end_of(stream);
        // Whoever waits for the legacy stream waits for those that it is ordered with.
        if order == Order::Legacy {
            driver.submit(stream, Work::Nothing)?;
            return driver.finish((stream, end.1 + 1));
        }
        driver.finish(end)
    }

    fn cuStreamQuery, cuStreamQuery_ptsz(stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.refuse_captured(stream)?;
        driver.poll();
        let context = driver.streams[&stream].context;
        driver.failure(context)?;
        match driver.is_done(driver.end_of(stream)) {
            true => Ok(()),
            false => Err(Error::NOT_READY),
        }
    }

    fn cuStreamWaitEvent, cuStreamWaitEvent_ptsz(stream: Handle, event: Handle, flags: u32) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        match flags {
            0 => driver.wait_event(stream, event),
            1 => {
                crate::say_once("waiting for external events in a graph is not supported");
                Err(Error::NOT_SUPPORTED)
            }
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn cuLaunchHostFunc, cuLaunchHostFunc_ptsz(stream: Handle, function: Option<HostFn>, data: usize) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        let function = function.ok_or(Error::INVALID_VALUE)?;
        driver.submit(stream, Work::Call { function, data })
    }

    fn cuStreamAddCallback, cuStreamAddCallback_ptsz(stream: Handle, function: Option<StreamCallback>, data: usize, flags: u32) {
        let mut driver = Session::open()?;
        let handle = stream;
        let stream = driver.stream(stream)?;
        let function = function.filter(|_| flags == 0).ok_or(Error::INVALID_VALUE)?;
        if let Some(capture) = driver.streams[&stream].capture {
            return Err(driver.invalidate(capture, Error::STREAM_CAPTURE_UNSUPPORTED));
        }
        driver.submit(stream, Work::CallBack { function, stream: handle, data })
    }

    fn cuStreamGetFlags, cuStreamGetFlags_ptsz(stream: Handle, flags: Out<u32>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        flags.set(driver.streams[&stream].flags)
    }

    fn cuStreamGetPriority, cuStreamGetPriority_ptsz(stream: Handle, priority: Out<i32>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        priority.set(driver.streams[&stream].priority)
    }

    fn cuStreamGetCtx, cuStreamGetCtx_ptsz(stream: Handle, context: Out<Handle>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        context.set(driver.streams[&stream].context)
    }

    fn cuStreamGetDevice, cuStreamGetDevice_ptsz(stream: Handle, device: Out<i32>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        let context = driver.streams[&stream].context;
        device.set(driver.context(context)?.device as i32)
    }

    fn cuStreamGetId, cuStreamGetId_ptsz(stream: Handle, id: Out<u64>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        id.set(stream as u64)
    }

    fn cuStreamBeginCapture_v2, cuStreamBeginCapture_v2_ptsz(stream: Handle, mode: u32) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.begin_capture(stream, Mode::of(mode)?)
    }

    fn cuStreamEndCapture, cuStreamEndCapture_ptsz(stream: Handle, graph: Out<Handle>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        graph.put(0);
        let captured = driver.end_capture(stream)?;
        graph.set(captured)
    }

    fn cuStreamIsCapturing, cuStreamIsCapturing_ptsz(stream: Handle, status: Out<u32>) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.implicit(stream).map_or(Ok(()), |_| Err(Error::STREAM_CAPTURE_IMPLICIT))?;
        status.set(status_of(&driver, stream).0)
    }

    fn cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>) {
        capture_info(stream, status, id).map(|_| ())
    }

    fn cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v2_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, count: Out<usize>) {
        let captured = capture_info(stream, status, id)?;
        graph.put(captured);
        // The list would have to outlive the call; none is promised before it is asked for.
        dependencies.put(0);
        count.put(0);
        Ok(())
    }

    fn cuStreamGetCaptureInfo_v3, cuStreamGetCaptureInfo_v3_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, edges: Out<usize>, count: Out<usize>) {
        let captured = capture_info(stream, status, id)?;
        graph.put(captured);
        dependencies.put(0);
        edges.put(0);
        count.put(0);
        Ok(())
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        Session::open()?;
        let new = Mode::of(mode.get()?)?;
        mode.set(THREAD_MODE.replace(new) as u32)
    }

    fn cuStreamWriteValue32_v2, cuStreamWriteValue32_v2_ptsz(stream: Handle, address: u64, value: u32, flags: u32) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.range(address, 4)?;
        if flags > 1 || !address.is_multiple_of(4) {
            return Err(Error::INVALID_VALUE);
        }
        let fill = Fill { to: address, value: value.to_le_bytes(), size: 4, width: 1, rows: 1, pitch: 0 };
        driver.submit(stream, Work::Fill(fill))
    }

    fn cuStreamCopyAttributes, cuStreamCopyAttributes_ptsz(to: Handle, from: Handle) {
        let mut driver = Session::open()?;
        driver.stream(to)?;
        driver.stream(from).map(|_| ())
    }

    fn cuStreamSetAttribute, cuStreamSetAttribute_ptsz(stream: Handle, _attribute: u32, _value: In<u8>) {
        // They tune caches and scheduling, which are not modelled.
        Session::open()?.stream(stream).map(|_| ())
    }
}

fn create(stream: Out<Handle>, flags: u32, priority: i32) -> Result {
    let mut driver = Session::open()?;
    let context = driver.current()?;
    let order = match flags {
        0 => Order::Blocking,
        1 => Order::NonBlocking,
        _ => return Err(Error::INVALID_VALUE),
    };
    // Numbers beyond the range mean its ends.
    let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
    let handle = driver.new_stream(context, order, priority, flags);
    stream.set(handle)
}

/// Status of a stream's capture, and the capture.
fn status_of(driver: &Session, stream: Handle) -> (u32, Option<Handle>) {
    let capture = driver.streams[&stream].capture;
    let found = capture.and_then(|capture| driver.captures.get(&capture));
    match found {
        None => (NONE, None),
        Some(found) if found.invalid => (INVALIDATED, capture),
        Some(_) => (ACTIVE, capture),
    }
}

/// Writes status and number of a capture; its graph, or 0.
fn capture_info(stream: Handle, status: Out<u32>, id: Out<u64>) -> Result<Handle> {
    let mut driver = Session::open()?;
    let stream = driver.stream(stream)?;
    driver
        .implicit(stream)
        .map_or(Ok(()), |_| Err(Error::STREAM_CAPTURE_IMPLICIT))?;
    let (state, capture) = status_of(&driver, stream);
    status.set(state)?;
    let Some(capture) = capture.filter(|_| state == ACTIVE) else {
        return Ok(0);
    };
    id.put(capture as u64);
    Ok(driver.captures[&capture].graph)
}
