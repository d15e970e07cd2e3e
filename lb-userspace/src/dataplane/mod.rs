//! Where desired state is written to: a placeholder.

pub mod bpf;
