//! The link to a Redis or Valkey server that several servers of ours share: one connection that heals by itself.
