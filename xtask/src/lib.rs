//! The part of the developer's entry point that the test bed shares: the register of beds.
//!
//! The commands are in the binary, `cargo xtask`. Product code never depends on this crate.

pub mod registry;
