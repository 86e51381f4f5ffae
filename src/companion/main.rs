//! memring, the companion: what copied pools need beside PHP.
//!
//! This file is the table of contents: it reads the first word, hands the rest to one room,
//! and turns the answer into an exit code. The companion talks; what a record means, whom
//! to mend and how is decided in the library.
//!
//! | file | what it does |
//! |---|---|
//! | `wish` | the words behind the command: which pools |
//! | `host` | this host's hold on one pool |
//! | `tend` | the daemon: looks every second, says what changed, has it mended |
//! | `mend` | founds a pool, runs passes over its nodes |
//! | `status` | how the nodes stand, as a table or JSON |
//! | `route` | where a key would go, and why |
//! | `commit` | ends a step from one node list to the next |
//! | `trust` | founds a pool though a node does not answer |
//! | `words` | states and changes as sentences |

mod cache;
mod commit;
mod host;
mod memory;
mod mend;
mod route;
mod status;
mod tend;
mod trust;
mod wish;
mod words;

use std::io::Write;
use std::process::ExitCode;

/// Why a command ended early; the text is a whole sentence for the person who typed it.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The words on the command line were wrong: exit code 2, and the list of commands.
    Usage(String),
    /// What they name cannot be used: exit code 2.
    Wish(String),
}

impl From<lexopt::Error> for Stop {
    fn from(error: lexopt::Error) -> Self {
        Stop::Usage(error.to_string())
    }
}

/// One command: its word, one line for the list, its own help, and the room that does it.
struct Command {
    word: &'static str,
    line: &'static str,
    help: &'static str,
    run: fn(lexopt::Parser) -> Result<ExitCode, Stop>,
}

const COMMANDS: &[Command] = &[
    Command {
        word: "tend",
        line: "looks after copied pools: founds them, mends nodes that came back",
        help: tend::HELP,
        run: tend::main,
    },
    Command {
        word: "status",
        line: "how the nodes of copied pools stand, and whether one may be stopped",
        help: status::HELP,
        run: status::main,
    },
    Command {
        word: "route",
        line: "which nodes an operation on a key would ask, and why",
        help: route::HELP,
        run: route::main,
    },
    Command {
        word: "commit",
        line: "ends a change of a pool's nodes: moves the keys, lets the old list go",
        help: commit::HELP,
        run: commit::main,
    },
    Command {
        word: "trust",
        line: "founds a new pool though one of its nodes does not answer",
        help: trust::HELP,
        run: trust::main,
    },
];

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(Stop::Wish(text)) => {
            tell(&format!("memring: {text}"));
            ExitCode::from(2)
        }
        Err(Stop::Usage(text)) => {
            tell(&format!("memring: {text}\n\n{}", overview()));
            ExitCode::from(2)
        }
    }
}

fn dispatch() -> Result<ExitCode, Stop> {
    let mut words = std::env::args_os().skip(1);
    let word = match words.next() {
        None => return Err(Stop::Usage("no command given".to_owned())),
        Some(word) => word.to_string_lossy().into_owned(),
    };
    match word.as_str() {
        "--help" | "-h" | "help" => {
            say(&overview());
            return Ok(ExitCode::SUCCESS);
        }
        "--version" | "-V" => {
            say(concat!("memring ", env!("CARGO_PKG_VERSION")));
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let Some(command) = COMMANDS.iter().find(|command| command.word == word) else {
        return Err(Stop::Usage(format!("there is no command \"{word}\"")));
    };
    let rest: Vec<_> = words.collect();
    let mut before_dashes = rest.iter().take_while(|word| *word != "--");
    if before_dashes.any(|word| word == "--help" || word == "-h") {
        say(command.help);
        return Ok(ExitCode::SUCCESS);
    }
    (command.run)(lexopt::Parser::from_args(rest))
}

/// What `memring --help` prints.
fn overview() -> String {
    let mut text = String::from("memring <command> [options]\n");
    for command in COMMANDS {
        text.push_str(&format!("\n  {:<8} {}", command.word, command.line));
    }
    text.push_str(
        "\n\nmemring <command> --help tells its options. Exit codes: 0 every node is trusted, 1 not so, 2 asked wrongly.",
    );
    text
}

/// Prints lines to stdout. A reader who has gone is no reason to stop.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints lines to stderr, for people and logs.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
