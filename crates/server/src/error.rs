//! Why the server does not start or stops.

use std::io;
use std::net::SocketAddr;

/// Why the server does not start or stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Other machines could use the model without a key.
    #[error(
        "{listen} can be reached from other machines and no API key is set: set one, or listen on 127.0.0.1, or \
         say that no key is wanted (insecure_no_auth)"
    )]
    OpenWithoutKey {
        /// The address.
        listen: SocketAddr,
    },
    /// An API key is too short or has blanks in it.
    #[error("the API key {name:?} can't be used: a key has {min} or more visible ASCII characters")]
    WeakKey {
        /// Its name, never the key itself.
        name: String,
        /// The fewest characters.
        min: usize,
    },
    /// An API key is too short for an address that other machines reach.
    #[error(
        "the API key {name:?} can be tried by other machines at {listen}: there a key needs {min} or more characters; \
         `openssl rand -hex 32` makes a good one"
    )]
    ShortKey {
        /// Its name, never the key itself.
        name: String,
        /// The address.
        listen: SocketAddr,
        /// The fewest characters.
        min: usize,
    },
    /// A web origin is neither of the form `scheme://host[:port]` nor `*` nor `null`.
    #[error(
        "{origin:?} is not a web origin: {reason}; write it like https://chat.example.org or http://localhost:3000, \
         or * for all origins, or null for pages opened from files"
    )]
    BadOrigin {
        /// As it was given.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit makes no sense.
    #[error("the limit {name} must be from {min} to {max}")]
    BadLimit {
        /// Its name.
        name: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Another program listens there.
    #[error(
        "port {} is in use: stop the program that listens there, or choose another port, for example {}",
        listen.port(),
        listen.port().checked_add(1).unwrap_or(7171)
    )]
    AddressInUse {
        /// The address.
        listen: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("can't listen on {listen}: {source}")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
}
