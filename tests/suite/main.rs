//! One binary, so that the whole stack is linked once.

#![allow(clippy::unwrap_used)]

mod support;

mod behaviours;
mod cache_safety;
mod cancellation;
mod client;
mod extractors;
mod leaks;
mod proofs;
mod properties;
mod readiness;
mod resolvers;
