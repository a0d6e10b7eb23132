//! Digests as types: what is not exactly hexadecimal of the right length never becomes one, and so never
//! becomes a file name either.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::HubError;

/// What a file's content is promised to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Digest {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of `blob <length>\0` and the content: git's name for a small file on the hub.
    GitBlob(String),
}

impl Digest {
    /// A SHA-256 of 64 hexadecimal digits.
    #[must_use]
    pub(crate) fn sha256(text: &str) -> Option<Self> {
        hex_of(text, 64).map(Self::Sha256)
    }

    /// A git object name of 40 hexadecimal digits.
    #[must_use]
    pub(crate) fn git_blob(text: &str) -> Option<Self> {
        hex_of(text, 40).map(Self::GitBlob)
    }

    /// The digits, in lower case.
    #[must_use]
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::GitBlob(_) => "git sha1",
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.hex())
    }
}

fn hex_of(text: &str, digits: usize) -> Option<String> {
    let whole = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    whole.then(|| text.to_ascii_lowercase())
}

/// A commit of the hub: 40 hexadecimal digits. It is a folder name in the cache.
pub(crate) fn commit(host: &str, text: &str) -> Result<String, HubError> {
    hex_of(text, 40)
        .ok_or_else(|| HubError::BadAnswer { host: host.into(), reason: "its commit is no commit id".into() })
}

/// Hashes a file while it grows: always SHA-256, and git's hash where the length is known beforehand.
#[derive(Clone)]
pub(crate) struct Hasher {
    sha256: Sha256,
    git: Option<Sha1>,
}

impl Hasher {
    pub(crate) fn new(promised: Option<&Digest>, length: Option<u64>) -> Self {
        let git = match (promised, length) {
            (Some(Digest::GitBlob(_)), Some(length)) => {
                Some(Sha1::new_with_prefix(format!("blob {length}\0")))
            }
            _ => None,
        };
        Self { sha256: Sha256::new(), git }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    /// The SHA-256, and the digest in the promised kind.
    pub(crate) fn finish(self, promised: Option<&Digest>) -> (String, Option<Digest>) {
        let sha256 = hex(&self.sha256.finalize());
        let same_kind = match promised {
            Some(Digest::Sha256(_)) => Some(Digest::Sha256(sha256.clone())),
            Some(Digest::GitBlob(_)) => self.git.map(|git| Digest::GitBlob(hex(&git.finalize()))),
            None => None,
        };
        (sha256, same_kind)
    }
}

/// SHA-256 of a short text, for names of folders.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_of_the_right_length() {
        assert!(Digest::sha256(&"aB".repeat(32)).is_some());
        for bad in
            ["", "../../etc/passwd", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"a/".repeat(32)]
        {
            assert!(Digest::sha256(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn git_names_a_blob_as_git_does() {
        // `printf 'hello\n' | git hash-object --stdin`
        let promised = Digest::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let mut hasher = Hasher::new(Some(&promised), Some(6));
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        let (sha256, git) = hasher.finish(Some(&promised));
        assert_eq!(git, Some(promised));
        assert_eq!(sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }
}
