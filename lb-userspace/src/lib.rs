//! The load balancer's daemon and command line.
pub mod api;
pub mod config;
pub mod health;
pub mod net;
pub mod state;
