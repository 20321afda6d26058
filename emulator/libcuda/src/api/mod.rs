//! The exported functions, by area. Argument names are those of the API's documentation where they
//! say something; a handle is a number.

mod context;
mod copy;
mod device;
mod event;
mod fallback;
mod graph;
mod launch;
mod library;
mod memory;
mod module;
mod pointer;
mod pool;
mod stream;
#[cfg(test)]
mod tests;
mod version;

/// Names and addresses of all exported functions.
fn symbols() -> Vec<(&'static str, usize)> {
    let areas = [
        context::symbols(),
        copy::symbols(),
        device::symbols(),
        event::symbols(),
        graph::symbols(),
        launch::symbols(),
        library::symbols(),
        memory::symbols(),
        module::symbols(),
        pointer::symbols(),
        pool::symbols(),
        stream::symbols(),
        version::symbols(),
        fallback::symbols(),
    ];
    areas.into_iter().flatten().collect()
}
