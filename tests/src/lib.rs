//! The namespace test bed, and what tests, demo and benchmarks share.
pub mod prog_run;
