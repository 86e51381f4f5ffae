//! What copies cost where the nodes do not share the client's CPU: as in a data centre, a copy is then written while
//! the owner is, and only the client's own work counts twice.

use super::bare::Bare;
use super::contender::{Contender, Worker};
use super::report::spread;
use super::shape::shape;
use super::stay_on;
use crate::Stop;
use crate::php::Php;
use crate::run;
use crate::servers::Memcached;
use std::path::Path;
use std::time::Duration;

/// Sets in a slice, and slices in a round.
const SETS: u32 = 100;
const SLICES: u32 = 100;

/// A set on copies as a multiple of one set, and what it may be.
pub(crate) struct Apart {
    /// The row.
    pub(crate) name: &'static str,
    /// The most it is to be.
    pub(crate) bar: f64,
    /// One figure for each round.
    pub(crate) ratios: Vec<f64>,
    /// The same of the bare loop, which writes to both and reads both answers: what the machine itself makes of a
    /// second node. Nothing for a row whose client does not wait for both.
    pub(crate) bare: Vec<f64>,
}

/// The row whose client waits for both nodes.
const WAITS: &str = "set-copied";
/// Rows and the most each is to be.
const ROWS: [(&str, f64); 2] = [(WAITS, 1.25), ("set-async", 1.15)];

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
        bare: Vec::new(),
    });
    for _ in 0..rounds {
        stay_on(servers)?;
        let nodes = [Memcached::start()?, Memcached::start()?];
        stay_on(clients)?;
        let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
        let mut bare = Bare::connect(&ports)?;
        let alone = shape("set", &ports, "");
        let contender = Contender::new("memring", vec![so.to_owned()], ports.clone());
        let mut worker = contender.start(php, folder, file)?;
        worker.ask("fill", 1)?;
        for row in &mut rows {
            let ratio = ratio(&mut worker, row.name)?;
            row.ratios.push(ratio);
            if row.name == WAITS {
                let both = shape(row.name, &ports, "");
                let mut time = |groups: &_| bare.run(groups, false, SETS);
                row.bare
                    .push(medians(|| Ok((time(&alone)?, time(&both)?)))?);
            }
        }
    }
    Ok(rows.into())
}

/// The median slice of the row, as a multiple of the median slice of plain sets between them.
fn ratio(worker: &mut Worker, row: &str) -> Result<f64, Stop> {
    medians(|| Ok((worker.time("set", SETS)?, worker.time(row, SETS)?)))
}

/// The median of the second times as a multiple of the median of the first.
///
/// Not the best of each, as where client and nodes share a CPU: here both sides sleep and are woken, and the best slice
/// is the one in which a CPU happened not to fall asleep. Of those there are a few in a hundred, for one row or the other.
fn medians(mut slice: impl FnMut() -> Result<(Duration, Duration), Stop>) -> Result<f64, Stop> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        let (first, second) = slice()?;
        one.push(first.as_secs_f64());
        two.push(second.as_secs_f64());
    }
    let median =
        |times: Vec<f64>| spread(times.into_iter()).map_or(f64::NAN, |[_, middle, _]| middle);
    Ok(median(two) / median(one))
}
