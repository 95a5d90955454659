//! Signed news about jobs, delivered to whoever asked for it.
