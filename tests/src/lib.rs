//! The test bed: a small network in namespaces, with real web servers, a real client and the
//! balancer in it. Used by the namespace tests, the demo and the benchmarks.
//!
//! ```text
//!   client --+
//!            |
//!   lb1 -----+-- switch (a bridge in a namespace of its own)
//!            |
//!   web1 ----+
//!   web2 ----+        every node: eth0, 02:00:00:00:00:NN, 10.9.0.NN/24, fd09::NN/64
//! ```
//!
//! Everything that a [`bed::Bed`] makes carries its prefix, and goes when the bed is dropped, by
//! a panic too, and on SIGINT and SIGTERM. What a SIGKILL leaves, `cargo xtask clean-bed` removes.
//! This is code for tests: what cannot be done panics and says why.

pub mod balancer;
pub mod bed;
pub mod bench;
pub mod client;
pub mod daemon;
pub mod datagrams;
pub mod echo;
pub mod flows;
pub mod inject;
mod interrupt;
pub mod node;
pub mod privilege;
pub mod prog_run;
pub mod quic;
pub mod random;
pub mod stage;
pub mod talk;
pub mod vlan;
pub mod wait;
pub mod web;
pub mod worker;
