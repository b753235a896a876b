//! One binary, so that the whole stack is linked once.

// A test may panic, and be plain rather than fast.
#![allow(
    clippy::float_cmp,
    clippy::format_push_string,
    clippy::items_after_statements,
    clippy::unwrap_used
)]

mod support;

mod accounts;
mod admission;

mod behaviours;
mod by_hand;
mod cache_safety;
mod cancellation;
mod check;
mod client;
mod connections;
mod dead_pool;
mod disabled;
mod driving;
mod embed;
mod endpoint;
mod examples;
mod extractors;
mod fake;
mod faults;
mod fill;
mod filters;
mod grpc;
mod http_service;
mod leaks;
mod logs;
#[cfg(feature = "metrics")]
mod metrics;
mod monitoring;
mod nesting;
mod parked_and_refused;
mod promises;
mod proofs;
mod properties;
mod readiness;
mod resolvers;
mod scaling_out;
mod signing_in;
mod state;
mod telemetry;
#[cfg(target_os = "linux")]
mod tls;
