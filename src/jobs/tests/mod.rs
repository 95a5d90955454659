//! The store and the depot by themselves.

mod depot;
mod store;
