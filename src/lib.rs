//! Hand-written CUDA kernels for LLM inference.
