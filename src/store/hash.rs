//! Hashes: of bytes, of canonical JSON, of schemas. A fingerprint is the hash of a [`Recipe`].
//!
//! Canonical JSON has sorted keys and no white space. Numbers stay as they were written: `1` and `1.0` may give columns
//! of different types, so they are different recipes.

use std::io::{Read, Write};
use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};

use super::{Hash, PartManifest, Recipe};
use crate::diag::{Result, io};

/// Version of what enters a fingerprint, and how. Raised by hand; every result made before is then made again.
pub const KEY_SCHEMA: &str = "pipe-key-v1";

impl Hash {
    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(blake3::hash(bytes).to_hex().to_string())
    }

    /// Of a JSON value in canonical form: the order of keys does not matter.
    pub fn of_json(value: &Value) -> Hash {
        Hash::of(canonical(value).as_bytes())
    }

    /// The first digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Recipe {
    /// The name of the result in the store.
    pub fn fingerprint(&self) -> Hash {
        // Without `..`: a new field does not compile until someone decides whether it changes rows.
        let Recipe { kind, version, config, seed, inputs, files } = self;
        Hash::of_json(&json!({
            "schema": KEY_SCHEMA,
            "kind": kind,
            "version": version,
            "config": config,
            "seed": seed,
            "inputs": inputs,
            "files": files,
        }))
    }
}

/// JSON with sorted keys and without white space.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(&map[key.as_str()], out);
            }
            out.push('}');
        }
    }
}

/// Of columns with their types, nullability and metadata, and of the schema's own metadata.
pub fn schema_hash(schema: &Schema) -> Hash {
    let fields: Vec<Value> = schema.fields().iter().map(|f| field_json(f)).collect();
    Hash::of_json(&json!({ "fields": fields, "metadata": schema.metadata() }))
}

fn field_json(field: &Field) -> Value {
    json!({
        "name": field.name(),
        "type": type_json(field.data_type()),
        "nullable": field.is_nullable(),
        "metadata": field.metadata(),
    })
}

/// Nested types by their fields, because the metadata inside prints in no particular order.
fn type_json(kind: &DataType) -> Value {
    match kind {
        DataType::List(f) => json!({ "list": field_json(f) }),
        DataType::LargeList(f) => json!({ "large_list": field_json(f) }),
        DataType::ListView(f) => json!({ "list_view": field_json(f) }),
        DataType::LargeListView(f) => json!({ "large_list_view": field_json(f) }),
        DataType::FixedSizeList(f, n) => json!({ "fixed_size_list": [field_json(f), n] }),
        DataType::Map(f, sorted) => json!({ "map": [field_json(f), sorted] }),
        DataType::Struct(fields) => json!({ "struct": fields.iter().map(|f| field_json(f)).collect::<Vec<_>>() }),
        DataType::Dictionary(key, value) => json!({ "dictionary": [type_json(key), type_json(value)] }),
        DataType::RunEndEncoded(ends, values) => json!({ "run_end": [field_json(ends), field_json(values)] }),
        leaf => json!(format!("{leaf:?}")),
    }
}

/// Of a table: its schema and its parts, whatever the stage is called.
pub(super) fn table_hash(schema: &Schema, parts: &[PartManifest]) -> Hash {
    let parts: Vec<Value> = parts.iter().map(|p| json!([p.rows, p.bytes, p.hash])).collect();
    Hash::of_json(&json!({ "schema": schema_hash(schema), "parts": parts }))
}

/// Reads a file to its end and hashes it.
pub(super) fn hash_file(path: &Path) -> Result<Hash> {
    let mut file = std::fs::File::open(path).map_err(|e| io(path, "read", &e))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Hash(hasher.finalize().to_hex().to_string())),
            Ok(n) => {
                hasher.update(&buffer[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(path, "read", &e)),
        }
    }
}

/// A file that is hashed while it is written.
pub(super) struct HashingFile {
    pub file: std::fs::File,
    pub hasher: blake3::Hasher,
    pub bytes: u64,
}

impl HashingFile {
    pub fn create(path: &Path) -> Result<HashingFile> {
        let file = std::fs::File::create_new(path).map_err(|e| super::disk(path, "write", &e))?;
        Ok(HashingFile { file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Makes the file durable; its length in bytes and its hash.
    pub fn seal(self, path: &Path) -> Result<(u64, Hash)> {
        self.file.sync_all().map_err(|e| super::disk(path, "write", &e))?;
        Ok((self.bytes, Hash(self.hasher.finalize().to_hex().to_string())))
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
