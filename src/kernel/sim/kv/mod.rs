//! KV
