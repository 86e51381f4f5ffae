//! memring route: where a key would go, and why, as a table for people or JSON for machines.
//! Nothing is sent, and nothing is known here of nodes that PHP's processes gave up.

use crate::{Stop, say};
use lexopt::prelude::*;
use memring_pool::call::Limits;
use memring_pool::config::{Schemes, Wish, file, save_path};
use memring_pool::error::Error;
use memring_pool::fact::Fact;
use memring_pool::item::{KeyRule, LongKeys};
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::route::Op;
use memring_pool::shared;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the file lies unless told otherwise.
const CONFIG: &str = "/etc/memring.toml";
/// pecl-memcache's default of memcache.session_redundancy.
const SESSION_COPIES: u32 = 2;
/// pecl-memcache's default of memcache.max_failover_attempts.
const ATTEMPTS: u32 = 20;

/// What --help prints.
pub(crate) const HELP: &str = "\
memring route [--config FILE] [--copies N] [--state-dir DIR] [--json] POOL OP KEY
memring route --list SAVE_PATH [--copies N] [--state-dir DIR] [--json] OP KEY

Explains which nodes OP on KEY would ask, and why. Nothing is sent. OP is get, set, delete or session; the key of a
session is its id.

  POOL              a pool of the file that memring.config_file names to PHP
  --config FILE     that file, if it is not /etc/memring.toml
  --list SAVE_PATH  a list as it stands in session.save_path, in place of a pool
  --copies N        memcache.redundancy, or memcache.session_redundancy for a session, where PHP does not have 1 and 2
  --state-dir DIR   where this user's PHP processes share what they know of nodes (memring.state_dir)
  --json            the same for machines

Exit code 0 when a node would be asked, 1 when none would.";

struct Asked {
    config: PathBuf,
    list: Option<String>,
    copies: Option<u32>,
    state_dir: PathBuf,
    json: bool,
    words: Vec<OsString>,
}

/// The command.
///
/// # Errors
/// When it was asked wrongly.
pub(crate) fn main(parser: lexopt::Parser) -> Result<ExitCode, Stop> {
    let asked = read(parser)?;
    let usage = || {
        Stop::Usage(match asked.list {
            Some(_) => "route --list wants an operation and a key".to_owned(),
            None => "route wants a pool, an operation and a key".to_owned(),
        })
    };
    let (pool, words) = match (&asked.list, asked.words.as_slice()) {
        (Some(_), words) => (None, words),
        (None, [pool, words @ ..]) => (Some(pool.to_string_lossy().into_owned()), words),
        (None, []) => return Err(usage()),
    };
    let [op, key] = words else {
        return Err(usage());
    };
    let op = Op::of(op.as_encoded_bytes()).ok_or_else(|| {
        Stop::Usage(format!(
            "there is no operation \"{}\": write get, set, delete or session",
            op.to_string_lossy()
        ))
    })?;
    // A region that cannot be used is no reason not to tell where a key goes.
    let _ = shared::look(&asked.state_dir);
    let wish = wish(&asked, pool.as_deref(), op)?;
    let fact = explain(wish, op, &key.clone().into_vec(), asked.copies)
        .map_err(|error| Stop::Wish(error.to_string()))?;
    say(&if asked.json {
        fact.json()
    } else {
        table(&fact)
    });
    let asked_any = ["reads", "writes"]
        .iter()
        .any(|name| fact.find(name).is_some_and(|list| !list.items().is_empty()));
    Ok(ExitCode::from(u8::from(!asked_any)))
}

fn read(mut parser: lexopt::Parser) -> Result<Asked, Stop> {
    let mut asked = Asked {
        config: PathBuf::from(CONFIG),
        list: None,
        copies: None,
        state_dir: shared::default_dir(),
        json: false,
        words: Vec::new(),
    };
    while let Some(word) = parser.next()? {
        match word {
            Long("config") => asked.config = PathBuf::from(parser.value()?),
            Long("list") => asked.list = Some(parser.value()?.string()?),
            Long("copies") => asked.copies = Some(parser.value()?.parse()?),
            Long("state-dir") => asked.state_dir = PathBuf::from(parser.value()?),
            Long("json") => asked.json = true,
            Value(word) => asked.words.push(word),
            _ => return Err(word.unexpected().into()),
        }
    }
    Ok(asked)
}

fn wish(asked: &Asked, pool: Option<&str>, op: Op) -> Result<Wish, Stop> {
    let refused = |error: Error| Stop::Wish(error.to_string());
    let named = |name: &str| file::load(Path::new(&asked.config))?.wish(name);
    let Some(list) = &asked.list else {
        let name = pool.unwrap_or_default();
        return named(name.strip_prefix("pool:").unwrap_or(name)).map_err(refused);
    };
    let mut wish = save_path::parse(list, &Schemes::default(), &named).map_err(refused)?;
    let nodes = wish.topology.nodes.len();
    if op == Op::Session && !wish.mode_written && nodes > 1 {
        // As the session handler memring takes a list that says nothing of it.
        wish.keep_copies().map_err(refused)?;
    }
    Ok(wish)
}

fn explain(wish: Wish, op: Op, key: &[u8], copies: Option<u32>) -> Result<Fact, Error> {
    let policy = wish.topology.policy;
    let rule = KeyRule {
        prefix: policy.keys.prefix.clone(),
        long: match op {
            Op::Session => LongKeys::Hash,
            // A list is what addServer() names: long keys are cut unless memring.key_hash says else.
            _ if policy.name.is_empty() => LongKeys::Cut,
            _ => policy.keys.long,
        },
    };
    let limits = Limits {
        copies: copies.unwrap_or(match op {
            Op::Session => SESSION_COPIES,
            _ => 1,
        }),
        failover: true,
        attempts: ATTEMPTS,
    };
    let mut pool = Pool::new(policy);
    let mut directory = Directory::new();
    for spec in wish.topology.nodes {
        pool.add_to_look(spec, &directory);
    }
    pool.came_from(&wish.topology.previous, &mut directory);
    pool.route(op, key, &rule, &limits)
}

fn table(fact: &Fact) -> String {
    let text = |fact: &Fact, name: &str| -> String {
        match fact.find(name) {
            None | Some(Fact::Null) => "-".to_owned(),
            Some(Fact::Text(text)) => text.clone(),
            Some(Fact::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
            Some(other) => other.json(),
        }
    };
    let mut lines = vec![
        format!("key      {}", text(fact, "wire_key")),
        format!(
            "owner    {} by {}",
            text(fact, "owner"),
            text(fact, "placement")
        ),
    ];
    if let Some(Fact::Text(long)) = fact.find("long_key") {
        lines.push(format!("         {long}: longer than 250 bytes"));
    }
    let columns = ["node", "role", "state", "reads", "writes", "why"];
    let mut rows = vec![columns.map(str::to_owned)];
    for node in fact.find("nodes").map_or(&[][..], Fact::items) {
        rows.push(columns.map(|name| text(node, name)));
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        lines.push(format!("  {}", cells.join("  ").trim_end()));
    }
    lines.push(text(fact, "reason"));
    lines.join("\n")
}
