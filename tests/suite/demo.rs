//! What `cargo xtask demo` shows to somebody new comes to its end, and nothing is lost on the way.

use std::path::Path;
use std::process::Command;

/// Runs it on what is built already, and returns what it printed.
fn demo(words: &[&str], files: &[(&str, &Path)]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "run",
            "--quiet",
            "-p",
            "xtask",
            "--",
            "demo",
            "--no-install",
        ])
        .args(words)
        .current_dir(harness::workspace());
    for (word, file) in files {
        command.arg(word).arg(file);
    }
    let output = command.output().expect("run cargo");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text
}

#[test]
fn the_demo_without_a_server_comes_to_its_end_and_loses_nothing() {
    let so = harness::php::extension();
    let text = demo(&["--embedded"], &[("--so", so)]);
    assert!(text.ends_with("lost 0\n"), "{text}");
}

#[test]
fn the_demo_on_three_memcached_kills_each_in_turn_and_loses_nothing() {
    let so = harness::php::extension();
    let companion = crate::companion::program();
    let companion = Path::new(companion.get_program());
    let text = demo(&[], &[("--so", so), ("--companion", companion)]);
    assert_eq!(
        text.matches(" is trusted again after ").count(),
        3,
        "{text}"
    );
    assert!(
        text.ends_with(" visitors left: older 0, alive again 0, lost 0\n"),
        "{text}"
    );
}
