//! Who may ask: bearer tokens of the server's file, users with their passwords, and the tokens that these get when they log in.
//!
//! Where tokens or users are configured, every call needs one of them. A login's token is random, known by its hash alone,
//! and forgotten when the server ends, or when too many others have logged in since.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use crate::serve::access::bearer;
use crate::serve::random;
use crate::serve::service::Service;

/// Logins that are remembered; the oldest goes first.
const REMEMBERED: usize = 10_000;

pub struct Logins {
    service: Arc<Service>,
    issued: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    /// Hashes: how long a lookup takes tells nothing about the tokens.
    known: HashSet<blake3::Hash>,
    order: VecDeque<blake3::Hash>,
}

impl Logins {
    pub fn new(service: Arc<Service>) -> Logins {
        Logins { service, issued: Mutex::default() }
    }

    /// Whether a call with this `Authorization` header is answered.
    pub fn allows(&self, header: Option<&str>) -> bool {
        self.service.access.allows(header) || self.logged_in(header)
    }

    /// A token for a user who gave a password in this header, good for calls to come.
    ///
    /// # Errors
    /// The server has no users, or the password is not theirs.
    pub fn log_in(&self, header: Option<&str>) -> Result<String, Status> {
        let access = &self.service.access;
        if !access.has_users() {
            return Err(if access.has_tokens() {
                Status::unauthenticated("this server knows tokens, no users: send `authorization: Bearer TOKEN`")
            } else {
                Status::unimplemented("this server asks nobody who they are: leave out user and password")
            });
        }
        if !access.is_user(header) {
            return Err(Status::unauthenticated("unknown user or wrong password"));
        }
        let token = hex(&random::<16>().map_err(|e| Status::internal(e.to_string()))?);
        let hash = blake3::hash(token.as_bytes());
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.known.insert(hash);
        issued.order.push_back(hash);
        if issued.order.len() > REMEMBERED
            && let Some(oldest) = issued.order.pop_front()
        {
            issued.known.remove(&oldest);
        }
        Ok(token)
    }

    /// Whether the header has the token of a login.
    fn logged_in(&self, header: Option<&str>) -> bool {
        let Some(token) = bearer(header) else { return false };
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).known.contains(&blake3::hash(token.as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let tokens: HashSet<String> = (0..100).map(|_| hex(&random::<16>().unwrap())).collect();
        assert_eq!(tokens.len(), 100);
        assert!(tokens.iter().all(|t| t.len() == 32));
    }
}
