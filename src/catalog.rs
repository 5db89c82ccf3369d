//! The catalog of models and GPUs: facts with their source, in `data/catalog/*.yaml`.
//!
//! The files are part of the binary; a project's own `data/catalog/` adds to them and overrides them by name.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_kernel::scenario::{GpuSpec, ModelSpec};

use crate::diag::Result;

/// Facts by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub models: BTreeMap<String, ModelSpec>,
    pub gpus: BTreeMap<String, GpuSpec>,
}

/// The built-in catalog, with that of the project on top.
///
/// # Errors
/// A file of the project's catalog that is not valid.
pub fn load(_project: &Path) -> Result<Catalog> {
    unimplemented!()
}
