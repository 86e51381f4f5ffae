//! memring trust: a person says that a pool is new, which no program can know while one of
//! its nodes does not answer.

use crate::host::{Host, name};
use crate::wish::{Asked, Kept, which_pools};
use crate::{Stop, say, tell};
use memring_pool::pool::copies::clock;
use memring_pool::pool::records::{ByHand, Refusal};
use memring_pool::replica::{Standing, State, Survey};
use memring_pool::shared;
use std::process::ExitCode;

/// What --help prints.
pub(crate) const HELP: &str = concat!(
    "\
memring trust [--config FILE] [--list SAVE_PATH] [POOL]

Founds one pool with the nodes that answer, though another does not: for a new pool only. The nodes that
answer are trusted from now on. One that does not joins when it comes back, and what it then has is not
believed: sessions that only it holds count as gone. Refused as soon as any node has a record.

",
    which_pools!(),
    "

Exit code 0 when the pool was founded, 1 when not."
);

/// The command.
///
/// # Errors
/// When it was asked wrongly.
pub(crate) fn main(parser: lexopt::Parser) -> Result<ExitCode, Stop> {
    let asked = Asked::read(parser, &[])?;
    let mut kept = asked.kept()?;
    let kept = match (kept.pop(), kept.is_empty()) {
        (Some(kept), true) => kept,
        _ => {
            return Err(Stop::Usage(
                "memring trust founds one pool at a time. Name it: memring trust POOL".to_owned(),
            ));
        }
    };
    let mut host = Host::new(&kept);
    let by_hand = host.pool.trust(
        &host.record_key,
        &name(),
        clock() / 1000,
        shared::throw(),
        &mut host.call,
    );
    Ok(match by_hand {
        ByHand::Founded { before } => {
            say(&founded(&kept, &before));
            ExitCode::SUCCESS
        }
        ByHand::Refused { before, why } => {
            tell(&format!("memring trust: {}", refused(&kept, &before, why)));
            ExitCode::from(1)
        }
    })
}

fn names(survey: &Survey, state: State) -> String {
    let names: Vec<&str> = survey.all(state).map(|place| survey.name(place)).collect();
    names.join(", ")
}

fn founded(kept: &Kept, before: &Survey) -> String {
    let mut text = format!(
        "{} is founded: {} got a record and is trusted from now on.",
        kept.label,
        names(before, State::Bare)
    );
    let silent = names(before, State::Silent);
    if !silent.is_empty() {
        text.push_str(&format!(
            "\n{silent} does not answer and is noted as absent. When it comes back it joins and gets what the others \
             have (memring tend does it); what only it holds counts as gone."
        ));
    }
    text
}

fn refused(kept: &Kept, before: &Survey, why: Refusal) -> String {
    let label = &kept.label;
    match why {
        Refusal::Silent => {
            let cause = match before.standing(0) {
                Some(Standing::Silent(error)) => error.to_string(),
                _ => "no node is named".to_owned(),
            };
            format!("{label}: no node answers ({cause}). Start one, then call this again")
        }
        Refusal::Exists { place } => {
            let who = before.name(place);
            let remedy = match before.state(place) {
                State::Strange => {
                    "Its record was written by another version of memring; bring this host to that version"
                }
                _ => {
                    "Nodes that lost their memory are mended by memring tend, once all nodes answer"
                }
            };
            format!("{label} is not new: {who} has a record, and nothing was changed. {remedy}")
        }
        Refusal::Again => format!(
            "{label}: a record changed meanwhile, or a node went away. Look with memring status {}, then call this again",
            kept.written
        ),
    }
}
