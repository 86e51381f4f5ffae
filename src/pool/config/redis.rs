//! What only a Redis or Valkey node has: who we are there, and which database is meant.

use std::fmt;

/// A text that no message, status or trace may show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text itself, for the wire alone.
    pub fn open(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

/// How a Redis or Valkey node is entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    /// The user of its access list; `None` for the default one.
    pub user: Option<String>,
    /// The password; `None` where none is asked for.
    pub password: Option<Secret>,
    /// Number of the database.
    pub database: u32,
    /// The name its `CLIENT LIST` shows; `None` for none.
    pub client: Option<String>,
    /// Speak RESP3.
    pub resp3: bool,
}
