//! The store by itself, with a clock of its own.

mod store;
