//! cargo xtask demo --embedded: the same with no server at all, and what a killed PHP takes with it.

use super::{LIMIT, SHARED, Stage, sessions, values};
use crate::php::Php;
use crate::run::{self, Scratch};
use crate::{Stop, failed};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// So many writes are acknowledged before their process is killed.
const WRITES: usize = 5_000;

/// Shows values, sessions and a kill on one embedded node.
///
/// # Errors
/// Anything came out otherwise than it should.
pub(super) fn show(php: &Php, so: &Path) -> Result<(), Stop> {
    let scratch = Scratch::new("demo")?;
    let node = format!("embedded://{}", scratch.path().display());
    run::headline("no server: one file, shared by all PHP processes of this user");
    run::say(&format!("   {node}"));
    let stage = Stage::set(php, so, scratch.path(), &[], ("memring", &node))?;
    values(&stage, std::slice::from_ref(&node))?;
    sessions(&stage, shared_visits)?;
    killed(&stage, &node)
}

/// The counter of the shared session, read by a process that came after all others.
fn shared_visits(stage: &Stage<'_>) -> Result<u64, Stop> {
    let text = stage.php("count.php", &[SHARED.to_owned()])?;
    text.trim()
        .parse()
        .map_err(|why| failed("the shared session", why))
}

/// A writer killed in the middle, and what is there of what was acknowledged to it.
fn killed(stage: &Stage<'_>, node: &str) -> Result<(), Stop> {
    run::headline(&format!(
        "a PHP that writes, killed (SIGKILL) after {WRITES} writes"
    ));
    let begin = Instant::now();
    let mut writer = Command::new(&stage.php.cli)
        .arg("-c")
        .arg(&stage.ini)
        .arg(stage.folder.join("writer.php"))
        .arg(node)
        .env("PHP_INI_SCAN_DIR", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|why| failed("php", why))?;
    let mut last = None;
    if let Some(out) = writer.stdout.take() {
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        last = lines
            .by_ref()
            .take_while(|_| begin.elapsed() < LIMIT)
            .nth(WRITES - 1);
        writer.kill().map_err(|why| failed("php", why))?;
        // What it had still printed was acknowledged, too; a line cut short is none.
        last = lines.last().or(last);
    }
    writer.wait().map_err(|why| failed("php", why))?;
    let last = last.ok_or_else(|| Stop::Failed("the writer came to no end".to_owned()))?;
    let text = stage.php("writer.php", &[node.to_owned(), last.clone()])?;
    let mut words = text.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (missing, items, bytes) = (word(), word(), word());
    run::say(&format!(
        "   {last} acknowledged, {missing} missing; {items} items in {bytes} bytes now, {} ms",
        begin.elapsed().as_millis()
    ));
    run::say(&format!("\nlost {missing}"));
    match missing.as_str() {
        "0" => Ok(()),
        _ => Err(Stop::Failed(format!("{missing} values are missing"))),
    }
}
