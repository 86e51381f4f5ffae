//! cargo xtask: the only build script there is.
//!
//! This file is the table of contents: it reads the first word, hands the rest to one room, and turns the answer
//! into an exit code (0 done, 1 failed, 2 asked wrongly). No room builds anything behind another's back: what is
//! missing on the machine is `bootstrap`, how a program is run is `run`, what is started and stopped is `servers`.
//! It is not a second build system: Rust is built by cargo, which this calls.

mod bench;
mod bootstrap;
mod demo;
mod fastcgi;
mod install;
mod matrix;
mod orphans;
mod package;
mod php;
mod phpt;
mod phpt_run;
mod run;
mod servers;
mod test;

use std::process::ExitCode;

/// Why a command ended early; the text is a whole sentence for the person who typed it.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command line was wrong: exit code 2.
    Usage(String),
    /// The work failed: exit code 1.
    Failed(String),
    /// The work failed and everything worth saying is printed already: exit code 1.
    Told,
}

impl From<lexopt::Error> for Stop {
    fn from(error: lexopt::Error) -> Self {
        Stop::Usage(error.to_string())
    }
}

/// Makes a [`Stop::Failed`] out of what was tried and the reason it did not work.
pub(crate) fn failed(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Stop {
    Stop::Failed(format!("{what}: {why}"))
}

/// One subcommand: its word, one line for the list, its own help, and the room that does it.
struct Command {
    word: &'static str,
    line: &'static str,
    help: &'static str,
    run: fn(lexopt::Parser) -> Result<(), Stop>,
}

const COMMANDS: &[Command] = &[
    Command {
        word: "demo",
        line: "the main job on real processes, in a minute",
        help: demo::HELP,
        run: demo::main,
    },
    Command {
        word: "test",
        line: "every check and every test there is",
        help: test::HELP,
        run: test::main,
    },
    Command {
        word: "bench",
        line: "speed beside other clients and a bare loop",
        help: bench::HELP,
        run: bench::main,
    },
    Command {
        word: "install",
        line: "the extension into this machine's PHP",
        help: install::HELP,
        run: install::main,
    },
    Command {
        word: "package",
        line: "a Debian package of it",
        help: package::HELP,
        run: package::main,
    },
];

fn main() -> ExitCode {
    run::stop_children_on_signals();
    let outcome = dispatch();
    // Also on the ways out that skip a Drop, such as an error in a thread.
    let _no_more = run::stop_children();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Told) => ExitCode::from(1),
        Err(Stop::Failed(text)) => {
            eprintln!("xtask: {text}");
            ExitCode::from(1)
        }
        Err(Stop::Usage(text)) => {
            eprintln!("xtask: {text}\n\n{}", overview());
            ExitCode::from(2)
        }
    }
}

fn dispatch() -> Result<(), Stop> {
    let mut words = std::env::args_os().skip(1);
    let word = match words.next() {
        None => return Err(Stop::Usage("no subcommand given".to_owned())),
        Some(word) => word.to_string_lossy().into_owned(),
    };
    if matches!(word.as_str(), "--help" | "-h" | "help") {
        run::say(&overview());
        return Ok(());
    }
    let Some(command) = COMMANDS.iter().find(|command| command.word == word) else {
        return Err(Stop::Usage(format!("there is no subcommand \"{word}\"")));
    };
    let rest: Vec<_> = words.collect();
    let before_dashes = rest.iter().take_while(|word| *word != "--");
    if before_dashes
        .into_iter()
        .any(|word| word == "--help" || word == "-h")
    {
        run::say(command.help);
        return Ok(());
    }
    (command.run)(lexopt::Parser::from_args(rest))
}

/// What `cargo xtask --help` prints.
fn overview() -> String {
    let mut text = String::from("cargo xtask <subcommand> [options]\n");
    for command in COMMANDS {
        text.push_str(&format!("\n  {:<8} {}", command.word, command.line));
    }
    text.push_str("\n\ncargo xtask <subcommand> --help tells its options. Exit codes: 0 done, 1 failed, 2 asked wrongly.");
    text
}
