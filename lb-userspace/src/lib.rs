//! The load balancer's daemon and command line.
pub mod api;
pub mod config;
pub mod dataplane;
pub mod explain;
pub mod image;
pub mod maglev;
pub mod plan;
pub mod reconcile;
pub mod state;
pub mod view;
