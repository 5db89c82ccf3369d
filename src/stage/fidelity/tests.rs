//! Reports over small measured sets.
