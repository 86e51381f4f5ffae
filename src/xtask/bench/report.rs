//! The table of a bench, as text for the terminal and for the record.

use super::apart::Apart;
use super::contender::{OURS_EMBEDDED, OURS_ON_REDIS};
use std::fmt::Write;
use std::time::Duration;

/// When, what and on what was measured; nothing in it names a host or a path.
pub(crate) struct Facts {
    /// "2025-01-31", UTC.
    pub(crate) date: String,
    /// The commit.
    pub(crate) revision: String,
    /// Versions of everything that took part.
    pub(crate) versions: String,
    /// Processor, kernel, load.
    pub(crate) machine: String,
    /// How figures were made.
    pub(crate) method: String,
}

/// One row: a job, done by all.
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: &'static str,
    /// On memcached nodes, on Redis ones, and on a database of this host.
    bars: [Option<f64>; 3],
    /// For each contender and round: time of the yardstick, time of the contender.
    times: Vec<Vec<[Duration; 2]>>,
    /// System calls per pass of each contender, where they could be counted.
    pub(crate) calls: Vec<Option<f64>>,
    /// Instructions per pass of each contender; empty when not asked for.
    pub(crate) instructions: Vec<Option<f64>>,
}

/// Everything measured.
pub(crate) struct Report {
    /// The contenders, ours first.
    pub(crate) names: Vec<&'static str>,
    /// The rows.
    pub(crate) rows: Vec<Row>,
    /// Bytes per object and per connection of each contender.
    pub(crate) memory: Vec<[String; 2]>,
    /// The circumstances.
    pub(crate) facts: Facts,
    /// Copies with the nodes on another CPU.
    pub(crate) apart: Vec<Apart>,
}

impl Row {
    /// An empty row.
    pub(crate) fn new(name: &'static str, bars: [Option<f64>; 3], contenders: usize) -> Row {
        Row {
            name,
            bars,
            times: vec![Vec::new(); contenders],
            calls: Vec::new(),
            instructions: Vec::new(),
        }
    }

    /// Adds a round of one contender: the time of one pass of the bare loop, and of its own.
    pub(crate) fn add(&mut self, contender: usize, bare: Duration, own: Duration) {
        if let Some(rounds) = self.times.get_mut(contender) {
            rounds.push([bare, own]);
        }
    }

    /// Smallest, median and largest share of the bare loop.
    fn shares(&self, contender: usize) -> Option<[f64; 3]> {
        let rounds = self.times.get(contender)?;
        let shares = rounds
            .iter()
            .map(|[bare, own]| bare.as_secs_f64() / own.as_secs_f64());
        spread(shares)
    }

    /// Median time of one pass, microseconds: the yardstick's (0) or the contender's (1).
    fn micros(&self, contender: usize, which: usize) -> Option<f64> {
        let rounds = self.times.get(contender)?;
        let times = rounds.iter().filter_map(|pair| pair.get(which));
        let times = sorted(times.map(|time| time.as_secs_f64() * 1e6));
        times.get(times.len() / 2).copied()
    }

    /// What the row says of the bar and of the rivals.
    fn verdict(&self, names: &[&str]) -> String {
        let Some([_, ours, _]) = self.shares(0) else {
            return String::new();
        };
        let mut words = Vec::new();
        let met = |share: f64, bar: f64| if share >= bar { "met" } else { "MISSED" };
        let [bar, redis_bar, embedded_bar] = self.bars;
        if let Some(bar) = bar {
            words.push(format!("bar {bar:.2} {}", met(ours, bar)));
        }
        let on_redis = names.iter().position(|name| *name == OURS_ON_REDIS);
        let share = on_redis.and_then(|index| self.shares(index));
        if let (Some(bar), Some([_, share, _])) = (redis_bar, share) {
            words.push(format!("on Redis {bar:.2} {}", met(share, bar)));
        }
        let embedded = names.iter().position(|name| *name == OURS_EMBEDDED);
        let share = embedded.and_then(|index| self.shares(index));
        if let (Some(bar), Some([_, share, _])) = (embedded_bar, share) {
            words.push(format!("embedded {bar:.0} {}", met(share, bar)));
        }
        let own = self.micros(0, 1).unwrap_or(f64::MAX);
        for (index, name) in names.iter().enumerate().skip(1) {
            // Whoever has the same servers is compared.
            let own = match (*name, on_redis) {
                (OURS_ON_REDIS | OURS_EMBEDDED, _) => continue,
                ("phpredis", Some(index)) => self.micros(index, 1).unwrap_or(0.0),
                _ => own,
            };
            let ahead = self.micros(index, 1).is_none_or(|time| own <= time);
            if !ahead {
                words.push(format!("BEHIND {name}"));
            }
        }
        words.join(", ")
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

impl Apart {
    fn cells(&self) -> Vec<String> {
        let own = spread(self.ratios.iter().copied());
        let met = own.is_some_and(|[_, middle, _]| middle <= self.bar);
        vec![
            self.name.to_owned(),
            spread_cell(spread(self.bare.iter().copied())),
            spread_cell(own),
            format!(
                "at most {:.2} {}",
                self.bar,
                if met { "met" } else { "MISSED" }
            ),
        ]
    }
}

/// Smallest, median and largest; nothing of none.
pub(super) fn spread(figures: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let figures = sorted(figures);
    Some([
        *figures.first()?,
        *figures.get(figures.len() / 2)?,
        *figures.last()?,
    ])
}

fn spread_cell(spread: Option<[f64; 3]>) -> String {
    match spread {
        Some([least, middle, most]) => format!("{middle:.2} [{least:.2}, {most:.2}]"),
        None => "–".to_owned(),
    }
}

impl Report {
    /// The whole report as Markdown.
    pub(crate) fn text(&self) -> String {
        let facts = &self.facts;
        let mut text = format!(
            "# Bench of {} at {}\n\n{}\n\n{}\n\n",
            facts.date, facts.revision, facts.versions, facts.machine
        );
        let _ = writeln!(
            text,
            "## Share of a bare write+read loop of the same shape\n\n1.00 is as fast as that loop; {}.\nmemring-redis \
             (the same extension with redis:// nodes) and phpredis stand beside a bare loop of their own on redis-server; memring-embedded has no server, and stands beside memcached's. Values have 100 bytes, 10k ones 10,240; multi is a get of 100 \
             keys on one node and on four; a session is start, two changes, close, with its lock, on a\nconnection of its own or on one that is kept, beside a bare get and set; session-copied is the same on three nodes, beside a\nbare loop that asks all three and writes to all three (php-memcached: one read); set-copied and get-copied are on two nodes with two copies (mode sync), beside a bare loop that writes to both, or reads one. php-memcached sends copies without waiting for an answer.\n",
            facts.method
        );
        let shares = self.rows.iter().map(|row| {
            let mut cells = vec![
                row.name.to_owned(),
                cell(row.micros(0, 0), 2),
                cell(row.micros(0, 1), 2),
            ];
            let shares = (0..self.names.len()).map(|index| row.shares(index));
            cells.extend(shares.map(spread_cell));
            cells.push(row.verdict(&self.names));
            cells
        });
        let mut heads = vec!["row", "bare, µs", "memring, µs"];
        heads.extend(&self.names);
        heads.push("verdict");
        text.push_str(&table(&heads, shares.collect()));

        if !self.apart.is_empty() {
            text.push_str(
                "\n## Copies with the nodes on another CPU, as a multiple of one set there\n\n\
                 Medians of slices of 100 sets, in turns; both nodes share that CPU.\n\n",
            );
            let rows = self.apart.iter().map(Apart::cells).collect();
            text.push_str(&table(&["row", "bare", "memring", "verdict"], rows));
        }
        text.push_str("\n## System calls per operation (strace -f -c)\n\n");
        text.push_str(&self.counts(|row| &row.calls, 1));
        if self.rows.iter().any(|row| !row.instructions.is_empty()) {
            text.push_str("\n## Instructions per operation, PHP's own included (callgrind)\n\n");
            text.push_str(&self.counts(|row| &row.instructions, 0));
        }
        text.push_str("\n## Memory, bytes of resident set\n\n");
        let memory = ["object", "connection"]
            .iter()
            .enumerate()
            .map(|(at, what)| {
                let bytes = self.memory.iter().filter_map(|pair| pair.get(at).cloned());
                std::iter::once(format!("per {what}"))
                    .chain(bytes)
                    .collect()
            });
        let mut heads = vec![""];
        heads.extend(&self.names);
        text.push_str(&table(&heads, memory.collect()));
        text
    }

    fn counts(&self, of: impl Fn(&Row) -> &Vec<Option<f64>>, digits: usize) -> String {
        let mut heads = vec!["row"];
        heads.extend(&self.names);
        let rows = self.rows.iter().map(|row| {
            let counts = of(row).iter().map(|count| cell(*count, digits));
            std::iter::once(row.name.to_owned()).chain(counts).collect()
        });
        table(&heads, rows.collect())
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A Markdown table whose columns line up.
fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![heads.iter().map(|head| (*head).to_owned()).collect()];
    lines.extend(rows);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}
