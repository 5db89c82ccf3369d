//! Opens a file and unpacks it while reading: gzip (also of several members, as `cat a.gz b.gz` and `bgzip` make it)
//! and zstd, recognised by their first bytes and not by their name.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::diag::{self, Result};

/// Told how many bytes of the file, as it lies on disk, were read.
pub type OnBytes = Box<dyn FnMut(u64) + Send>;

/// The unpacked content of a file, its first bytes already read.
pub struct Content {
    /// The first bytes, without the byte order mark: at least one whole line, or [`HEAD_MAX`], or all there is.
    pub head: Vec<u8>,
    /// There was a byte order mark.
    pub marked: bool,
    pub rest: Box<dyn Read + Send>,
    /// How it was packed: `gzip` or `zstd`.
    pub packed: Option<&'static str>,
}

/// Bytes of a head at least, where there are so many.
const HEAD: usize = 1 << 16;
/// Bytes of a head at most.
const HEAD_MAX: usize = 1 << 20;

/// Opens `path` (called `written` by the user).
///
/// # Errors
/// The file cannot be read or unpacked.
pub fn open(path: &Path, written: &str, on_bytes: OnBytes) -> Result<Content> {
    let fail = |e: io::Error| diag::io(Path::new(written), "read", &e);
    let file = File::open(path).map_err(fail)?;
    let mut raw = Counted { inner: file, on_bytes };
    let mut magic = Vec::new();
    raw.by_ref().take(4).read_to_end(&mut magic).map_err(fail)?;
    let whole = io::Cursor::new(magic.clone()).chain(raw);
    let gzip = |raw| flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, raw));
    let (packed, mut rest): (_, Box<dyn Read + Send>) = match magic.as_slice() {
        [0x1F, 0x8B, ..] => (Some("gzip"), Box::new(gzip(whole))),
        [0x28, 0xB5, 0x2F, 0xFD] => (Some("zstd"), Box::new(zstd::Decoder::new(whole).map_err(fail)?)),
        _ => (None, Box::new(whole)),
    };
    let mut head = Vec::new();
    loop {
        let got = rest.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(fail)?;
        let first = head.trim_ascii_start();
        if got == 0 || head.len() >= HEAD_MAX || first.contains(&b'\n') {
            break;
        }
    }
    let marked = head.starts_with(b"\xEF\xBB\xBF");
    if marked {
        head.drain(..3);
    }
    Ok(Content { head, marked, rest, packed })
}

struct Counted<R> {
    inner: R,
    on_bytes: OnBytes,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}

/// The whole content of a small file.
///
/// # Errors
/// The file cannot be read.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}
