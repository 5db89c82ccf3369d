//! The clients of `object_store`, for code that waits.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::time::Duration;

use futures::StreamExt;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, GetOptions, GetResult, ObjectMeta, ObjectStore, RetryConfig};
use url::Url;

use crate::store::Hash;

/// How long to wait for the next piece of an object.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object and whom to ask for it.
struct Object {
    store: Box<dyn ObjectStore>,
    path: Path,
}

/// What stands for the content of an object: its tag, or a hash of it all.
pub fn identity(written: &str) -> Result<Hash, String> {
    waiting(async {
        let object = Object::of(written)?;
        let meta = object.ask(GetOptions { head: true, ..GetOptions::default() }).await?.meta;
        if let Some(tag) = tag(&meta) {
            return Ok(Hash::of(format!("{tag} {}", meta.size).as_bytes()));
        }
        let mut hasher = blake3::Hasher::new();
        object
            .stream(|bytes| {
                hasher.update(bytes);
                Ok(())
            })
            .await?;
        Ok(Hash(hasher.finalize().to_hex().to_string()))
    })
}

/// Writes an object to a file.
pub fn fetch(written: &str, mut to: &File, on_bytes: &mut (dyn FnMut(u64) + Send)) -> Result<(), String> {
    waiting(async {
        let write = |bytes: &[u8]| {
            on_bytes(bytes.len() as u64);
            to.write_all(bytes).map_err(|e| format!("cannot write it to disk: {e}"))
        };
        Object::of(written)?.stream(write).await
    })
}

fn tag(meta: &ObjectMeta) -> Option<String> {
    meta.version.clone().or_else(|| meta.e_tag.clone())
}

impl Object {
    fn of(written: &str) -> Result<Object, String> {
        let url = Url::parse(written).map_err(|e| format!("no address: {e}"))?;
        if matches!(url.scheme(), "http" | "https") {
            // As it stands, whoever's host it is: public objects of the large stores need no credentials.
            let path = Path::from_url_path(url.path()).map_err(|e| e.to_string())?;
            let retry = RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
                max_retries: 4,
                retry_timeout: Duration::from_secs(120),
            };
            let options = ClientOptions::new().with_allow_http(url.scheme() == "http").with_timeout_disabled();
            let builder = HttpBuilder::new().with_url(&url[..url::Position::BeforePath]);
            let store = builder.with_retry(retry).with_client_options(options).build();
            return Ok(Object { store: Box::new(store.map_err(|e| e.to_string())?), path });
        }
        let named = std::env::vars().filter(|(name, _)| {
            ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.to_ascii_uppercase().starts_with(prefix))
        });
        // A large object takes longer than the clients' half a minute.
        let settings = named.chain([("timeout".to_string(), "1day".to_string())]);
        let (store, path) = object_store::parse_url_opts(&url, settings).map_err(|e| e.to_string())?;
        Ok(Object { store, path })
    }

    async fn ask(&self, options: GetOptions) -> Result<GetResult, String> {
        self.store.get_opts(&self.path, options).await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => "it is not there".to_string(),
            e => e.to_string(),
        })
    }

    /// Calls `sink` with the content, piece by piece. A connection that breaks is taken up where it broke, if the server
    /// says by a tag that the object is still the same.
    async fn stream(&self, mut sink: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let got = self.ask(GetOptions::default()).await?;
        let (size, mut come) = (got.meta.size, 0);
        let mut pieces = got.into_stream();
        let late = |_| format!("nothing came for {} s", PATIENCE.as_secs());
        while let Some(piece) = tokio::time::timeout(PATIENCE, pieces.next()).await.map_err(late)? {
            let piece = piece.map_err(|e| format!("the connection broke after {come} of {size} bytes: {e}"))?;
            come += piece.len() as u64;
            sink(&piece)?;
        }
        if come == size { Ok(()) } else { Err(format!("{come} of {size} bytes came")) }
    }
}

/// Runs on a thread of its own: whoever waits may be within another runtime.
fn waiting<T: Send>(work: impl Future<Output = Result<T, String>> + Send) -> Result<T, String> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| format!("cannot start to wait: {e}"))?.block_on(work)
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err("the client failed".to_string()))
}
