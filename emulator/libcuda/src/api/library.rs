//! Libraries and linking: other ways to load PTX.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::abi::{In, Out, Text, exports};
use crate::api::module::{self, Options, image_of};
use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::host;

/// Texts of links in progress, and whole ones that callers may still read.
static LINKS: Mutex<BTreeMap<Handle, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// `CU_JIT_INPUT_PTX`.
const PTX: u32 = 1;

exports! {
    // A library is a module of the context in which it was loaded.

    fn cuLibraryLoadData(
        library: Out<Handle>, image: In<u8>, options: In<u32>, values: Out<usize>, count: u32,
        _library_options: In<u32>, _library_values: In<usize>, _library_count: u32,
    ) {
        let options = Options::read(count, options, values)?;
        module::load(library, &image_of(image)?, options)
    }

    fn cuLibraryUnload(library: Handle) {
        Session::open()?.unload(library)
    }

    fn cuLibraryGetModule(place: Out<Handle>, library: Handle) {
        Session::open()?.function_names(library)?;
        place.set(library)
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        let found = Session::open()?.function(library, &name.get()?)?;
        kernel.set(found)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        count.set(Session::open()?.function_names(library)?.len() as u32)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        let (base, size) = Session::open()?.variable(library, &name.get()?)?;
        address.put(base);
        bytes.put(size as usize);
        Ok(())
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        Session::open()?.function_and_gpu(kernel)?;
        function.set(kernel)
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle, _device: i32) {
        let driver = Session::open()?;
        value.set(module::get_attribute(&driver, attribute, kernel)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle, _device: i32) {
        let mut driver = Session::open()?;
        module::set_attribute(&mut driver, attribute, value, kernel)
    }

    // Linking takes one PTX text, and gives it back: there is nothing to link it with.

    fn cuLinkCreate_v2(_count: u32, _options: In<u32>, _values: Out<usize>, state: Out<Handle>) {
        let mut driver = Session::open()?;
        driver.current()?;
        let handle = driver.handle();
        links().insert(handle, Vec::new());
        state.set(handle)
    }

    fn cuLinkAddData_v2(state: Handle, kind: u32, data: usize, bytes: usize, _name: usize, _count: u32, _options: In<u32>, _values: Out<usize>) {
        Session::open()?.current()?;
        add(state, kind, host::copy_of(data, bytes))
    }

    fn cuLinkAddFile_v2(state: Handle, kind: u32, path: Text, _count: u32, _options: In<u32>, _values: Out<usize>) {
        Session::open()?.current()?;
        let text = std::fs::read(path.get()?).map_err(|_| Error::FILE_NOT_FOUND)?;
        add(state, kind, text)
    }

    fn cuLinkComplete(state: Handle, image: Out<usize>, bytes: Out<usize>) {
        let links = links();
        let text = links.get(&state).filter(|text| !text.is_empty()).ok_or(Error::INVALID_HANDLE)?;
        image.set(text.as_ptr() as usize)?;
        bytes.put(text.len());
        Ok(())
    }

    fn cuLinkDestroy(state: Handle) {
        links().remove(&state).map(|_| ()).ok_or(Error::INVALID_HANDLE)
    }
}

fn links() -> std::sync::MutexGuard<'static, BTreeMap<Handle, Vec<u8>>> {
    LINKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(state: Handle, kind: u32, mut text: Vec<u8>) -> Result {
    let mut links = links();
    let link = links.get_mut(&state).ok_or(Error::INVALID_HANDLE)?;
    if kind != PTX || !link.is_empty() {
        crate::say_once("linking takes one PTX text and nothing else");
        return Err(Error::NOT_SUPPORTED);
    }
    text.push(0);
    *link = text;
    Ok(())
}
