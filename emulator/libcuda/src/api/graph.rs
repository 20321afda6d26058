//! Graphs.

use std::sync::Arc;

use crate::abi::{HostFn, In, Out, exports};
use crate::driver::{Handle, Session, known, known_mut};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::launch::Shape;
use crate::work::{Fill, Work};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_*`.
const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const NODE_PRIORITY: u64 = 8;

/// `CUDA_KERNEL_NODE_PARAMS`, as it is in all versions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNode {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: usize,
    extra: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillNode {
    to: u64,
    pitch: usize,
    value: u32,
    size: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostNode {
    function: Option<HostFn>,
    data: usize,
}

exports! {
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        let mut driver = Session::open()?;
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let handle = driver.handle();
        driver.graphs.insert(handle, Graph::default());
        graph.set(handle)
    }

    fn cuGraphDestroy(graph: Handle) {
        let mut driver = Session::open()?;
        driver.graphs.remove(&graph).map(|_| ()).ok_or(Error::INVALID_VALUE)
    }

    fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) {
        match flags {
            // To free on launch, and priorities: nothing that could be freed, or would be faster.
            0 | AUTO_FREE | NODE_PRIORITY => (),
            both if both == AUTO_FREE | NODE_PRIORITY => (),
            DEVICE_LAUNCH => {
                crate::say_once("launching graphs from a device is not supported");
                return Err(Error::NOT_SUPPORTED);
            }
            _ => return Err(Error::INVALID_VALUE),
        }
        let handle = Session::open()?.instantiate(graph)?;
        exec.set(handle)
    }

    fn cuGraphInstantiate_v2(exec: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<u8>, room: usize) {
        error_node.put(0);
        if room > 0 {
            log.put(0);
        }
        let handle = Session::open()?.instantiate(graph)?;
        exec.set(handle)
    }

    fn cuGraphExecDestroy(exec: Handle) {
        let mut driver = Session::open()?;
        driver.execs.remove(&exec).map(|_| ()).ok_or(Error::INVALID_VALUE)
    }

    fn cuGraphUpload, cuGraphUpload_ptsz(exec: Handle, stream: Handle) {
        let mut driver = Session::open()?;
        known(&driver.execs, exec)?;
        let stream = driver.stream(stream)?;
        driver.refuse_captured(stream)?;
        driver.submit(stream, Work::Nothing)
    }

    fn cuGraphLaunch, cuGraphLaunch_ptsz(exec: Handle, stream: Handle) {
        let mut driver = Session::open()?;
        let graph = known(&driver.execs, exec)?.graph.clone();
        let stream = driver.stream(stream)?;
        driver.submit(stream, Work::Graph(graph))
    }

    fn cuGraphAddKernelNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNode>) {
        add_kernel(node, graph, after, count, params)
    }

    fn cuGraphAddKernelNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNode>) {
        add_kernel(node, graph, after, count, params)
    }

    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        let mut driver = Session::open()?;
        add(&mut driver, node, graph, after.take(count)?, Work::Nothing)
    }

    fn cuGraphAddHostNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<HostNode>) {
        let mut driver = Session::open()?;
        let HostNode { function, data } = params.get()?;
        let function = function.ok_or(Error::INVALID_VALUE)?;
        add(&mut driver, node, graph, after.take(count)?, Work::Call { function, data })
    }

    fn cuGraphAddMemsetNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillNode>, context: Handle) {
        let mut driver = Session::open()?;
        driver.context(context)?;
        let FillNode { to, pitch, value, size, width, height } = params.get()?;
        let bytes = width * size as usize;
        let extent = height.saturating_sub(1) * pitch + bytes;
        driver.range(to, extent)?;
        if !matches!(size, 1 | 2 | 4) || width == 0 || height == 0 || height > 1 && pitch < bytes {
            return Err(Error::INVALID_VALUE);
        }
        let fill = Fill { to, value: value.to_le_bytes(), size: size as usize, width, rows: height, pitch };
        add(&mut driver, node, graph, after.take(count)?, Work::Fill(fill))
    }

    fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        let mut driver = Session::open()?;
        let graph = known_mut(&mut driver.graphs, graph)?;
        for (from, to) in from.take(count)?.into_iter().zip(to.take(count)?) {
            if !graph.nodes.contains_key(&from) {
                return Err(Error::INVALID_VALUE);
            }
            let node = graph.nodes.get_mut(&to).ok_or(Error::INVALID_VALUE)?;
            if from == to || node.after.contains(&from) {
                return Err(Error::INVALID_VALUE);
            }
            node.after.push(from);
        }
        Ok(())
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let driver = Session::open()?;
        let all = known(&driver.graphs, graph)?.nodes.keys().copied();
        list(all.collect(), nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let driver = Session::open()?;
        let all = known(&driver.graphs, graph)?.nodes.iter();
        let roots = all.filter(|(_, node)| node.after.is_empty());
        list(roots.map(|(&handle, _)| handle).collect(), nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) {
        let driver = Session::open()?;
        let (ends, starts) = edges(known(&driver.graphs, graph)?);
        let room = count.get()?;
        list(starts, from, count)?;
        count.put(room);
        list(ends, to, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let driver = Session::open()?;
        list(find(&driver, node)?.after.clone(), nodes, count)
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<u32>) {
        let driver = Session::open()?;
        kind.set(match find(&driver, node)?.work {
            Work::Launch(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Call { .. } | Work::CallBack { .. } => 3,
            Work::Graph(_) => 4,
            Work::Nothing => 5,
            Work::Record { .. } => 7,
            Work::Free(_) => 11,
        })
    }

    fn cuGraphKernelNodeGetParams(node: Handle, params: Out<KernelNode>) {
        let driver = Session::open()?;
        params.set(kernel_of(find(&driver, node)?)?)
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle, params: Out<KernelNode>) {
        let driver = Session::open()?;
        params.set(kernel_of(find(&driver, node)?)?)
    }
}

fn find(driver: &Session, node: Handle) -> Result<&Node> {
    let mut graphs = driver.graphs.values();
    graphs
        .find_map(|graph| graph.nodes.get(&node))
        .ok_or(Error::INVALID_VALUE)
}

fn add(
    driver: &mut Session,
    place: Out<Handle>,
    graph: Handle,
    after: Vec<Handle>,
    work: Work,
) -> Result {
    let node = driver.handle();
    let graph = known_mut(&mut driver.graphs, graph)?;
    if after.iter().any(|before| !graph.nodes.contains_key(before)) {
        return Err(Error::INVALID_VALUE);
    }
    graph.nodes.insert(node, Node { work, after });
    place.set(node)
}

fn add_kernel(
    node: Out<Handle>,
    graph: Handle,
    after: In<Handle>,
    count: usize,
    params: In<KernelNode>,
) -> Result {
    let mut driver = Session::open()?;
    let params = params.get()?;
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        shared: params.shared,
    };
    let launch = driver.prepare(params.function, shape, params.params, params.extra)?;
    add(
        &mut driver,
        node,
        graph,
        after.take(count)?,
        Work::Launch(Arc::new(launch)),
    )
}

/// A kernel's node as it was made, but for the parameters, which were copied.
fn kernel_of(node: &Node) -> Result<KernelNode> {
    let Work::Launch(launch) = &node.work else {
        return Err(Error::INVALID_VALUE);
    };
    Ok(KernelNode {
        function: launch.function,
        grid: launch.config.grid,
        block: launch.config.block,
        shared: launch.config.dynamic_smem,
        params: 0,
        extra: 0,
    })
}

/// Ends and starts of all edges.
fn edges(graph: &Graph) -> (Vec<Handle>, Vec<Handle>) {
    let nodes = graph.nodes.iter();
    nodes
        .flat_map(|(&end, node)| node.after.iter().map(move |&start| (end, start)))
        .unzip()
}

/// Writes a list where there is room for it; without a place, how long it is.
fn list(all: Vec<Handle>, place: Out<Handle>, count: Out<usize>) -> Result {
    if place.is_null() {
        return count.set(all.len());
    }
    let room = count.get()?;
    for index in 0..room {
        place.put_at(index, all.get(index).copied().unwrap_or(0));
    }
    count.set(all.len().min(room))
}
