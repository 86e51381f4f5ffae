//! `pecl-suite DIR [--so FILE] [--protocol ascii|binary] [--diff] [WORD…]`: runs pecl-memcache's phpt files in DIR
//! with the extension under test (or FILE) and prints the counts of each protocol.
//!
//! It always exits 0 when the suite ran: it is a meter, not a gate.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut directory = None;
    let mut so = None;
    let mut protocols = vec!["ascii".to_string(), "binary".to_string()];
    let mut show = false;
    let mut only = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--so" => so = arguments.next().map(PathBuf::from),
            "--protocol" => protocols = arguments.next().into_iter().collect(),
            "--diff" => show = true,
            _ if directory.is_none() => directory = Some(PathBuf::from(argument)),
            _ => only.push(argument),
        }
    }
    let Some(directory) = directory else {
        eprintln!("usage: pecl-suite DIR [--so FILE] [--protocol ascii|binary] [--diff] [WORD…]");
        return ExitCode::FAILURE;
    };
    let so = so.unwrap_or_else(|| harness::php::extension().to_path_buf());
    for protocol in protocols {
        match harness::pecl_suite::run(&directory, &so, &protocol, &only) {
            Ok(score) => {
                println!("{protocol}: {}", score.line());
                for (name, word) in &score.failed {
                    println!("  {word} {name}");
                }
                if show {
                    for (name, difference) in &score.differences {
                        println!("--- {name}\n{difference}");
                    }
                }
            }
            Err(sentence) => {
                eprintln!("{protocol}: {sentence}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
