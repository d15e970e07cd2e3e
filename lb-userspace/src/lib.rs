//! The load balancer's daemon and command line.
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod explain;
pub mod health;
pub mod image;
pub mod maglev;
pub mod net;
pub mod output;
pub mod overrides;
pub mod plan;
pub mod reconcile;
pub mod state;
pub mod transition;
pub mod view;
