//! Events.

use crate::abi::{Out, exports};
use crate::driver::{Handle, Session, known};
use crate::error::{Error, Result};
use crate::event::DISABLE_TIMING;

/// `CU_EVENT_INTERPROCESS`.
const INTERPROCESS: u32 = 4;

exports! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        match flags {
            flags if flags & !7 != 0 => return Err(Error::INVALID_VALUE),
            flags if flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0 => {
                return Err(Error::INVALID_VALUE);
            }
            _ => (),
        }
        let handle = driver.new_event(context, flags);
        event.set(handle)
    }

    fn cuEventRecord, cuEventRecord_ptsz(event: Handle, stream: Handle) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        driver.record_event(event, stream)
    }

    fn cuEventRecordWithFlags, cuEventRecordWithFlags_ptsz(event: Handle, stream: Handle, flags: u32) {
        let mut driver = Session::open()?;
        let stream = driver.stream(stream)?;
        match flags {
            0 => driver.record_event(event, stream),
            1 => {
                crate::say_once("external events in a graph are not supported");
                Err(Error::NOT_SUPPORTED)
            }
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn cuEventQuery(event: Handle) {
        let mut driver = Session::open()?;
        match driver.event_done(event)? {
            true => Ok(()),
            false => Err(Error::NOT_READY),
        }
    }

    fn cuEventSynchronize(event: Handle) {
        Session::open()?.finish_event(event)
    }

    fn cuEventDestroy_v2(event: Handle) {
        let mut driver = Session::open()?;
        known(&driver.events, event)?;
        driver.events.remove(&event);
        Ok(())
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result {
    let time = Session::open()?.elapsed(start, end)?;
    milliseconds.set(time)
}
