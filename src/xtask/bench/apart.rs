//! What copies cost where the nodes do not share the client's CPU: as in a data centre, a copy is then written while
//! the owner is, and only the client's own work counts twice.

use super::contender::{Contender, Worker};
use super::stay_on;
use crate::Stop;
use crate::php::Php;
use crate::run;
use crate::servers::Memcached;
use std::path::Path;
use std::time::Duration;

/// Sets in a slice, and slices in a round.
const SETS: u32 = 100;
const SLICES: u32 = 30;

/// A set on copies as a multiple of one set, and what it may be.
pub(crate) struct Apart {
    /// The row.
    pub(crate) name: &'static str,
    /// The most it is to be.
    pub(crate) bar: f64,
    /// One figure for each round.
    pub(crate) ratios: Vec<f64>,
}

/// Rows and the most each is to be.
const ROWS: [(&str, f64); 2] = [("set-copied", 1.25), ("set-async", 1.15)];

/// Measures it on the first two of these CPUs; nothing where there is one.
///
/// # Errors
/// When something does not start or gives wrong results.
pub(super) fn measure(
    php: &Php,
    so: &Path,
    cpus: &[usize],
    rounds: u32,
    folder: &Path,
    file: &Path,
) -> Result<Vec<Apart>, Stop> {
    let &[clients, servers, ..] = cpus else {
        run::say("   one CPU: the cost of copies with nodes on another is not measured");
        return Ok(Vec::new());
    };
    run::headline("copies, with the nodes on another CPU");
    let _beat = run::Heartbeat::start("measuring");
    let mut rows = ROWS.map(|(name, bar)| Apart {
        name,
        bar,
        ratios: Vec::new(),
    });
    for _ in 0..rounds {
        stay_on(servers)?;
        let nodes = [Memcached::start()?, Memcached::start()?];
        stay_on(clients)?;
        let ports = nodes.iter().map(|node| node.port).collect();
        let contender = Contender::new("memring", vec![so.to_owned()], ports);
        let mut worker = contender.start(php, folder, file)?;
        worker.ask("fill", 1)?;
        for row in &mut rows {
            let ratio = ratio(&mut worker, row.name)?;
            row.ratios.push(ratio);
        }
    }
    Ok(rows.into())
}

/// The best slice of the row, as a multiple of the best slice of plain sets between them.
fn ratio(worker: &mut Worker, row: &str) -> Result<f64, Stop> {
    let (mut plain, mut copied) = (Duration::MAX, Duration::MAX);
    for _ in 0..SLICES {
        plain = plain.min(worker.time("set", SETS)?);
        copied = copied.min(worker.time(row, SETS)?);
    }
    Ok(copied.as_secs_f64() / plain.as_secs_f64())
}
