//! The load balancer's daemon and command line.
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod output;
pub mod overrides;
pub mod state;
